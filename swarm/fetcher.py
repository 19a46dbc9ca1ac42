"""Blocks by id from whoever provides them; each crosses the network once.

A transfer belongs to the fetcher, not to its first caller: however many wait for a block there is one, cancelling one
caller leaves the others theirs, and when the last has gone its requests are cancelled. Which peer is asked, and when
another is, `replication/scheduler.py` decides; a peer that sends wrong bytes never gets this far (`Session` raises).
Callers see the verified bytes, or `NoProvider` after `give_up_seconds` at the latest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from hyperlog.errors import Corrupt, NoProvider
from hyperlog.ids import BlockId, LogKey, to_text
from hyperlog.lanes import Lane
from swarm.connection import LiveSession
from swarm.limits import TICK_SECONDS
from swarm.replication.messages import Why
from swarm.replication.scheduler import Ask, Scheduler
from swarm.replication.session import BlockCame, BlockRefused
from swarm.stats import Counters


class _Transfer:
    """One block under way. `payload` is there once `done` is set, unless it failed."""

    __slots__ = ("asks", "done", "payload", "waiters")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.payload: bytes | None = None
        self.waiters = 0
        self.asks = 0


class Fetcher:
    """`why_none` says in words why a log has no provider; `hurry` is told when somebody begins to wait for one."""

    def __init__(
        self,
        totals: Counters,
        *,
        give_up_seconds: float,
        why_none: Callable[[LogKey], str],
        hurry: Callable[[LogKey], None],
    ) -> None:
        self._totals = totals
        self._give_up_seconds = give_up_seconds
        self._why_none = why_none
        self._hurry = hurry
        self._scheduler: Scheduler[LiveSession] = Scheduler()
        self._transfers: dict[BlockId, _Transfer] = {}
        self._numbers: dict[tuple[LiveSession, BlockId], int] = {}
        self._waiting: dict[LogKey, int] = {}
        self._busy = trio.Event()
        self._stopped = False

    @property
    def wanted_count(self) -> int:
        """Blocks that somebody waits for."""
        return len(self._transfers)

    @property
    def in_flight_count(self) -> int:
        return self._scheduler.in_flight

    def is_waiting(self, log: LogKey) -> bool:
        """Whether anybody waits for a block of `log`."""
        return self._waiting.get(log, 0) > 0

    async def get(self, log: LogKey, block: BlockId, bytes_max: int, *, lane: Lane = Lane.MISS) -> bytes:
        """The verified bytes of `block` from any peer of `log`. `lane`: how urgent it is.

        Raises `NoProvider`, or `Corrupt` when the block is longer than `bytes_max`: whoever named it so was wrong.
        """
        if self._stopped:
            raise NoProvider("the swarm is not running")
        transfer = self._begin(log, block, bytes_max)
        try:
            with trio.move_on_after(self._give_up_seconds):
                await transfer.done.wait()
        finally:
            self._leave(log, block, transfer)
        payload = transfer.payload
        if payload is None:
            raise NoProvider(f"nobody delivered block {to_text(block)[:12]}…: {self._why_none(log)}")
        if len(payload) > bytes_max:
            raise Corrupt(f"block {to_text(block)[:12]}… has {len(payload)} bytes where {bytes_max} were announced")
        return payload

    def _begin(self, log: LogKey, block: BlockId, bytes_max: int) -> _Transfer:
        # No await in here: two callers must not both start a transfer.
        transfer = self._transfers.get(block)
        if transfer is None:
            transfer = self._transfers[block] = _Transfer()
        transfer.waiters += 1
        self._waiting[log] = self._waiting.get(log, 0) + 1
        self._scheduler.want(block, bytes_max, log)
        self._send_asks()
        self._busy.set()
        if self._scheduler.peers_of(log) == 0:
            self._hurry(log)
        return transfer

    def _leave(self, log: LogKey, block: BlockId, transfer: _Transfer) -> None:
        transfer.waiters -= 1
        self._waiting[log] -= 1
        if not self._waiting[log]:
            del self._waiting[log]
        if not transfer.waiters and not transfer.done.is_set():
            del self._transfers[block]
            self._drop(block)

    def _drop(self, block: BlockId) -> None:
        for live in self._scheduler.drop(block):
            number = self._numbers.get((live, block))
            if number is not None:
                live.cancel(number)

    # ------------------------------------------------------------------------------------------ what sessions tell

    def add_peer(self, live: LiveSession) -> None:
        assert live.log is not None
        self._scheduler.add_peer(live, live.log, trio.current_time())
        self._send_asks()

    def remove_peer(self, live: LiveSession) -> None:
        """The session ended: what it owed is asked elsewhere."""
        self._scheduler.remove_peer(live)
        for key in [key for key in self._numbers if key[0] is live]:
            del self._numbers[key]
        self._send_asks()

    def on_heard(self, live: LiveSession) -> None:
        self._scheduler.heard(live, trio.current_time())

    def on_block(self, live: LiveSession, came: BlockCame) -> None:
        self._numbers.pop((live, came.block), None)
        self._scheduler.delivered(live, came.block, trio.current_time())
        transfer = self._transfers.pop(came.block, None)
        if transfer is None:
            self._totals.blocks_duplicate += 1
        else:
            transfer.payload = came.payload
            transfer.done.set()
            self._drop(came.block)
        self._send_asks()

    def on_refused(self, live: LiveSession, came: BlockRefused) -> None:
        self._numbers.pop((live, came.block), None)
        cancelled = came.why is Why.CANCELLED
        self._scheduler.refused(live, came.block, trio.current_time(), cancelled=cancelled)
        self._send_asks()

    # ---------------------------------------------------------------------------------------------------- the clock

    async def run(self) -> None:
        """Look after late requests until cancelled; afterwards nobody is left waiting."""
        try:
            while True:
                await self._busy.wait()
                await trio.sleep(TICK_SECONDS)
                for live in self._scheduler.tick(trio.current_time()):
                    live.abandon()
                self._send_asks()
                if not self._transfers and not self._scheduler.in_flight:
                    self._busy = trio.Event()
        finally:
            self._stopped = True
            for transfer in self._transfers.values():
                transfer.done.set()
            self._transfers.clear()

    def _send_asks(self) -> None:
        if self._stopped:
            return
        self._send(self._scheduler.plan(trio.current_time()))

    def _send(self, asks: Sequence[Ask[LiveSession]]) -> None:
        for ask in asks:
            transfer = self._transfers[ask.block]
            transfer.asks += 1
            self._totals.requests_repeated += transfer.asks > 1
            self._numbers[ask.peer, ask.block] = ask.peer.request(ask.block, ask.bytes_max)
