"""Bring joined logs and their replicas at peers to the same state: hyperlog's exchange, driven by live sessions.

Each session carries one live exchange about its log (hyperlog/replication.py), frame by frame. All that is decided
about entries, forks and admissions is decided there; here are only the clock, the peers and whoever waits.

The exchanges of one log share who fetches which feed. A peer that claims entries and does not send them would keep that
feed from being asked elsewhere, so after a moment the others may ask for it too: entries that come twice do no harm.
Commits block the event loop for an fsync, as reads of the store do for less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NoReturn, Protocol

import trio

from hyperlog.errors import HyperError, ModesDiffer, NoProvider, PeerMisbehaved
from hyperlog.ids import LogKey
from hyperlog.replica import Log
from hyperlog.replication import Replication
from hyperlog.selection import Fetching
from swarm.connection import LiveSession
from swarm.errors import ConnectionLost
from swarm.limits import AGREE_SECONDS, EMPTY_SECONDS, ENTRIES_OWED_SECONDS, LATE_SECONDS, STALL_SECONDS, TICK_SECONDS


class LogBook(Protocol):
    """What the swarm needs of all logs (`hyperlog.Logs`)."""

    def add_remote(self, key: LogKey, /) -> Log:
        """The log `key`, made empty unless it is here."""
        ...


class _Peer:
    """One peer's exchange about one log."""

    __slots__ = ("exchange", "heard_at", "owes_since")

    def __init__(self, exchange: Replication) -> None:
        self.exchange = exchange
        self.owes_since: float | None = None
        """When the requests that are unanswered now began to be."""
        self.heard_at = 0.0
        """When it last said something about the log, or came to owe an answer."""

    def note(self, now: float, *, heard: bool) -> None:
        """Look whether it owes anything, after a frame came or went."""
        if not self.exchange.is_waiting:
            self.owes_since = None
        elif self.owes_since is None:
            self.owes_since = self.heard_at = now
        elif heard:
            self.heard_at = now


