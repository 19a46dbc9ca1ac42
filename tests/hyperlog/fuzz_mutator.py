"""A seeded mutator: the same seed makes the same inputs on every machine, so a failure is its seed and number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

_ODD_BYTES: Final = bytes(
    [0, 1, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1F, 0x5F, 0x7F, 0x80, 0x9F, 0xBF, 0xC2, 0xF6, 0xFE, 0xFF]
)
_ODD_NUMBERS: Final = [
    0,
    1,
    23,
    24,
    0xFF,
    0x100,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 32,
    (1 << 63) - 1,
    (1 << 64) - 1,
]
_GROWTH_MAX: Final = 4096


class Mutator:
    """Endless variations of `corpus`."""

    def __init__(self, corpus: Sequence[bytes], seed: int) -> None:
        assert corpus
        self._corpus = list(corpus)
        self._chance = random.Random(seed)

    def next(self) -> bytes:
        chance = self._chance
        data = bytearray(chance.choice(self._corpus))
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
            chance.choice(_WAYS)(data, chance, self._corpus)
            del data[len(self._corpus[0]) + _GROWTH_MAX + max(map(len, self._corpus)) :]
        return bytes(data)


def _flip(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _odd_byte(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice(_ODD_BYTES)


def _odd_number(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    width = chance.choice((1, 2, 4, 8))
    number = chance.choice(_ODD_NUMBERS) & ((1 << 8 * width) - 1)
    place = chance.randrange(len(data) + 1)
    data[place : place + width] = number.to_bytes(width, chance.choice(("big", "little")))


def _cut(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _drop(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    place = chance.randrange(len(data) + 1)
    del data[place : place + chance.choice((1, 2, 8, 32))]


def _repeat(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    place = chance.randrange(len(data) + 1)
    data[place:place] = data[place : place + chance.choice((1, 2, 8, 32))] * chance.choice((1, 2, 30))


def _insert(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    place = chance.randrange(len(data) + 1)
    data[place:place] = chance.randbytes(chance.choice((1, 2, 8, 40)))


def _splice(data: bytearray, chance: random.Random, corpus: Sequence[bytes]) -> None:
    other = chance.choice(corpus)
    data[chance.randrange(len(data) + 1) :] = other[chance.randrange(len(other) + 1) :]


_WAYS: Final = (_flip, _flip, _odd_byte, _odd_byte, _odd_number, _cut, _drop, _repeat, _insert, _splice)
