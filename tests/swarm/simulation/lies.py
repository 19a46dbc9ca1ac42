"""How nodes lie. A liar is a whole real node whose streams change what it says, or what it hears, frame by frame.

So a liar goes through handshakes, joins logs and claims things as an honest node does, in whatever way the protocol has
for it, and no lie needs to know more of the protocol than the one message that it changes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from swarm.addresses import PeerAddress, PeerId
from swarm.errors import ConnectionLost
from swarm.network import SESSIONS, NetworkSetup
from swarm.replication.framing import Frame, FrameReader, encode_frame
from swarm.replication.messages import (
    BODY_BYTES_MAX,
    Absent,
    Block,
    Ping,
    Request,
    Type,
    Wanted,
    Why,
    decode_message,
    encode_message,
)
from swarm.testing import MemoryInternet, MemoryNetwork, MemoryStream, Pipe

CUT: Final = b""
"""Instead of a frame: here the stream breaks."""

Change = Callable[[random.Random, Frame], list[bytes]]


def _truth(chance: random.Random, frame: Frame) -> list[bytes]:
    return [encode_frame(frame.type, frame.body)]


@dataclass(frozen=True, slots=True)
class Lie:
    """`crowd`: further streams that it opens with each one, and leaves alone."""

    say: Change = _truth
    hear: Change = _truth
    seconds_per_byte: float = 0.0
    crowd: int = 0
    forks: bool = False
    """It holds the author's key, and appends entries of its own."""
    boasts: bool = False
    """It says that it holds every block, and holds none."""
    is_gone: bool = False
    """It never runs: an address at which nobody answers."""


def _of_blocks(change: Callable[[random.Random, Block], list[bytes]]) -> Change:
    def say(chance: random.Random, frame: Frame) -> list[bytes]:
        if frame.type != Type.BLOCK:
            return _truth(chance, frame)
        block = decode_message(frame)
        assert isinstance(block, Block)
        return change(chance, block)

    return say


def _flip(chance: random.Random, data: bytes) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def _corrupt(chance: random.Random, block: Block) -> list[bytes]:
    return [encode_message(Block(block.number, _flip(chance, block.payload)))]


def _other(chance: random.Random, block: Block) -> list[bytes]:
    return [encode_message(Block(block.number, chance.randbytes(len(block.payload))))]


def _sometimes_corrupt(chance: random.Random, block: Block) -> list[bytes]:
    return _corrupt(chance, block) if chance.random() < 0.1 else [encode_message(block)]


def _oversize(chance: random.Random, block: Block) -> list[bytes]:
    return [encode_message(Block(block.number, block.payload + b"more"))]


def _twice(chance: random.Random, block: Block) -> list[bytes]:
    return 2 * [encode_message(block)]


def _unasked(chance: random.Random, block: Block) -> list[bytes]:
    return [encode_message(Block(block.number + 1_000_000, block.payload))]


def _deny(chance: random.Random, block: Block) -> list[bytes]:
    return [encode_message(Absent(((block.number, chance.choice((Why.NOT_HELD, Why.BUSY, Why.CANCELLED))),)))]


def _withhold(chance: random.Random, block: Block) -> list[bytes]:
    return []


def _cut(chance: random.Random, block: Block) -> list[bytes]:
    frame = encode_message(block)
    return [frame[: chance.randrange(1, len(frame))], CUT]


def _nothing(chance: random.Random, frame: Frame) -> list[bytes]:
    return []


def _without(kind: Type) -> Change:
    return lambda chance, frame: [] if frame.type == kind else _truth(chance, frame)


def _fall_silent(chance: random.Random, frame: Frame) -> list[bytes]:
    return _truth(chance, frame) if frame.type in (Type.HELLO, Type.CHALLENGE, Type.PROOF) else []


def _garble(chance: random.Random, frame: Frame) -> list[bytes]:
    if frame.type == Type.EXCHANGE and chance.random() < 0.5:
        return [encode_frame(frame.type, _flip(chance, bytes(frame.body)))]
    return _truth(chance, frame)


def _replay(chance: random.Random, frame: Frame) -> list[bytes]:
    return _truth(chance, frame) * (1 if frame.type in (Type.HELLO, Type.CHALLENGE) else 2)