class _Replica:
    """One joined log with the peers that share it."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.peers: dict[LiveSession, _Peer] = {}
        self.fetching = Fetching()
        self.syncing = 0
        self.moved = trio.Event()
        self.failure: HyperError | None = None

    def wake(self) -> None:
        self.moved.set()
        self.moved = trio.Event()


class Replicator:
    """All joined logs. `why_none` and `hurry` as in `Fetcher`."""

    def __init__(
        self,
        logs: LogBook,
        *,
        give_up_seconds: float,
        why_none: Callable[[LogKey], str],
        hurry: Callable[[LogKey], None],
    ) -> None:
        self._logs = logs
        self._give_up_seconds = give_up_seconds
        self._why_none = why_none
        self._hurry = hurry
        self._replicas: dict[LogKey, _Replica] = {}
        self._token: trio.lowlevel.TrioToken | None = None
        self._busy = trio.Event()

    def join(self, key: LogKey) -> None:
        """Replicate `key` from here on."""
        if key not in self._replicas:
            self._replicas[key] = _Replica(self._logs.add_remote(key))

    def has_entries(self, key: LogKey) -> bool:
        """Whether there is anything of a joined log here."""
        return self._replicas[key].log.length > 0

    def is_waiting(self, key: LogKey) -> bool:
        """Whether a `sync` of `key` is under way."""
        replica = self._replicas.get(key)
        return replica is not None and replica.syncing > 0

    async def run(self) -> None:
        """Push local appends to peers, and look after peers that owe entries, until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            while True:
                await self._busy.wait()
                await trio.sleep(TICK_SECONDS)
                if not self._look_after_owing(trio.current_time()):
                    self._busy = trio.Event()
        finally:
            self._token = None

    def give_up(self, key: LogKey, error: HyperError) -> None:
        """Waiting for a joined log will not help: whoever syncs it now is told so."""
        replica = self._replicas[key]
        replica.failure = error
        replica.wake()

    async def sync(self, key: LogKey) -> None:
        """Until we hold all that at least one peer has, and what the others say within `AGREE_SECONDS` of that.

        Raises `NoProvider` when nobody agreed within `give_up_seconds`, and what the local store raised, if it did.
        """
        replica = self._replicas[key]
        replica.syncing += 1
        replica.failure = None
        try:
            for live, peer in replica.peers.items():
                peer.exchange.ask()
                live.tell_news()
            if not replica.peers:
                self._hurry(key)
            with trio.move_on_after(self._give_up_seconds) as waiting:
                await self._wait_agreed(replica, any)
            if waiting.cancelled_caught:
                raise NoProvider(f"no peer brought the log up to date: {self._why_none(key)}")
            with trio.move_on_after(EMPTY_SECONDS):
                # In a crowd, the first who agree may be others who have nothing yet either.
                while not replica.log.length and replica.failure is None:
                    await replica.moved.wait()
            with trio.move_on_after(AGREE_SECONDS):
                await self._wait_agreed(replica, all)
        finally:
            replica.syncing -= 1

    async def _wait_agreed(self, replica: _Replica, enough: Callable[[Iterable[bool]], bool]) -> None:
        while True:
            if replica.failure is not None:
                raise replica.failure
            if enough(peer.exchange.has_all for peer in replica.peers.values()):
                return
            await replica.moved.wait()

    # ------------------------------------------------------------------------------------------ what sessions tell

    def add_peer(self, live: LiveSession) -> None:
        assert live.log is not None
        replica = self._replicas[live.log]
        exchange = Replication(replica.log, live=True, fetching=replica.fetching, wake=partial(self._wake, live))
        replica.peers[live] = _Peer(exchange)
        live.tell_news()

    def remove_peer(self, live: LiveSession) -> None:
        """The session ended: what it was to fetch is asked elsewhere."""
        assert live.log is not None
        replica = self._replicas[live.log]
        replica.peers.pop(live).exchange.close()
        replica.wake()

    def receive(self, live: LiveSession, frame: bytes) -> None:
        """Take a frame of the exchange. Raises `PeerMisbehaved`, or `ConnectionLost` when the own store failed."""
        replica, peer = self._of(live)
        before = peer.exchange.statistics().entries_in
        try:
            peer.exchange.receive(frame)
        except PeerMisbehaved:
            raise
        except ModesDiffer as error:
            raise PeerMisbehaved("a peer that neither gives nor takes entries") from error
        except HyperError as error:
            self._fail(replica, error)
        live.counters.entries_in += peer.exchange.statistics().entries_in - before
        peer.note(trio.current_time(), heard=True)
        live.tell_news()
        replica.wake()

    def bytes_held(self, live: LiveSession) -> int:
        """What the peer makes us keep of the exchange: entries that wait for others, answers it did not take."""
        return self._of(live)[1].exchange.bytes_held

    def next_frame(self, live: LiveSession) -> bytes | None:
        """What to send next; None: nothing for now. Raises `ConnectionLost` when the own store failed."""
        replica, peer = self._of(live)
        before = peer.exchange.statistics().entries_out
        try:
            frame = peer.exchange.next_frame()
        except HyperError as error:
            self._fail(replica, error)
        live.counters.entries_out += peer.exchange.statistics().entries_out - before
        peer.note(trio.current_time(), heard=False)
        if peer.owes_since is not None:
            self._busy.set()
        if frame is None:
            replica.wake()
        return frame

    # ------------------------------------------------------------------------------------------------------ inside

    def _of(self, live: LiveSession) -> tuple[_Replica, _Peer]:
        assert live.log is not None
        replica = self._replicas[live.log]
        return replica, replica.peers[live]

    def _fail(self, replica: _Replica, error: HyperError) -> NoReturn:
        """Our own store failed: whoever syncs is told, and the session ends, for no fault of the peer."""
        replica.failure = error
        replica.wake()
        raise ConnectionLost(f"the local store failed: {error.message}") from error

    def _wake(self, live: LiveSession) -> None:
        """Called when an exchange has something to say, from whichever thread made the commit."""
        token = self._token
        if token is not None:
            token.run_sync_soon(live.tell_news, idempotent=True)

    def _look_after_owing(self, now: float) -> bool:
        """Let others fetch what a peer is late with, and drop who says nothing; whether any peer owes entries."""
        is_any = False
        for replica in self._replicas.values():
            for live, peer in replica.peers.items():
                if peer.owes_since is None:
                    continue
                is_any = True
                if now - peer.heard_at >= STALL_SECONDS or now - peer.owes_since >= LATE_SECONDS:
                    replica.fetching.release(peer.exchange)
                    peer.exchange.doubt()
                if now - peer.heard_at >= ENTRIES_OWED_SECONDS:
                    live.abandon()
        return is_any
