"""What a home remembers of starts: so many, so much, the longest unused first to go."""

from __future__ import annotations

from dataclasses import dataclass

from hyperlog.ids import ManifestId
from hyperlog.store import MemoryStore, Namespace
from hypernode.limits import PRIVATE_TRACES_BYTES_MAX, PRIVATE_TRACES_MAX
from hypernode.private_traces import PrivateTraces
from images.trace import Touched, Trace, runs_of


@dataclass
class _Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def _trace(number: int, runs: tuple[Touched, ...] = (Touched(1, 1),)) -> Trace:
    return Trace(ManifestId(bytes(32)), number.to_bytes(32, "big"), "x", runs)


def _book() -> tuple[PrivateTraces, Namespace, _Clock]:
    namespace, clock = Namespace(MemoryStore(), b"m"), _Clock()
    return PrivateTraces(namespace, clock), namespace, clock


def test_what_was_kept_is_found_and_forgotten() -> None:
    book, _, _ = _book()
    first, second = _trace(1), _trace(2)
    book.keep(first)
    book.keep(second)
    assert book.get(first.manifest, first.command) == first
    assert [kept.trace for kept in book.all()] == [second, first]
    changed = _trace(1, runs_of([4, 5]))
    book.keep(changed)
    assert book.get(first.manifest, first.command) == changed
    book.forget([changed])
    assert book.get(first.manifest, first.command) is None
    assert [kept.trace for kept in book.all()] == [second]


def test_use_is_noted_once_a_day() -> None:
    book, _, clock = _book()
    book.keep(_trace(1))
    noted = book.all()[0].used
    book.keep(_trace(1))
    assert book.all()[0].used == noted
    clock.now += 90_000
    book.keep(_trace(1))
    assert book.all()[0].used > noted


def test_there_are_so_many() -> None:
    book, _, _ = _book()
    for number in range(PRIVATE_TRACES_MAX + 5):
        book.keep(_trace(number))
    kept = {int.from_bytes(each.trace.command, "big") for each in book.all()}
    assert kept == set(range(5, PRIVATE_TRACES_MAX + 5))


def test_there_is_so_much() -> None:
    book, _, _ = _book()
    large = tuple(Touched(2 * granule, 1) for granule in range(1 << 14))
    count = 3 + PRIVATE_TRACES_BYTES_MAX // len(_trace(0, large).encode())
    for number in range(count):
        book.keep(_trace(number, large))
    kept = book.all()
    assert sum(len(each.trace.encode()) for each in kept) <= PRIVATE_TRACES_BYTES_MAX
    assert kept[0].trace.command == (count - 1).to_bytes(32, "big")
    assert len(kept) == count - 3


def test_what_cannot_be_read_is_not_there() -> None:
    book, namespace, _ = _book()
    book.keep(_trace(1))
    for key, value in list(namespace.items(b"trace")):
        namespace.put_many([(key, value[:-3])])
    assert book.get(_trace(1).manifest, _trace(1).command) is None
    assert book.all() == []
    book.keep(_trace(1))
    assert len(book.all()) == 1
