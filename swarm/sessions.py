"""All live sessions: who is spoken to about which log, and what happens to those who misbehave.

Between two peers there is one session for each log. When both dial at once, the one opened by the peer with the
smaller id stays, at both ends; a second one by the same peer replaces the first (it has lost its end of that).
A failure of one session touches no other, except that a peer that misbehaved is banned and all its connections close.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import trio

from hyperlog.errors import HyperError, PeerMisbehaved
from hyperlog.ids import DiscoveryKey, LogKey, discovery_key
from swarm.addresses import PeerId
from swarm.announcer import Announcer
from swarm.block_server import ServePolicy
from swarm.connection import LiveSession
from swarm.discovery.peer_lists import Peers
from swarm.errors import PeerTooSlow, SessionRefused
from swarm.fetcher import Fetcher
from swarm.limits import HANDSHAKES_MAX, HELD_BYTES_MAX, SESSIONS_MAX, STREAMS_PER_PEER_MAX
from swarm.network import Network, Stream
from swarm.replication.ledger import Ledger
from swarm.replication.messages import NONCE_BYTES, Reason
from swarm.replication.session import Session
from swarm.replication.session_events import BlockCame, BlockRefused, HoldsTold
from swarm.replication.shares import Shares
from swarm.replication.tables import TableId
from swarm.replicator import Replicator
from swarm.stats import Counters, PeerCounters, PeerRecords

_log: Final = logging.getLogger(__name__)
_WARNING_SECONDS: Final = 1.0


class Watcher(Protocol):
    """Whom `Sessions` tells what becomes of open sessions. Nothing here may raise or wait."""

    def on_open(self, live: LiveSession, /) -> None: ...
    def on_close(self, live: LiveSession, /) -> None: ...
    def on_peers(self, live: LiveSession, peers: Peers, /) -> None: ...

    def on_delivered(self, live: LiveSession, /) -> None:
        """For the first time the peer gave an entry or a block."""
        ...


PeerTold = Callable[[str, PeerId, LogKey | None, str | None], None]
"""Hears that a peer's session came or went (`connect`, `disconnect`) or that it was banned (`ban`, with the fault)."""


