"""Bring a log and its replicas at peers to the same state.

Each end says how many entries of each writer it holds (a vector); the other sends what is missing, in causal order
and in batches, and goes on doing so as entries arrive: so a new entry is pushed to every connected peer of its log.
Nothing is believed: entries are verified by `LogReplica.add_all` before they count, and a claim to hold more only
makes us wait for it, which `sync` bounds.

A view of a peer's state only grows, because stores do not forget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NoReturn, Protocol

import trio

from hyperlog.entry import Entry
from hyperlog.errors import (
    Corrupt,
    ForkDetected,
    HyperError,
    NoProvider,
    NotWriter,
    OutOfOrder,
    PeerMisbehaved,
    StoreDamaged,
)
from hyperlog.ids import LogKey, WriterKey
from swarm.connection import LiveSession
from swarm.errors import ConnectionLost
from swarm.limits import (
    AGREE_SECONDS,
    ENTRIES_BATCH_BYTES,
    ENTRIES_COUNT_MAX,
    VECTOR_WRITERS_MAX,
)
from swarm.replication.session import VectorCame

_READ_AHEAD: Final = 16


class LogReplica(Protocol):
    """What the swarm needs of a log (`hyperlog.Log`)."""

    @property
    def length(self) -> int: ...
    def vector(self) -> dict[WriterKey, int]: ...
    def feed(self, writer: WriterKey, start: int = 0, limit: int = 1000) -> list[Entry]: ...
    def changes(self, since: int = 0) -> Iterator[tuple[int, Entry]]: ...
    def add_all(self, encoded: Sequence[bytes]) -> list[Entry]: ...
    def subscribe(self, listener: Callable[[Sequence[Entry]], None]) -> Callable[[], None]: ...


class LogBook(Protocol):
    """What the swarm needs of all logs (`hyperlog.Logs`)."""

    def add_remote(self, key: LogKey, /) -> LogReplica:
        """The log `key`, made empty unless it is here."""
        ...


class _View:
    """What is known of one peer's state of one log."""

    __slots__ = ("claimed", "cursor", "epoch", "has_vector", "held", "is_unheard")

    def __init__(self) -> None:
        self.held: dict[WriterKey, int] = {}
        """Entries the peer has or has been sent."""
        self.claimed: Mapping[WriterKey, int] = {}
        self.cursor = 0
        """Change number up to which `held` is known to cover our log."""
        self.epoch = 0
        """The last `sync` this peer's claim is an answer to."""
        self.has_vector = False
        self.is_unheard = False
        """The peer sent entries that do not fit here; it is not listened to about the log any more."""

    def note(self, writer: WriterKey, count: int) -> None:
        if count > self.held.get(writer, 0):
            self.held[writer] = count