def _after_proof(extra: Callable[[random.Random], list[bytes]]) -> Change:
    def say(chance: random.Random, frame: Frame) -> list[bytes]:
        return _truth(chance, frame) + (extra(chance) if frame.type == Type.PROOF else [])

    return say


def _junk(chance: random.Random) -> list[bytes]:
    kind = chance.choice((*Type, 200, 255))
    return [encode_frame(kind, chance.randbytes(chance.randrange(min(BODY_BYTES_MAX.get(kind, 1000), 1000))))]


def _too_long(chance: random.Random) -> list[bytes]:
    kind = chance.choice(list(Type))
    return [encode_frame(kind, bytes(BODY_BYTES_MAX[kind] + 1))[:1000]]


def _flood(chance: random.Random) -> list[bytes]:
    wanted = [Wanted(number, chance.randbytes(32), 1000) for number in range(64)]  # type: ignore[arg-type]
    return [
        encode_message(chance.choice((Ping(number), Request((wanted[number % 64],)))))
        for number in range(chance.choice((50, 300)))
    ]


LIES: Final[dict[str, Lie]] = {
    "corrupt": Lie(_of_blocks(_corrupt)),
    "other": Lie(_of_blocks(_other)),
    "sometimes": Lie(_of_blocks(_sometimes_corrupt)),
    "oversize": Lie(_of_blocks(_oversize)),
    "twice": Lie(_of_blocks(_twice)),
    "unasked": Lie(_of_blocks(_unasked)),
    "deny": Lie(_of_blocks(_deny)),
    "withhold": Lie(_of_blocks(_withhold)),
    "cut": Lie(_of_blocks(_cut)),
    "slow": Lie(seconds_per_byte=0.02),
    "silent": Lie(_fall_silent),
    "mute": Lie(_nothing),
    "deaf": Lie(hear=_without(Type.EXCHANGE)),
    "stale": Lie(_without(Type.EXCHANGE)),
    "garble": Lie(_garble),
    "replay": Lie(_replay),
    "junk": Lie(_after_proof(_junk)),
    "long": Lie(_after_proof(_too_long)),
    "flood": Lie(_after_proof(_flood), hear=_without(Type.ABSENT)),
    "crowd": Lie(crowd=20),
    "boast": Lie(boasts=True),
    "fork": Lie(forks=True),
    "gone": Lie(is_gone=True),
}


class LyingStream(MemoryStream):
    """A stream whose owner is honest and whose words are not."""

    def __init__(self, remote: PeerId, incoming: Pipe, outgoing: Pipe, lie: Lie, chance: random.Random) -> None:
        super().__init__(remote, incoming, outgoing)
        self._lie = lie
        self._chance = chance
        self._said = FrameReader(BODY_BYTES_MAX)
        self._heard = FrameReader(BODY_BYTES_MAX)

    async def receive_some(self) -> bytes:
        while data := await super().receive_some():
            heard = [part for frame in self._heard.feed(data) for part in self._lie.hear(self._chance, frame)]
            if heard:
                return b"".join(heard)
        return b""

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for frame in self._said.feed(data):
            for part in self._lie.say(self._chance, frame):
                if part == CUT:
                    self.break_()
                    raise ConnectionLost("cut on purpose")
                await self._send(part)

    async def _send(self, part: bytes) -> None:
        if not self._lie.seconds_per_byte:
            await super().send_all(part)
            return
        for start in range(0, len(part), 50):
            piece = part[start : start + 50]
            await super().send_all(piece)
            await trio.sleep(len(piece) * self._lie.seconds_per_byte)


class LyingNetwork(MemoryNetwork):
    """The network of a liar."""

    def __init__(self, internet: MemoryInternet, setup: NetworkSetup, lie: Lie, chance: random.Random) -> None:
        super().__init__(internet, setup)
        self._lie = lie
        self._chance = chance

    async def open_stream(self, address: PeerAddress, protocol: str = SESSIONS) -> MemoryStream:
        for _ in range(self._lie.crowd):
            await super().open_stream(address)
        return await super().open_stream(address, protocol)

    def make_stream(
        self, remote: PeerId, incoming: Pipe, outgoing: Pipe, protocol: str, *, is_inbound: bool
    ) -> MemoryStream:
        if protocol != SESSIONS:
            return super().make_stream(remote, incoming, outgoing, protocol, is_inbound=is_inbound)
        return LyingStream(remote, incoming, outgoing, self._lie, self._chance)
