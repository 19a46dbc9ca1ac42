"""A daemon's standing orders at work: one task for each, which follows its log and fetches what is missing.

    news of the log ──▶ which versions ──▶ their manifests ──▶ what fits the budget ──▶ written down ──▶ fetched

An order that has been met waits for news: entries come as peers announce them. What it lets go of (an older version
when a newer one is here) is removed from the disk, unless something else keeps or uses it. Everything is fetched at
idle priority, behind whatever a container waits for. Nothing here ends the node: what goes wrong is told as the order's
state, and tried again.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from hyperlog.blocks import BlockStore
from hyperlog.errors import Conflict, HyperError, NotFound, StoreFull, Unavailable
from hyperlog.ids import BlockId, EntryId
from hyperlog.lanes import Lane
from hyperlog.log import Log
from hypernode.ahead import fetch_ahead
from hypernode.limits import (
    SEED_RETRY_SECONDS,
    SEED_RETRY_SECONDS_MAX,
    SEED_REVIEW_SECONDS,
    SEEDS_FETCHING_MAX,
)
from hypernode.node import Node
from hypernode.opening import fetch_manifest
from hypernode.operations.keeping import collect_down_to, drop_versions
from hypernode.seeds import Seed, fitting, let_go, wanted
from hypernode.tables import tell_table
from images.catalog import Catalog, Published
from images.ingest import StoredBlock
from images.reach import reached
from images.source import StoredSource
from images.trace import hot_blocks

_log: Final = logging.getLogger("hypernode.seeding")

QUEUED: Final = "queued"
FETCHING: Final = "fetching"
COMPLETE: Final = "complete"
DONE: Final = "done"
"""Complete, and served no more: peers were given what its ratio asks for. Told, not kept in `Progress`."""
FAILED: Final = "failed"

Sizes = dict[BlockId, int]


@dataclass(slots=True)
class Progress:
    """How far an order is. `newest`: the number of its newest version."""

    state: str = QUEUED
    detail: str = "waiting for its turn"
    newest: int | None = None
    versions: int = 0
    """That it keeps whole."""
    total_bytes: int = 0
    here_bytes: int = 0
    blocks: Sizes = field(default_factory=dict)
    """All that it wants, while it is not here."""

    def look(self, blocks: BlockStore) -> None:
        """Count anew what is here."""
        if self.blocks:
            self.here_bytes = sum(size for block, size in self.blocks.items() if blocks.has(block))


@dataclass(frozen=True, slots=True)
class _Order:
    """A seed as one task carries it out; changed, it is another order. `progress` may be one that nobody asks for any
    more: a task that was cancelled goes on to its next checkpoint."""

    seed: Seed
    progress: Progress = field(default_factory=Progress)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class _Bell:
    """Rung from whichever thread commits to the log."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._rung = trio.Event()

    def ring(self, *_: object) -> None:
        try:
            self._token.run_sync_soon(self._set, idempotent=True)
        except trio.RunFinishedError:
            return

    def _set(self) -> None:
        self._rung.set()

    async def wait(self) -> None:
        await self._rung.wait()

    def clear(self) -> None:
        self._rung = trio.Event()