class _Replica:
    """One joined log with the peers that share it."""

    def __init__(self, log: LogReplica) -> None:
        self.log = log
        self.views: dict[LiveSession, _View] = {}
        self.epoch = 0
        self.syncing = 0
        self.moved = trio.Event()
        self.failure: HyperError | None = None
        self.is_forked = False

    def wake(self) -> None:
        self.moved.set()
        self.moved = trio.Event()

    def own_vector(self) -> dict[WriterKey, int]:
        vector = self.log.vector()
        return dict(sorted(vector.items())[:VECTOR_WRITERS_MAX])

    def agrees(self, view: _View) -> bool:
        """Whether we hold all that the peer claimed in answer to the current question."""
        own = self.log.vector()
        covered = self.is_forked or all(own.get(writer, 0) >= count for writer, count in view.claimed.items())
        return view.has_vector and view.epoch >= self.epoch and covered


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
        self._unsubscribes: list[Callable[[], None]] = []
        self._token: trio.lowlevel.TrioToken | None = None

    def join(self, key: LogKey) -> None:
        """Replicate `key` from here on."""
        if key not in self._replicas:
            replica = self._replicas[key] = _Replica(self._logs.add_remote(key))
            self._unsubscribes.append(replica.log.subscribe(partial(self._on_commit, key)))

    def is_waiting(self, key: LogKey) -> bool:
        """Whether a `sync` of `key` is under way."""
        replica = self._replicas.get(key)
        return replica is not None and replica.syncing > 0

    async def run(self) -> None:
        """Push local appends to peers until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            await trio.sleep_forever()
        finally:
            self._token = None
            for unsubscribe in self._unsubscribes:
                unsubscribe()
            self._unsubscribes.clear()

    async def sync(self, key: LogKey) -> None:
        """Until we hold all that at least one peer has, and what the others say within `AGREE_SECONDS` of that.

        Raises `NoProvider` when nobody agreed within `give_up_seconds`, and what the local store raised, if it did.
        """
        replica = self._replicas[key]
        replica.epoch += 1
        replica.syncing += 1
        replica.failure = None
        try:
            for live in replica.views:
                live.send_vector(replica.own_vector(), question=replica.epoch)
            if not replica.views:
                self._hurry(key)
            with trio.move_on_after(self._give_up_seconds):
                await self._wait_agreed(replica, any)
                with trio.move_on_after(AGREE_SECONDS):
                    await self._wait_agreed(replica, all)
                return
        finally:
            replica.syncing -= 1
        raise NoProvider(f"no peer brought the log up to date: {self._why_none(key)}")

    async def _wait_agreed(self, replica: _Replica, enough: Callable[[Iterable[bool]], bool]) -> None:
        while True:
            if replica.failure is not None:
                raise replica.failure
            if enough(replica.agrees(view) for view in replica.views.values()):
                return
            await replica.moved.wait()

    # ------------------------------------------------------------------------------------------ what sessions tell

    def add_peer(self, live: LiveSession) -> None:
        assert live.log is not None
        replica = self._replicas[live.log]
        replica.views[live] = _View()
        live.send_vector(replica.own_vector())

    def remove_peer(self, live: LiveSession) -> None:
        assert live.log is not None
        replica = self._replicas[live.log]
        del replica.views[live]
        replica.wake()

    def on_vector(self, live: LiveSession, came: VectorCame) -> None:
        replica, view = self._of(live)
        if came.answer > replica.epoch:
            raise PeerMisbehaved("an answer to a question that was not asked")
        # The first vector of a session was written after the session opened, so it answers whatever is asked now.
        view.epoch = max(view.epoch, came.answer if view.has_vector else replica.epoch)
        view.has_vector = True
        view.claimed = came.counts
        for writer, count in came.counts.items():
            view.note(writer, count)
        if came.question:
            live.send_vector(replica.own_vector(), answer=came.question)
        live.tell_news()
        replica.wake()

    def on_entries(self, live: LiveSession, encoded: Sequence[bytes]) -> None:
        replica, view = self._of(live)
        if replica.is_forked or view.is_unheard:
            return
        try:
            added = replica.log.add_all(encoded)
        except ForkDetected:
            # The author's doing, not the peer's: what is held stays, nothing more of this log is taken.
            replica.is_forked = True
            replica.wake()
            return
        except (NotWriter, OutOfOrder) as error:
            # An honest peer may know less about who may write than we do. Nothing more is taken from this session.
            view.is_unheard = True
            live.counters.fault = error.message
            return
        except StoreDamaged as error:
            self._fail(replica, error)
        except Corrupt as error:
            raise PeerMisbehaved(f"an entry that cannot be right: {error.message}") from error
        except HyperError as error:
            self._fail(replica, error)
        for entry in added:
            view.note(entry.writer, entry.seq + 1)
        replica.wake()

    def entries_for(self, live: LiveSession) -> list[bytes]:
        """The next batch for this peer, in causal order; counts as held by it from here on."""
        replica, view = self._of(live)
        if not view.has_vector:
            return []
        own = replica.log.vector()
        behind = [writer for writer, count in own.items() if count > view.held.get(writer, 0)]
        if not behind:
            view.cursor = replica.log.length
            return []
        # With one writer behind, all that its entries link is held by the peer already: the feed's order is causal.
        source = _feed(replica.log, behind[0], view) if len(behind) == 1 else _changes(replica.log, view)
        batch: list[bytes] = []
        room = ENTRIES_BATCH_BYTES
        for entry in source:
            encoded = entry.encoded
            if batch and len(encoded) > room:
                break
            batch.append(encoded)
            view.note(entry.writer, entry.seq + 1)
            room -= len(encoded)
            if room <= 0 or len(batch) == ENTRIES_COUNT_MAX:
                break
        return batch

    # ------------------------------------------------------------------------------------------------------ inside

    def _of(self, live: LiveSession) -> tuple[_Replica, _View]:
        assert live.log is not None
        replica = self._replicas[live.log]
        return replica, replica.views[live]

    def _fail(self, replica: _Replica, error: HyperError) -> NoReturn:
        """Our own store failed: whoever syncs is told, and the session ends, for no fault of the peer."""
        replica.failure = error
        replica.wake()
        raise ConnectionLost(f"the local store failed: {error.message}") from error

    def _on_commit(self, key: LogKey, _: Sequence[Entry]) -> None:
        """Called with each commit, from whichever thread made it."""
        token = self._token
        if token is not None:
            token.run_sync_soon(self._tell_news, key, idempotent=True)

    def _tell_news(self, key: LogKey) -> None:
        replica = self._replicas[key]
        for live in replica.views:
            live.tell_news()
        replica.wake()


def _feed(log: LogReplica, writer: WriterKey, view: _View) -> Iterator[Entry]:
    while True:
        entries = log.feed(writer, view.held.get(writer, 0), _READ_AHEAD)
        yield from entries
        if len(entries) < _READ_AHEAD:
            return


def _changes(log: LogReplica, view: _View) -> Iterator[Entry]:
    for number, entry in log.changes(view.cursor):
        if entry.seq >= view.held.get(entry.writer, 0):
            yield entry
        # Reached only once the entry was taken, so one that did not fit is looked at again.
        view.cursor = number
