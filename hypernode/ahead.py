"""Fetching what nobody waits for yet: traced blocks before a start asks for them, all the rest for who reads it all.

Reads go first everywhere (`Lane`), so nothing here slows one down by more than what is on the wire already. It ends
with whoever started it: a boot's when its container stops, a completion when the image's blocks are to go.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence, Set
from contextlib import asynccontextmanager, suppress
from itertools import chain, islice
from typing import Final

import trio

from hyperlog.errors import HyperError
from hyperlog.ids import BlockId
from hyperlog.lanes import Lane
from hypernode.limits import AHEAD_FETCHES, COMPLETE_RETRY_SECONDS, WATCH_SECONDS
from hypernode.pace import Pace
from images.errors import TraceCorrupt
from images.hot import TracedBlob
from images.ingest import StoredBlock
from images.limits import GRANULE_BYTES
from images.manifest import Block, Manifest
from images.manifest_store import ManifestRef
from images.source import StoredSource
from images.trace import Trace, check_fits

_log: Final = logging.getLogger("hypernode.ahead")


async def fetch_ahead(
    source: StoredSource, wanted: Iterator[StoredBlock], lane: Lane, *, bytes_per_second: float | None = None
) -> bool:
    """Bring blocks here in about this order; whether all came. The first failure, or a full disk, ends it quietly.

    With a rate, what is fetched stays below it over any second or so.
    """
    unkept = source.statistics().unkept
    start = trio.current_time()
    moved = 0
    is_whole = True

    first = list(islice(wanted, AHEAD_FETCHES))
    queue = chain(first, wanted)

    async def work() -> None:
        nonlocal moved, is_whole
        for block in queue:
            if source.has_nowait(block.id):
                continue
            if bytes_per_second is not None:
                moved += block.stored_bytes
                await trio.sleep_until(start + moved / bytes_per_second)
            try:
                await source.get(block.id, block.stored_bytes, lane=lane)
            except HyperError as error:
                _log.info("fetching ahead ended: %s", error.message)
                is_whole = False
            if not is_whole or source.statistics().unkept > unkept:
                is_whole = False
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in first:  # no more tasks than blocks: starting one takes its time too
            nursery.start_soon(work)
    return is_whole


def _blocks(manifest: Manifest, numbers: Iterable[int]) -> Iterator[StoredBlock]:
    for number in numbers:
        block = manifest.block(number)
        yield StoredBlock(block.id, block.stored_bytes)


def blocks_of(manifest: Manifest, granules: Iterable[int]) -> Iterator[StoredBlock]:
    """The blocks of the image that hold these granules of its blob space, each once, in their order."""
    starts = manifest.structure.block_starts
    return _blocks(manifest, dict.fromkeys(bisect_right(starts, granule) - 1 for granule in granules))


def that_came(manifest: Manifest, granules: Iterable[int], is_here: Callable[[BlockId], bool]) -> set[int]:
    """Those of `granules` whose blocks are here."""
    starts = manifest.structure.block_starts
    numbers = {granule: bisect_right(starts, granule) - 1 for granule in granules}
    here = {number for number in set(numbers.values()) if is_here(manifest.block(number).id)}
    return {granule for granule, number in numbers.items() if number in here}


class Start:
    """What goes on beside one boot: prefetching its trace, and streaming once it reads everything."""

    def __init__(self, nursery: trio.Nursery, bytes_per_second: float | None) -> None:
        self.nursery = nursery
        self._rate = bytes_per_second
        self._prefetching = trio.CancelScope()
        self._missed: dict[int, int] = {}
        self.trace: Trace | None = None
        self._is_foretold = False
        self._packed: Sequence[Trace] = ()
        self._blob: TracedBlob | None = None
        self.is_sparse = False
        """Whether a trace tells what will be read, and what lies beside that is not here: reading ahead asks for it."""
        self.expected: set[int] = set()
        """Granules that the image's own blocks are fetched for because a trace names them."""

    @property
    def missed_bytes(self) -> int:
        """Raw bytes of the image's blocks that somebody had to wait for, each block once."""
        return sum(self._missed.values())

    def prefetch(
        self, trace: Trace | None, source: StoredSource, *, is_foretold: bool = False, packed: Sequence[Trace] = ()
    ) -> None:
        """As soon as the version is known: to fetch a hot blob needs no manifest.

        `is_foretold`: it is of this command, or of one that starts the same way; else it tells of the beginning only.

        `packed`: whose hot blobs are here already, be they of other commands.
        """
        self.trace, self._is_foretold, self._packed = trace, is_foretold, packed
        if trace is not None and trace.hot:
            self._fetch(source, trace.hot)

    def attach(self, blob: TracedBlob, manifest: Manifest, source: StoredSource) -> None:
        """Once the manifest is here: read through the hot blob, watch what is missed."""
        self.nursery.start_soon(self._watch, blob, manifest, source)
        self._blob = blob
        for packed in self._packed:
            self._read_through(packed, blob, manifest, source)
        if self.trace is None:
            return
        try:
            check_fits(self.trace, blob.size)
        except TraceCorrupt as error:
            _log.warning("%s: it is not used", error.message)
            self._prefetching.cancel()
            self.trace, self.is_sparse = None, False
            return
        if self.trace.hot:
            self._read_through(self.trace, blob, manifest, source)
        else:
            self._fetch_own(self.trace, manifest, source)

    def _read_through(self, trace: Trace, blob: TracedBlob, manifest: Manifest, source: StoredSource) -> None:
        with suppress(TraceCorrupt):
            blob.add(trace)
            beginnings = blocks_of(manifest, (run.first for run in trace.runs))
            self.is_sparse = self.is_sparse or any(not source.has_nowait(block.id) for block in beginnings)

    def follow(self, trace: Trace, manifest: Manifest, source: StoredSource, *, is_foretold: bool) -> None:
        """Use a trace that was found late, and fits the manifest."""
        self.trace, self._is_foretold = trace, is_foretold
        self._fetch_own(trace, manifest, source)

    def _fetch_own(self, trace: Trace, manifest: Manifest, source: StoredSource) -> None:
        """The blocks of the image that hold what the trace names, as far as no hot blob has it."""
        wanted = [granule for granule in trace.granules() if self._blob is None or not self._blob.is_packed(granule)]
        self.expected |= set(wanted) - that_came(manifest, wanted, source.has_nowait)
        self._fetch(source, list(blocks_of(manifest, wanted)))

    def _fetch(self, source: StoredSource, blocks: Sequence[StoredBlock]) -> None:
        missing = [block for block in blocks if not source.has_nowait(block.id)]
        if missing:
            self.is_sparse = self.is_sparse or self._is_foretold
            self.nursery.start_soon(self._prefetch, source, iter(missing))

    async def _prefetch(self, source: StoredSource, wanted: Iterator[StoredBlock]) -> None:
        with self._prefetching:
            await fetch_ahead(source, wanted, Lane.PREFETCH, bytes_per_second=self._rate)

    async def _watch(self, blob: TracedBlob, manifest: Manifest, source: StoredSource) -> None:
        """Fetch ahead of who waits for blocks.

        What is read without waiting is watched too from a miss on, until there was none for a while: it says what is
        near to what will be. (Who watches has all reads come to this process.)
        """
        starts = manifest.structure.block_starts
        pace = Pace(manifest.block_count, foretold=self.trace is not None and self._is_foretold)
        last_miss = trio.Event()

        def missed(block: Block) -> None:
            self._missed[block.offset] = block.raw_bytes
            if not pace.is_done:
                blob.on_read.add(read)
            last_miss.set()
            fetch(pace.missed(bisect_left(starts, block.offset // GRANULE_BYTES)))

        def read(offset: int, size: int) -> None:
            first = bisect_right(starts, offset // GRANULE_BYTES) - 1
            for number in range(first, bisect_left(starts, -(-(offset + size) // GRANULE_BYTES))):
                if self.trace is None or source.has_nowait(manifest.block(number).id):  # else it is in the hot blob
                    fetch(pace.read(number))

        def fetch(numbers: Sequence[int]) -> None:
            if numbers:
                self.nursery.start_soon(fetch_ahead, source, _blocks(manifest, numbers), Lane.PREFETCH)
                if pace.is_done:
                    _log.info("much of the image is being read: the rest is streamed")
                    blob.on_read.discard(read)

        blob.on_miss.add(missed)
        try:
            while True:
                await last_miss.wait()
                last_miss = trio.Event()
                with trio.move_on_after(WATCH_SECONDS) as quiet:
                    await last_miss.wait()
                if quiet.cancelled_caught:
                    blob.on_read.discard(read)
        finally:
            blob.on_miss.discard(missed)
            blob.on_read.discard(read)


@asynccontextmanager
async def beside_a_boot(bytes_per_second: float | None) -> AsyncIterator[Start]:
    """What goes on beside a boot, or a view, until this is left."""
    async with trio.open_nursery() as nursery:
        yield Start(nursery, bytes_per_second)
        nursery.cancel_scope.cancel()


class Completions:
    """Images of which all is being fetched, one task each, at idle priority."""

    def __init__(self) -> None:
        self._running: dict[ManifestRef, tuple[trio.CancelScope, trio.Event]] = {}

    async def run(self, reference: ManifestRef, manifest: Manifest, source: StoredSource) -> None:
        """Until all of the image is here, the disk is full, or `cancel`; at once when that is going on already."""
        if reference in self._running:
            return
        ended = trio.Event()
        with trio.CancelScope() as scope:
            self._running[reference] = scope, ended
            try:
                unkept = source.statistics().unkept
                while not await fetch_ahead(source, _blocks(manifest, range(manifest.block_count)), Lane.BACKGROUND):
                    if source.statistics().unkept > unkept:
                        _log.warning("the disk is full: the image is not completed")
                        return
                    await trio.sleep(COMPLETE_RETRY_SECONDS)
            finally:
                del self._running[reference]
                ended.set()

    async def cancel(self, references: Set[ManifestRef]) -> bool:
        """End those of `references`; whether there were any. Returns when nothing of them is fetched any more."""
        ending = [self._running[reference] for reference in references if reference in self._running]
        for scope, _ in ending:
            scope.cancel()
        for _, ended in ending:
            await ended.wait()
        return bool(ending)