class Seeding:
    """The orders of a daemon."""

    def __init__(self, node: Node, nursery: trio.Nursery) -> None:
        self._node = node
        self._nursery = nursery
        self._budget = node.config.budget
        self._turns = trio.CapacityLimiter(SEEDS_FETCHING_MAX)
        self._orders: dict[str, _Order] = {}
        self._moved = trio.Event()

    def progress(self, identifier: str) -> Progress:
        found = self._orders.get(identifier)
        return Progress() if found is None else found.progress

    async def wait_moved(self) -> None:
        """Until the state of some order is another."""
        await self._moved.wait()

    def start(self, seed: Seed) -> None:
        """Begin with an order, or begin anew with one that was changed."""
        self.stop(seed.id)
        self._orders[seed.id] = order = _Order(seed)
        self._nursery.start_soon(self._run, order)

    def stop(self, identifier: str) -> None:
        order = self._orders.pop(identifier, None)
        if order is not None:
            order.scope.cancel()

    async def _run(self, order: _Order) -> None:
        with order.scope:
            seed = order.seed
            log = self._node.repository.logs.add_remote(seed.key)
            self._node.join(seed.key, seed.peers)
            bell = _Bell()
            unsubscribe = log.subscribe(bell.ring)
            try:
                await self._follow(order, log, bell)
            finally:
                unsubscribe()

    async def _follow(self, order: _Order, log: Log, bell: _Bell) -> None:
        seed, progress = order.seed, order.progress
        pause = SEED_RETRY_SECONDS
        while True:
            bell.clear()
            try:
                await self._meet(order, log)
                wait, pause = SEED_REVIEW_SECONDS, SEED_RETRY_SECONDS
            except HyperError as error:
                _log.info("seeding %s: %s", seed.link, error.message)
                state = FAILED if isinstance(error, NotFound | StoreFull) else progress.state
                self._tell(order, state if state != COMPLETE else QUEUED, error.message)
                wait, pause = pause, min(2 * pause, SEED_RETRY_SECONDS_MAX)
            except Exception as error:  # noqa: BLE001  # as in api/server.py: a bug in one order is not the node's end
                _log.error("seeding %s ended with a bug", seed.link, exc_info=error)
                self._tell(order, FAILED, f"bug in hypernode: {type(error).__name__}: {error}")
                wait, pause = pause, min(2 * pause, SEED_RETRY_SECONDS_MAX)
            with trio.move_on_after(wait):
                await bell.wait()

    def _tell(self, order: _Order, state: str, detail: str = "") -> None:
        progress = order.progress
        if (progress.state, progress.detail) != (state, detail):
            progress.state, progress.detail = state, detail
            self._moved.set()
            self._moved = trio.Event()

    async def _meet(self, order: _Order, log: Log) -> None:
        """Fetch what is missing for the order as things stand. Raises what kept it from that."""
        seed, progress = order.seed, order.progress
        if not log.length:
            self._tell(order, QUEUED, "looking for peers")
            await self._node.swarm.sync_log(seed.key)
        versions = wanted(seed, Catalog.of(log))
        if progress.newest != versions[0].number:
            progress.newest = versions[0].number
            self._tell(order, QUEUED, "a new version")  # what was complete was the order before it
        # Before anything of them comes, so that no collection takes it away again.
        before = self._kept(seed)
        is_new = versions[0].entry not in before
        await self._keep(seed, {**{each.entry: False for each in versions}, **before}, is_new=is_new)
        sizes = await self._learn(order, log, versions)
        count = fitting(list(sizes.values()), seed.budget)
        after = {entry: place < count for place, entry in enumerate(sizes)}
        gone = let_go(before, after)
        if seed.budget is not None:  # else what is served now stays until the new one is here
            await self._let_go(seed, log, after, gone)
        else:
            await self._keep(seed, {**dict.fromkeys(gone, True), **after})
        await self._fetch(order, [sizes[entry] for entry in after if after[entry]])
        await self._let_go(seed, log, after, gone)
        current = self._node.seeds.get(seed.id)
        if current is not None and current.held_bytes != progress.total_bytes:
            self._node.seeds.put(replace(current, held_bytes=progress.total_bytes))
        if count < len(versions):
            if count:
                self._tell(order, COMPLETE, f"only {count} of {len(versions)} versions fit the budget")
            elif seed.is_sparse:
                self._tell(order, COMPLETE, "nothing is kept: what is here of the newest version exceeds the budget")
            else:
                self._tell(order, FAILED, "not even the newest version fits the budget")
        else:
            self._tell(order, COMPLETE)

    def _kept(self, seed: Seed) -> Mapping[EntryId, bool]:
        current = self._node.seeds.get(seed.id)
        return {} if current is None else current.kept

    async def _keep(self, seed: Seed, kept: Mapping[EntryId, bool], *, is_new: bool = False) -> None:
        """`is_new`: a version begins, and what is given counts anew."""
        async with self._node.gate.passing():  # no collection is going on that does not know it
            current = self._node.seeds.get(seed.id)
            if current is None or current.kept == kept:
                return
            current = replace(current, kept=kept)
            if is_new:
                current = replace(current, given_before=self._node.swarm.giving.given(seed.key), held_bytes=0)
            self._node.seeds.put(current)

    async def _learn(self, order: _Order, log: Log, versions: list[Published]) -> dict[EntryId, Sizes]:
        """What each version takes: of a sparse order, what is here of it. Fetches their manifests."""
        seed, hot = order.seed, hot_blocks(log)
        blocks, source = self._node.repository.blocks, self._source(seed)
        found: dict[EntryId, Sizes] = {}
        for published in versions:
            assert published.version is not None
            reference = published.version.manifest
            if all(blocks.has(block.id) for block in reference.blocks):
                manifest = await fetch_manifest(reference, source)
            else:
                async with self._turn(order, f"the manifest of version {published.number}"):
                    manifest = await fetch_manifest(reference, source)
            await tell_table(self._node.swarm, seed.key, manifest)
            sizes = reached(reference, manifest) | dict(hot.get(reference.id, {}))
            found[published.entry] = (
                {block: size for block, size in sizes.items() if blocks.has(block)} if seed.is_sparse else sizes
            )
        return found

    @asynccontextmanager
    async def _turn(self, order: _Order, detail: str = "") -> AsyncIterator[None]:
        """One of the few that fetch at a time. Who has no peer waits for one outside, in nobody's way."""
        self._tell(order, QUEUED, "looking for peers")
        await self._node.swarm.sync_log(order.seed.key)
        self._tell(order, QUEUED, "waiting for its turn")
        async with self._turns:
            self._tell(order, FETCHING, detail)
            yield

    def _source(self, seed: Seed) -> StoredSource:
        return StoredSource(self._node.repository.blocks, self._node.swarm.source(seed.key))

    async def _fetch(self, order: _Order, versions: list[Sizes]) -> None:
        progress, blocks = order.progress, self._node.repository.blocks
        together: Sizes = {}
        for sizes in versions:
            together |= sizes
        progress.versions, progress.total_bytes = len(versions), sum(together.values())
        progress.blocks = together
        progress.look(blocks)
        try:
            missing = [StoredBlock(block, size) for block, size in together.items() if not blocks.has(block)]
            if missing:
                async with self._turn(order):
                    await self._make_room(sum(block.stored_bytes for block in missing))
                    await self._bring(order.seed, iter(missing))
            progress.look(blocks)
        finally:
            progress.blocks = {}

    async def _bring(self, seed: Seed, missing: Iterator[StoredBlock]) -> None:
        source, blocks = self._source(seed), self._node.repository.blocks
        is_whole = await fetch_ahead(source, missing, Lane.BACKGROUND, bytes_per_second=seed.rate)
        await trio.to_thread.run_sync(blocks.sync)
        if source.statistics().unkept:
            raise StoreFull("the disk is full", "free some space")
        if not is_whole:
            raise Unavailable(f"waiting for peers: {self._node.swarm.why_none(seed.key)}", "name one with --peer")

    async def _make_room(self, missing: int) -> None:
        """Raises `StoreFull` when the daemon's budget has no room for so much more, whatever is not kept going."""
        blocks = self._node.repository.blocks
        if self._budget is None:
            return
        over = await trio.to_thread.run_sync(blocks.disk_bytes) + missing - self._budget
        if over > 0:
            stored = await trio.to_thread.run_sync(lambda: sum(size for _, size in blocks.ids()))
            await collect_down_to(self._node, max(0, stored - over))
            over = await trio.to_thread.run_sync(blocks.disk_bytes) + missing - self._budget
        if over > 0:
            raise StoreFull(f"the daemon's --budget has no room for it: {over} bytes too few", "raise it, or unpin")

    async def _let_go(self, seed: Seed, log: Log, after: Mapping[EntryId, bool], gone: Set[EntryId]) -> None:
        """What is kept from here on. If something goes, all of the image goes that nothing keeps or uses."""
        await self._keep(seed, after)
        if not gone:
            return
        versions = [each.version for each in Catalog.of(log).versions]
        try:
            await drop_versions(self._node, {version.manifest for version in versions if version is not None})
        except Conflict as error:  # the next collection takes them
            _log.info("an old version stays for now: %s", error.message)


async def keep_seeding(node: Node, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Carry out the home's orders, and those to come, until cancelled."""
    async with trio.open_nursery() as nursery:
        node.seeding = seeding = Seeding(node, nursery)
        try:
            for seed in node.seeds.all():
                seeding.start(seed)
            task_status.started()
            await trio.sleep_forever()
        finally:
            node.seeding = None
