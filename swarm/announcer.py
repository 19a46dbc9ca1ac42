"""Which blocks of which tables are here, and telling peers so: once whole, then what is gained, in batches.

A table is told to every session of its log. What is held is told to those who have told the table themselves, for only
they can read it. Who tells of a table that is not known here is answered once it is: `find_table` derives it, if this
node has what it is derived from.

Looking whether blocks are here and deriving tables take time, so a task of its own does it, one thing after the other.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Final

import trio

from hyperlog.ids import BlockId, LogKey
from swarm.addresses import PeerId
from swarm.block_server import ServePolicy
from swarm.connection import LiveSession
from swarm.fetcher import Fetcher
from swarm.limits import (
    ANNOUNCE_SECONDS,
    KEEP_LOOKED_AT_MAX,
    KEEP_SECONDS,
    TABLE_BLOCKS_ALL_MAX,
    TABLE_BLOCKS_MAX,
    TABLES_MAX,
    TABLES_PER_SESSION_MAX,
)
from swarm.replication.tables import Bits, Table, TableId

FindTable = Callable[[LogKey, TableId], Awaitable[Iterable[tuple[BlockId, int]] | None]]
"""The blocks of a table of a log, with their stored bytes; None: it cannot be derived here."""


async def find_no_table(_log: LogKey, _table: TableId) -> None:
    """For who has nothing to derive tables from."""
    await trio.lowlevel.checkpoint()


_LOOKUPS_MAX: Final = 256
_Name = tuple[LogKey, TableId]


class _Known:
    """A table with what is here of it; `bits` is None until that has been looked at, `early` what came meanwhile."""

    __slots__ = ("bits", "early", "table")

    def __init__(self, table: Table) -> None:
        self.table = table
        self.bits: Bits | None = None
        self.early: set[BlockId] = set()


class Announcer:
    """Of all logs. `sessions`: the open sessions of a log."""

    def __init__(
        self,
        policy: ServePolicy,
        fetcher: Fetcher,
        sessions: Callable[[LogKey], Mapping[PeerId, LiveSession]],
        find_table: FindTable,
    ) -> None:
        self._policy = policy
        self._fetcher = fetcher
        self._sessions = sessions
        self._find_table = find_table
        self._known: OrderedDict[_Name, _Known] = OrderedDict()
        self._sought: deque[_Name] = deque()
        self._came: dict[BlockId, float] = {}
        self._work = trio.Event()
        self._news = trio.Event()

    def held_of(self, log: LogKey) -> list[tuple[TableId, int, int]]:
        """The tables of a log: (id, blocks held, blocks)."""
        return [
            (table, 0 if known.bits is None else known.bits.count, len(known.table))
            for (key, table), known in self._known.items()
            if key == log
        ]

    def add_table(self, log: LogKey, table: Table) -> None:
        """From here on blocks of `log` are told of, and asked for, by their numbers in `table`."""
        name = (log, table.id)
        if name in self._known:
            self._known.move_to_end(name)
            return
        if not 0 < len(table) <= TABLE_BLOCKS_MAX:
            return  # such an image is fetched without: blocks are asked for by id
        self._known[name] = _Known(table)
        self._fetcher.add_table(log, table)
        self._seek(name)
        while len(self._known) > 1 and (
            len(self._known) > TABLES_MAX or sum(len(one.table) for one in self._known.values()) > TABLE_BLOCKS_ALL_MAX
        ):
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._fetcher.remove_table(*oldest)
        for live in self._sessions(log).values():
            live.tell_table(table)

    def note_came(self, blocks: Iterable[BlockId]) -> None:
        """Blocks have come; whether they were kept will be looked at when it is time to tell."""
        if self._known:
            self._came.update(dict.fromkeys(blocks, trio.current_time()))
            self._news.set()

    def tell_again(self, log: LogKey) -> None:
        """The log is served again: say what is held of it to everybody who was told that it is nothing."""
        for (key, _), known in self._known.items():
            if key == log:
                for live in self._sessions(log).values():
                    self._tell_all(live, known)

    # ------------------------------------------------------------------------------------------ what sessions tell

    def add_peer(self, live: LiveSession) -> None:
        told = 0
        for (log, _), known in reversed(self._known.items()):
            if log == live.log and told < TABLES_PER_SESSION_MAX // 2:
                live.tell_table(known.table)
                told += 1

    def on_table(self, live: LiveSession, table: TableId) -> None:
        """A peer knows a table and wants to hear what we hold of it."""
        assert live.log is not None
        name = (live.log, table)
        known = self._known.get(name)
        if known is None:
            self._seek(name)
        elif live.tell_table(known.table):
            self._tell_all(live, known)

    def _seek(self, name: _Name) -> None:
        if name not in self._sought and len(self._sought) < _LOOKUPS_MAX:
            self._sought.append(name)
            self._work.set()

    def _tell_all(self, live: LiveSession, known: _Known) -> None:
        if known.bits is not None and live.shares_table(known.table.id):
            assert live.log is not None
            serves = self._policy.giving.serves(live.log)
            live.tell_holds(known.table.id, known.bits if serves else Bits(len(known.table)))

    # ---------------------------------------------------------------------------------------------------- the tasks

    async def run(self) -> None:
        """Look and tell until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_forever)
            nursery.start_soon(self._tell_forever)

    async def _look_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while self._sought:
                name = self._sought[0]
                await self._look(name)
                self._sought.remove(name)

    async def _look(self, name: _Name) -> None:
        log, identifier = name
        known = self._known.get(name)
        if known is None:
            blocks = await self._find_table(log, identifier)
            if blocks is None:
                return
            self.add_table(log, Table(identifier, blocks))
            known = self._known.get(name)
        if known is None or known.bits is not None:
            return
        bits = await self._count(known.table)
        for block in known.early:
            bits.add(known.table.numbers[block])
        known.bits = bits
        known.early.clear()
        for live in self._sessions(log).values():
            if live.tell_table(known.table):
                self._tell_all(live, known)

    async def _count(self, table: Table) -> Bits:
        """Which blocks of the table are here."""
        if self._policy.disk is None:
            return _held(self._policy, table)
        return await trio.to_thread.run_sync(partial(_held, self._policy, table), limiter=self._policy.disk)

    async def _tell_forever(self) -> None:
        while True:
            await self._news.wait()
            await trio.sleep(ANNOUNCE_SECONDS)
            self._news = trio.Event()
            kept = self._take_kept(trio.current_time())
            if self._came:
                self._news.set()  # what is not in the store yet is looked at again
            for (log, identifier), known in self._known.items():
                mine = [block for block in kept if block in known.table.numbers]
                if known.bits is None:
                    known.early.update(mine)
                elif mine:
                    self._tell_gained(log, identifier, known, mine)

    def _take_kept(self, now: float) -> list[BlockId]:
        """Of what came, what is in the store. The rest stays for a while: it comes here before its reader has it."""
        kept = [block for block in self._came if self._policy.blocks.has(block)]
        for block in kept:
            del self._came[block]
        young = [(block, came) for block, came in self._came.items() if now - came < KEEP_SECONDS]
        self._came = dict(young[-KEEP_LOOKED_AT_MAX:])
        return kept

    def _tell_gained(self, log: LogKey, identifier: TableId, known: _Known, kept: Iterable[BlockId]) -> None:
        numbers = known.table.numbers
        bits = known.bits
        assert bits is not None
        # Also what was held before, so to say: it rotted or was collected, and who asked meanwhile was told so.
        gained = sorted({numbers[block] for block in kept})
        for number in gained:
            bits.add(number)
        if not self._policy.giving.serves(log):
            return
        for live in self._sessions(log).values():
            if live.shares_table(identifier):
                live.tell_gained(identifier, gained)


def _held(policy: ServePolicy, table: Table) -> Bits:
    bits = Bits(len(table))
    for number, block in enumerate(table.blocks()):
        if policy.blocks.has(block):
            bits.add(number)
    return bits
