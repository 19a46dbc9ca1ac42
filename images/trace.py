"""Boot traces: which granules a start touches, in which order; and the hot blob that holds just those.

A trace belongs to one manifest and one command. It is advice (fetch these first), so any writer of the log who may
write traces may publish one. With a *hot blob* the same granules also lie packed in that order in blocks of their own:
a start then moves a few densely compressed blocks instead of hundreds of which it needs a tenth, while the layout of
the image, and what its versions share, stays as it is. A hot blob is content: it counts only from those who answer for
the version's content anyway (`traces_of`).

A granule's *age* counts the recorded boots since one touched it. Those that nobody touches any more fade out.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from hyperlog.encoding import Encodable, Value, decode, encode
from hyperlog.entry import Entry, Kind
from hyperlog.errors import Corrupt
from hyperlog.hashing import blake3_256
from hyperlog.ids import BlockId, EntryId, ManifestId
from hyperlog.limits import ENTRY_VALUE_BYTES_MAX
from hyperlog.log import Log
from images.columns import Column, Width, column, pack, unpack
from images.errors import ImageTooNew, ManifestCorrupt, TraceCorrupt
from images.ingest import StoredBlock
from images.limits import (
    BLOB_GRANULES_MAX,
    BLOCK_GRANULES_MAX,
    BLOCK_STORED_MAX,
    GRANULE_BYTES,
    TRACE_AGE_MAX,
    TRACE_GRANULES_MAX,
    TRACE_PROGRAM_BYTES_MAX,
)
from images.manifest import Block
from images.program_start import COMMON_GRANULES, is_interpreter, start_digest

FORMAT: Final = 1
_KIND_KEY: Final = "image_trace"
_ID_BYTES: Final = 32
_WIDTHS: Final[dict[str, Width]] = {"firsts": "I", "counts": "H", "ages": "B", "block_stored": "I"}
_KEYS: Final = frozenset((_KIND_KEY, "manifest", "command", "program", "start", "block_ids", *_WIDTHS))


class Touched(NamedTuple):
    """`length` consecutive granules of blob space from `first` on, first touched in this order."""

    first: int
    length: int
    age: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """What starting one command of one manifest touches. `hot`: the blocks that hold those granules, or nothing.

    `command` is the digest of the whole argument vector, which may hold secrets; `program` its first word; `start`
    what is the same of commands that start the same way (program_start.py), zeros if nobody knows.
    """

    manifest: ManifestId
    command: bytes
    program: str
    runs: tuple[Touched, ...]
    hot: tuple[StoredBlock, ...] = ()
    start: bytes = bytes(_ID_BYTES)

    @property
    def granule_count(self) -> int:
        return sum(run.length for run in self.runs)

    @property
    def hot_bytes(self) -> int:
        """Stored bytes of the hot blob."""
        return sum(block.stored_bytes for block in self.hot)

    @property
    def hot_id(self) -> bytes:
        """What the hot blob's list of blocks is known by among peers."""
        return blake3_256(b"".join(block.id for block in self.hot))

    def granules(self) -> Iterator[int]:
        """Every granule, in the order of first touch."""
        for run in self.runs:
            yield from range(run.first, run.first + run.length)

    def head(self, granules: int) -> Trace:
        """The trace of what is touched first, that many granules at most: a multiple of those of a block."""
        assert granules % BLOCK_GRANULES_MAX == 0
        runs, room = [], granules
        for run in self.runs:
            if room <= 0:
                break
            runs.append(run._replace(length=min(run.length, room)))
            room -= run.length
        return replace(self, runs=tuple(runs), hot=self.hot[: granules // BLOCK_GRANULES_MAX])

    def encode(self) -> bytes:
        """The entry's value, canonical."""
        record: dict[str, Encodable] = {
            _KIND_KEY: FORMAT,
            "manifest": self.manifest,
            "command": self.command,
            "program": self.program,
            "start": self.start,
            "firsts": pack(column("I", (run.first for run in self.runs))),
            "counts": pack(column("H", (run.length for run in self.runs))),
            "ages": pack(column("B", (run.age for run in self.runs))),
            "block_ids": b"".join(block.id for block in self.hot),
            "block_stored": pack(column("I", (block.stored_bytes for block in self.hot))),
        }
        return encode(record)


class HotSpace:
    """The hot blob of a trace as a space of blocks, as a manifest has one. `places`: granule → where it is in it."""

    def __init__(self, trace: Trace) -> None:
        assert trace.hot
        self.blob_bytes: int = trace.granule_count * GRANULE_BYTES
        self.places = {granule: place for place, granule in enumerate(trace.granules())}
        self._runs = trace.runs
        self._hot = trace.hot

    def stretches(self) -> list[tuple[int, int, int]]:
        """Which bytes of the image's blob it holds, in order: (byte, bytes, where in this space)."""
        found, place = [], 0
        for run in self._runs:
            found.append((run.first * GRANULE_BYTES, run.length * GRANULE_BYTES, place * GRANULE_BYTES))
            place += run.length
        return sorted(found)

    def block(self, number: int) -> Block:
        """Block `number` of it."""
        block, full = self._hot[number], BLOCK_GRANULES_MAX * GRANULE_BYTES
        return Block(block.id, block.stored_bytes, number * full, min(full, self.blob_bytes - number * full))

    @property
    def block_ids(self) -> bytes:
        """Of its blocks in order, one after the other."""
        return b"".join(block.id for block in self._hot)

    def block_offsets(self) -> array[int]:
        """Of its blocks, in bytes."""
        return array("Q", range(0, self.blob_bytes, BLOCK_GRANULES_MAX * GRANULE_BYTES))


def command_digest(argv: Sequence[str]) -> bytes:
    """What a command is known by in a trace."""
    return blake3_256(encode([argument.encode("utf-8", "surrogateescape") for argument in argv]))


def program_name(argv: Sequence[str]) -> str:
    """The first word of a command as a trace shows it."""
    return argv[0].encode("utf-8", "replace").decode()[: TRACE_PROGRAM_BYTES_MAX // 4] if argv else ""


def runs_of(granules: Iterable[int], age: int = 0) -> tuple[Touched, ...]:
    """Granules in an order, as runs."""
    return joined((granule, age) for granule in granules)


def joined(granules: Iterable[tuple[int, int]]) -> tuple[Touched, ...]:
    """Granules with their ages in an order, as runs."""
    runs: list[Touched] = []
    for granule, age in granules:
        last = runs[-1] if runs else None
        if last and last.age == age and granule == last.first + last.length and last.length < BLOCK_GRANULES_MAX:
            runs[-1] = Touched(last.first, last.length + 1, age)
        else:
            runs.append(Touched(granule, 1, age))
    return tuple(runs)


def merge(earlier: Trace | None, granules: Sequence[int]) -> tuple[Touched, ...]:
    """The runs of a new boot that touched `granules`, and behind them what earlier ones did and this one did not.

    What was missed in more than `TRACE_AGE_MAX` boots in a row is left out, and what goes beyond the largest trace.
    """
    seen = dict.fromkeys(granules)
    runs = list(runs_of(seen))
    by_age: dict[int, list[int]] = {}
    for run in () if earlier is None else earlier.runs:
        if run.age < TRACE_AGE_MAX:
            unseen = (granule for granule in range(run.first, run.first + run.length) if granule not in seen)
            by_age.setdefault(run.age + 1, []).extend(unseen)
    for age, missed in sorted(by_age.items()):
        runs += runs_of(missed, age)
    return _capped(runs)


def learn(earlier: Trace | None, read: Iterable[int], unread: Set[int]) -> tuple[Touched, ...]:
    """The runs of `earlier` after a boot of which not all reads were seen, since it found something here already.

    It `read` some granules in this order: what is new of them comes last. Of what was fetched for it, it left some
    `unread`: they are a boot older, and left out once they were missed in more than `TRACE_AGE_MAX` boots in a row.
    """
    seen = dict.fromkeys(read)
    known: dict[int, int] = {}
    for run in () if earlier is None else earlier.runs:
        for granule in range(run.first, run.first + run.length):
            known[granule] = 0 if granule in seen else run.age + (granule in unread)
    told = [(granule, age) for granule, age in known.items() if age <= TRACE_AGE_MAX]
    return _capped(joined([*told, *((granule, 0) for granule in seen if granule not in known)]))


def _capped(runs: Iterable[Touched]) -> tuple[Touched, ...]:
    kept: list[Touched] = []
    room = TRACE_GRANULES_MAX
    for run in runs:
        if room <= 0:
            break
        kept.append(Touched(run.first, min(run.length, room), run.age))
        room -= run.length
    return tuple(kept)


def decode_trace(value: bytes) -> Trace | None:
    """The trace that an entry's value spells; None when it claims to be none. Raises `TraceCorrupt`, `ImageTooNew`."""
    if _KIND_KEY.encode() not in value:
        return None
    try:
        record = decode(value, bytes_max=ENTRY_VALUE_BYTES_MAX)
    except Corrupt as error:
        raise TraceCorrupt(f"not a boot trace: {error.message}") from None
    if not isinstance(record, dict) or _KIND_KEY not in list(record):
        return None
    fields: Mapping[object, Value] = dict(record.items())
    if fields[_KIND_KEY] != FORMAT or isinstance(fields[_KIND_KEY], bool) or fields.keys() - _KEYS:
        raise ImageTooNew("the boot trace has a format or parts unknown here", "it needs a newer hypernode")
    if _KEYS - fields.keys():
        raise TraceCorrupt("a boot trace without all of its parts")
    program = fields["program"]
    if not isinstance(program, str) or len(program.encode()) > TRACE_PROGRAM_BYTES_MAX or not _is_plain(program):
        raise TraceCorrupt("the program of a boot trace is malformed")
    manifest, command, start = (_octets(fields, key) for key in ("manifest", "command", "start"))
    if any(len(digest) != _ID_BYTES for digest in (manifest, command, start)):
        raise TraceCorrupt("an id of odd length in a boot trace")
    columns = {key: _column(fields, key, width) for key, width in _WIDTHS.items()}
    runs = _runs(columns)
    hot = _hot(_octets(fields, "block_ids"), columns["block_stored"], sum(run.length for run in runs))
    return Trace(ManifestId(manifest), command, program, runs, hot, start)


def _is_plain(text: str) -> bool:
    return not text or text.isprintable()


def _octets(fields: Mapping[object, Value], key: str) -> bytes:
    value = fields[key]
    if not isinstance(value, bytes):
        raise TraceCorrupt(f"{key} of a boot trace is not bytes")
    return value


def _column(fields: Mapping[object, Value], key: str, width: Width) -> Column:
    try:
        return unpack(width, _octets(fields, key), key)
    except ManifestCorrupt:
        raise TraceCorrupt(f"column {key} of a boot trace is cut short") from None


def _runs(columns: Mapping[str, Column]) -> tuple[Touched, ...]:
    firsts, counts, ages = columns["firsts"], columns["counts"], columns["ages"]
    if not len(firsts) == len(counts) == len(ages):
        raise TraceCorrupt("the columns of a boot trace differ in length")
    total = sum(counts)
    if not firsts or total > TRACE_GRANULES_MAX or min(counts) < 1 or max(counts) > BLOCK_GRANULES_MAX:
        raise TraceCorrupt("a boot trace of too much, or of nothing")
    if max(ages) > TRACE_AGE_MAX:
        raise TraceCorrupt("a boot trace with what no boot touched for long")
    runs = tuple(map(Touched, firsts, counts, ages))
    touched = {granule for run in runs for granule in range(run.first, run.first + run.length)}
    if len(touched) != total:
        raise TraceCorrupt("a boot trace names a granule twice")
    if max(touched) >= BLOB_GRANULES_MAX:
        raise TraceCorrupt("a boot trace names a granule beyond any image")
    return runs


def _hot(ids: bytes, stored: Column, granules: int) -> tuple[StoredBlock, ...]:
    wanted = -(-granules // BLOCK_GRANULES_MAX)
    if len(ids) != len(stored) * _ID_BYTES or len(stored) not in (0, wanted):
        raise TraceCorrupt("the hot blob of a boot trace does not fit its granules")
    if stored and not 0 < min(stored) <= max(stored) <= BLOCK_STORED_MAX:
        raise TraceCorrupt("a block of a hot blob has an impossible size")
    return tuple(
        StoredBlock(BlockId(ids[number * _ID_BYTES : (number + 1) * _ID_BYTES]), size)
        for number, size in enumerate(stored)
    )


def check_fits(trace: Trace, blob_bytes: int) -> None:
    """Whether every granule of `trace` lies within a blob space of so many bytes. Raises `TraceCorrupt`."""
    end = max(run.first + run.length for run in trace.runs)
    if end * GRANULE_BYTES > blob_bytes:
        raise TraceCorrupt("a boot trace names a granule beyond its image")


@dataclass(frozen=True, slots=True)
class Traces:
    """The traces that a log holds for one version, one for each command, the newest."""

    by_command: Mapping[bytes, Trace]
    refused: int = 0
    """Entries that claim to be a trace of something and are malformed."""

    def choose(self, argv: Sequence[str]) -> Trace | None:
        """The trace for a command: its own, else one that is alike, else none."""
        own = self.by_command.get(command_digest(argv))
        return self.alike(argv) if own is None else own

    def alike(self, argv: Sequence[str]) -> Trace | None:
        """The newest that starts the same way; else of an interpreter's newest, what all its starts read."""
        start, program = start_digest(argv), program_name(argv)
        newest_first = list(self.by_command.values())[::-1]
        for trace in newest_first:
            if trace.start == start:
                return trace
        if not is_interpreter(program):
            return None
        found = next((trace for trace in newest_first if trace.program == program), None)
        return None if found is None else found.head(COMMON_GRANULES)


NO_TRACES: Final = Traces({})


def traces_of(log: Log, version: EntryId, manifest: ManifestId) -> Traces:
    """The valid traces of the version that entry `version` publishes, malformed ones passed over.

    Of several for one command the last to arrive counts; but one with a hot blob goes before those without. A hot blob
    counts if its entry is of the kind of versions, and written by who wrote the version, or by the log's owner: else a
    writer who may only give advice, or only publish versions of their own, could change what a version contains.
    """
    trusted = {log.get(version).writer, log.owner}
    found: dict[bytes, Trace] = {}
    refused = 0
    for _, entry in log.changes():
        try:
            trace = _published(entry)
        except (TraceCorrupt, ImageTooNew):
            refused += 1
            continue
        if trace is None or trace.manifest != manifest:
            continue
        if trace.hot and entry.writer not in trusted:
            trace = replace(trace, hot=())
        before = found.get(trace.command)
        if before is None or trace.hot or not before.hot:
            found.pop(trace.command, None)  # the newest last
            found[trace.command] = trace
    return Traces(found, refused)


def hot_traces(log: Log) -> Iterator[Trace]:
    """Every trace with a hot blob that a log tells of, whoever wrote it."""
    for _, entry in log.changes():
        try:
            trace = _published(entry)
        except (TraceCorrupt, ImageTooNew):
            continue
        if trace is not None and trace.hot:
            yield trace


def hot_blocks(log: Log) -> dict[ManifestId, dict[BlockId, int]]:
    """The stored bytes of each block of hot blobs that a log tells of, by manifest: what belongs to its versions."""
    found: dict[ManifestId, dict[BlockId, int]] = {}
    for trace in hot_traces(log):
        found.setdefault(trace.manifest, {}).update(trace.hot)
    return found


def _published(entry: Entry) -> Trace | None:
    if entry.kind not in (Kind.TRACE, Kind.VALUE):
        return None
    trace = decode_trace(entry.value)
    if trace is not None and trace.hot and entry.kind is not Kind.VALUE:
        raise TraceCorrupt("a hot blob where only advice may stand")
    return trace