class Sessions:
    """Runs sessions over streams, and tells fetcher and replicator what they bring."""

    def __init__(
        self,
        policy: ServePolicy,
        fetcher: Fetcher,
        announcer: Announcer,
        replicator: Replicator,
        totals: Counters,
    ) -> None:
        self._policy = policy
        self._announcer = announcer
        self._fetcher = fetcher
        self._replicator = replicator
        self._totals = totals
        self._logs: dict[DiscoveryKey, LogKey] = {}
        self._open: dict[LogKey, dict[PeerId, LiveSession]] = {}
        self.moved: defaultdict[LogKey, PeerCounters] = defaultdict(PeerCounters)
        """What sessions moved that have ended, by log."""
        self._streams: Counter[PeerId] = Counter()
        self._opening: dict[LiveSession, None] = {}
        """Sessions in their handshake, oldest first."""
        self._held: dict[LiveSession, int] = {}
        """Bytes that each session keeps for its peer, and all of them."""
        self._held_bytes = 0
        self._shares = Shares()
        self.ledger = Ledger()
        self._warned_at = -math.inf
        self.records = PeerRecords()
        self.watcher: Watcher | None = None
        self.on_peer: PeerTold | None = None
        self._delivered: set[LiveSession] = set()

    def join(self, key: LogKey) -> None:
        """Speak about `key` from here on."""
        self._logs[discovery_key(key)] = key
        self._open.setdefault(key, {})

    @property
    def held_bytes(self) -> int:
        """What sessions keep for their peers."""
        return self._held_bytes

    @property
    def waits(self) -> int:
        """How often a peer was not read from for a while, because it took our time for nothing."""
        return self._shares.waits

    @property
    def logs(self) -> list[LogKey]:
        return list(self._open)

    def of(self, key: LogKey) -> Mapping[PeerId, LiveSession]:
        """The open sessions of a joined log."""
        return self._open[key]

    def is_banned(self, peer: PeerId) -> bool:
        return self.ledger.is_banned(peer, trio.current_time())

    def misbehaved(self, peer: PeerId, fault: str) -> None:
        """A peer did below its sessions what no honest one does; its connection is gone."""
        self.records.of(peer).fault = fault
        self.ledger.lie(peer, trio.current_time())
        self._tell("ban", peer, None, fault)
        self._drop(peer)

    async def accept(self, network: Network, stream: Stream) -> None:
        """Run a session that a peer opened, until it ends. Raises nothing but cancellation."""
        peer = stream.remote
        is_full = self._streams[peer] >= STREAMS_PER_PEER_MAX or self._streams.total() >= SESSIONS_MAX
        if is_full or self.is_banned(peer):
            self._totals.sessions_crowded_out += is_full
            await stream.close()
            return
        self._make_room()
        session = Session.respond(
            self._logs.get,
            local=network.peer_id,
            remote=peer,
            nonce=os.urandom(NONCE_BYTES),
            decoy=os.urandom(NONCE_BYTES),
        )
        try:
            await self._run(network, session, stream)
        except HyperError as error:
            _log.debug("session of %s ended: %s", peer, error)

    async def talk(self, network: Network, key: LogKey, stream: Stream) -> None:
        """Run a session that we open, until it ends. Raises the `HyperError` that ended it, if one did."""
        if self.is_banned(stream.remote):
            await stream.close()
            raise SessionRefused("the peer was banned while it was dialled")
        session = Session.initiate(key, local=network.peer_id, remote=stream.remote, nonce=os.urandom(NONCE_BYTES))
        await self._run(network, session, stream)

    def _make_room(self) -> None:
        """End the oldest handshake of whoever has most of them, when there are too many."""
        if len(self._opening) >= HANDSHAKES_MAX:
            busiest, _ = Counter(live.remote for live in self._opening).most_common(1)[0]
            next(live for live in self._opening if live.remote == busiest).say_bye(Reason.BUSY)
            self._totals.sessions_crowded_out += 1

    async def _run(self, network: Network, session: Session, stream: Stream) -> None:
        peer = stream.remote
        record = self.records.of(peer)
        record.address = stream.address
        live = LiveSession(session, stream, self, self._policy, self._totals, record)
        self._streams[peer] += 1
        self._opening[live] = None
        try:
            await live.run()
        except PeerMisbehaved:
            await network.hang_up(peer)
            raise
        except PeerTooSlow as error:
            self._totals.handshakes_failed += live.log is None
            if self.is_banned(peer):
                raise  # it was we who ended this one, for what the peer did on another
            record.fault = error.message
            if self.ledger.lapse(peer, trio.current_time()):
                self._drop(peer)
                await network.hang_up(peer)
            raise
        except SessionRefused:
            self._totals.sessions_refused += 1
            raise
        except HyperError:
            self._totals.handshakes_failed += live.log is None
            raise
        except Exception:  # noqa: BLE001
            # The one place where a bug met in one session is kept from ending all others.
            _log.exception("session with %s failed", peer)
        finally:
            self._opening.pop(live, None)
            self._held_bytes -= self._held.pop(live, 0)
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]
            self._unregister(live)

    def _drop(self, peer: PeerId) -> None:
        """End what there is with a peer that is banned now."""
        now = trio.current_time()
        # Peer ids cost nothing: whoever makes many must not fill the log.
        is_quiet = now - self._warned_at < _WARNING_SECONDS
        _log.log(
            logging.DEBUG if is_quiet else logging.WARNING, "dropped peer %s: %s", peer, self.records.of(peer).fault
        )
        self._warned_at = self._warned_at if is_quiet else now
        self._totals.peers_banned += 1
        for live in [*self._opening, *(live for sessions in self._open.values() for live in sessions.values())]:
            if live.remote == peer:
                live.abandon()

    # ----------------------------------------------------------------------------------------------- Owner: events

    def on_open(self, live: LiveSession) -> None:
        assert live.log is not None
        self._opening.pop(live, None)
        rival = self._open[live.log].get(live.remote)
        if rival is not None:
            if rival.initiator < live.initiator:
                live.say_bye(Reason.DUPLICATE)
                return
            self._unregister(rival)
            rival.say_bye(Reason.DUPLICATE)
        live.counters.sessions += 1
        self._open[live.log][live.remote] = live
        self._replicator.add_peer(live)
        self._fetcher.add_peer(live)
        self._announcer.add_peer(live)
        self._tell("connect", live.remote, live.log)
        if self.watcher is not None:
            self.watcher.on_open(live)

    def on_end(self, live: LiveSession, failure: HyperError | None) -> None:
        self._unregister(live)
        if isinstance(failure, PeerMisbehaved):
            self.misbehaved(live.remote, failure.message)

    def _unregister(self, live: LiveSession) -> None:
        if self._is_registered(live):
            assert live.log is not None
            del self._open[live.log][live.remote]
            self._replicator.remove_peer(live)
            self._fetcher.remove_peer(live)
            self._policy.grants.leave(live.remote)
            self.moved[live.log].add(live.moved)
            self._delivered.discard(live)
            self._tell("disconnect", live.remote, live.log)
            if self.watcher is not None:
                self.watcher.on_close(live)

    def _tell(self, action: str, peer: PeerId, log: LogKey | None, fault: str | None = None) -> None:
        if self.on_peer is not None:
            self.on_peer(action, peer, log, fault)

    def _is_registered(self, live: LiveSession) -> bool:
        return live.log is not None and self._open[live.log].get(live.remote) is live

    def on_work(self, live: LiveSession, seconds: float, held: int) -> float:
        if self._is_registered(live):
            held += self._replicator.bytes_held(live)
        self._held_bytes += held - self._held.get(live, 0)
        self._held[live] = held
        while self._held_bytes > HELD_BYTES_MAX:
            heaviest = max(self._held, key=self._held.__getitem__)
            self._held_bytes -= self._held.pop(heaviest)
            self._totals.sessions_crowded_out += 1
            heaviest.abandon()
        return self._shares.charge(live.remote, seconds, trio.current_time())

    def on_heard(self, live: LiveSession) -> None:
        self._fetcher.on_heard(live)

    def on_exchange(self, live: LiveSession, frame: bytes) -> None:
        if self._is_registered(live):
            before = live.counters.entries_in
            self._replicator.receive(live, frame)
            if live.counters.entries_in > before:
                self._note_delivered(live)

    def on_blocks(self, live: LiveSession, came: Sequence[BlockCame]) -> None:
        self._fetcher.on_blocks(live, came)
        self._note_delivered(live)

    def on_peers(self, live: LiveSession, peers: Peers) -> None:
        if self.watcher is not None and self._is_registered(live):
            self.watcher.on_peers(live, peers)

    def _note_delivered(self, live: LiveSession) -> None:
        if live not in self._delivered and self._is_registered(live):
            self._delivered.add(live)
            if self.watcher is not None:
                self.watcher.on_delivered(live)

    def on_refused(self, live: LiveSession, came: BlockRefused) -> None:
        self._fetcher.on_refused(live, came)

    def on_table(self, live: LiveSession, table: TableId) -> None:
        if self._is_registered(live):
            self._announcer.on_table(live, table)

    def on_holds(self, live: LiveSession, told: HoldsTold) -> None:
        self._fetcher.on_holds(live, told.table, told.numbers)

    def next_exchange(self, live: LiveSession) -> bytes | None:
        return self._replicator.next_frame(live) if self._is_registered(live) else None
