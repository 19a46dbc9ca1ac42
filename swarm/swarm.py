"""The swarm of one node: join logs, bring them up to date, get blocks, serve both.

Cheap to import and to make: the network (libp2p) is loaded by `run`, in a thread, so that the event loop goes on
meanwhile; with `on_demand` only once somebody waits for something, so that a node whose blocks are all here never
loads it. Everything may be called before and during `run`; what waits, waits for the network too.

    Swarm ── Finder       who serves a log: asked of other nodes, told to them
          ├─ Membership   whom to dial, when again
          ├─ Gossip       other peers of a log, told by its peers and told to them
          ├─ Sessions     one live session for each (peer, log)
          ├─ Replicator   entries            ├─ both told by Sessions
          └─ Fetcher      blocks             ┘
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import trio

from hyperlog.errors import HyperError, NoProvider
from hyperlog.ids import BlockId, LogKey
from hyperlog.lanes import Lane
from swarm.addresses import PeerId, parse_address
from swarm.announcer import Announcer, FindTable, find_no_table
from swarm.block_server import BlockBook, ServePolicy
from swarm.fetcher import Fetcher, FetchPolicy
from swarm.finder import Finder
from swarm.finding import Finding
from swarm.giving import GivenBook, Giving
from swarm.gossip import Gossip
from swarm.limits import BANS_SAVE_SECONDS, DISK_THREADS_MAX, HOPELESS_SECONDS
from swarm.membership import Membership
from swarm.network import Network, NetworkSetup, NetworkStats, OpenNetwork, Serving, Stream, open_network
from swarm.peer_views import PeerView, peer_views
from swarm.reach import Reach, ReachSetup
from swarm.remembered import NoMemory, PeerMemory
from swarm.replication.tables import Table, TableId
from swarm.replicator import LogBook, Replicator
from swarm.sessions import PeerTold, Sessions
from swarm.stats import Counters, LogStats, PeerStats, SwarmStats
from swarm.stopwatch import Stopwatch
from swarm.throttle import Throttle
from swarm.traffic import block_stats, log_traffic

_OTHER_SWARM: Final = "nodes of one private swarm hold the same swarm key (--swarm-key); others hold none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmConfig:
    """`identity_seed`: 32 secret bytes that determine the peer id. `listen`: multiaddrs, port 0 picks one."""

    identity_seed: bytes = field(repr=False)
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    mdns: bool = True
    reach: ReachSetup = field(default_factory=ReachSetup)
    finding: Finding = field(default_factory=Finding)
    swarm_key: bytes | None = field(default=None, repr=False)
    """32 secret bytes: a private swarm, of those who hold them."""
    lan_only: bool = False
    """Dial and accept no global address."""
    on_demand: bool = False
    """Load the network only when somebody waits for an entry or a block."""
    connect_seconds: float = 5.0
    """For one dial, up to an open stream."""
    disk_threads: int = DISK_THREADS_MAX
    """In which blocks are read to be served; 0: on the event loop, for stores that never wait."""
    worked: Callable[[], float] = time.thread_time
    """Seconds that the event loop's thread has worked: what one peer may take of it is limited."""
    passed: Callable[[], float] = time.perf_counter
    """Seconds that have passed: never fewer than it worked, and cheaper to learn."""
    give_up_seconds: float = 60.0
    """After this `sync_log` and `get` end with `NoProvider`, if their caller waits as long."""
    upload_limit: float | None = None
    download_limit: float | None = None
    """Bytes of blocks a second, of all peers together; None: as fast as it goes."""
    leech_only: bool = False
    """Serve no blocks."""
    upload_only: bool = False
    """Fetch no blocks."""


class LogSource:
    """Blocks from the peers of one log. Fits the port `images.source.BlockSource`."""

    def __init__(self, fetcher: Fetcher, key: LogKey) -> None:
        self._fetcher = fetcher
        self._key = key

    def get(self, block_id: BlockId, bytes_max: int, *, lane: Lane = Lane.MISS) -> Coroutine[Any, Any, bytes]:
        """The block's stored bytes, verified. Raises `NoProvider`, or `Corrupt` if it is longer than `bytes_max`."""
        return self._fetcher.get(self._key, block_id, bytes_max, lane=lane)


class BanBook(Protocol):
    """Where bans outlive the process. Both calls are quick."""

    def bans(self) -> bytes:
        """What was remembered last; empty at first."""
        ...

    def remember_bans(self, dumped: bytes, /) -> None: ...


class Swarm:
    """One node's swarm. `run` it once. Bans outlive it with a `ban_book`, what it knows of peers with a `memory`,
    what it gave with a `given_book`."""

    def __init__(
        self,
        logs: LogBook,
        blocks: BlockBook,
        config: SwarmConfig,
        open_network: OpenNetwork = open_network,
        *,
        ban_book: BanBook | None = None,
        memory: PeerMemory | None = None,
        given_book: GivenBook | None = None,
        find_table: FindTable = find_no_table,
        on_peer: PeerTold | None = None,
    ) -> None:
        self._ban_book = ban_book
        self.giving = Giving(given_book, leech_only=config.leech_only)
        self._config = config
        self._open_network = open_network
        self._totals = Counters()
        memory = NoMemory() if memory is None or not config.finding.remembered else memory
        self._serving = ServePolicy(
            blocks=blocks,
            disk=trio.CapacityLimiter(config.disk_threads) if config.disk_threads else None,
            throttle=None if config.upload_limit is None else Throttle(config.upload_limit),
            giving=self.giving,
            is_fetching=lambda key: self._fetcher.is_waiting(key),
            totals=self._totals,
            stopwatch=Stopwatch(config.worked, config.passed),
        )
        self._fetcher = Fetcher(
            FetchPolicy(
                give_up_seconds=config.give_up_seconds,
                download_limit=config.download_limit,
                upload_only=config.upload_only,
                chance=random.Random(config.identity_seed),
            ),
            self._totals,
            why_none=self.why_none,
            hurry=self._hurry,
            is_hopeless=self._is_hopeless,
            on_came=lambda blocks: self._announcer.note_came(blocks),
        )
        self._announcer = Announcer(self._serving, self._fetcher, lambda key: self._sessions.of(key), find_table)
        self._replicator = Replicator(
            logs,
            give_up_seconds=config.give_up_seconds,
            why_none=self.why_none,
            hurry=self._hurry,
        )
        self._sessions = Sessions(self._serving, self._fetcher, self._announcer, self._replicator, self._totals)
        self._membership = Membership(
            self._sessions,
            self._totals,
            connect_seconds=config.connect_seconds,
            is_waiting=self._is_waiting,
            memory=memory,
            refused=self._refused,
            chance=random.Random(config.identity_seed),
        )
        self._finder = Finder(
            config.finding,
            self._membership,
            memory,
            serves=lambda key: self.giving.serves(key) and self._replicator.has_entries(key),
            is_waiting=self._is_waiting,
            own_addresses=self.addresses,
            refused=self._refused,
            chance=random.Random(config.identity_seed),
        )
        self._gossip = Gossip(self._membership, self.addresses, is_on=config.finding.exchange)
        self._sessions.watcher = self._gossip
        self._sessions.on_peer = on_peer
        self._foreign_since: dict[LogKey, float] = {}
        self._needed = trio.Event()
        self._listening = trio.Event()
        self._network: Network | None = None
        self._addresses: tuple[str, ...] = ()

    async def run(self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Starts with the full addresses to dial, none yet with `on_demand`.

        Raises `ListenFailed` (a port is taken).
        """
        failure: HyperError | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(self._run_parts)
            if self._config.on_demand:
                task_status.started([])
                await self._needed.wait()
            try:
                addresses = await self._start_network(nursery)
            except HyperError as error:
                failure = error
                nursery.cancel_scope.cancel()
            else:
                if not self._config.on_demand:
                    task_status.started(addresses)
        if failure is not None:
            raise failure

    async def _run_parts(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fetcher.run)
            nursery.start_soon(self._announcer.run)
            nursery.start_soon(self._replicator.run)
            if self._ban_book is not None:
                nursery.start_soon(self._keep_bans, self._ban_book)
            nursery.start_soon(self.giving.run)
            task_status.started()

    async def _keep_bans(self, book: BanBook) -> None:
        ledger = self._sessions.ledger
        ledger.load(book.bans(), trio.current_time())
        saved = 0
        try:
            while True:
                await trio.sleep(BANS_SAVE_SECONDS)
                if saved != ledger.bans_made:
                    saved = ledger.bans_made
                    book.remember_bans(ledger.dump(trio.current_time()))
        finally:
            if ledger.bans_made:
                book.remember_bans(ledger.dump(trio.current_time()))

    async def _start_network(self, nursery: trio.Nursery) -> list[str]:
        config = self._config
        setup = NetworkSetup(
            identity_seed=config.identity_seed,
            mdns=config.mdns,
            reach=config.reach,
            swarm_key=config.swarm_key,
            lan_only=config.lan_only,
        )
        network = await self._open_network(setup)

        async def accept(stream: Stream) -> None:
            await self._sessions.accept(network, stream)

        serving = Serving(
            accept=accept,
            found=self._membership.add_neighbour,
            misbehaved=self._sessions.misbehaved,
            is_welcome=lambda peer: not self._sessions.is_banned(peer),
            improved=lambda peer: self._membership.move_sessions(network, nursery, peer),
            others=self._finder.protocols,
        )
        addresses: list[str] = await nursery.start(network.serve, self._config.listen, serving)
        self._network = network
        self._addresses = tuple(addresses)
        self._listening.set()
        nursery.start_soon(self._membership.run, network)
        nursery.start_soon(self._finder.run, network)
        nursery.start_soon(self._gossip.run)
        return addresses

    def _is_waiting(self, key: LogKey) -> bool:
        return self._fetcher.is_waiting(key) or self._replicator.is_waiting(key)

    def _hurry(self, key: LogKey) -> None:
        """Somebody waits for `key` and it has no peer."""
        self.need_network()
        self._membership.hurry(key)
        self._finder.hurry(key)

    def need_network(self) -> None:
        """With `on_demand`: load the network now."""
        self._needed.set()

    async def wait_listening(self) -> tuple[str, ...]:
        """Load the network if need be; the full addresses to dial once it listens. The caller sets the deadline."""
        self.need_network()
        await self._listening.wait()
        return self._addresses

    def addresses(self) -> tuple[str, ...]:
        """Where this node can be dialled at this moment, as far as it knows; none before the network is up."""
        return () if self._network is None else self._network.reach().addresses or self._addresses

    def reach(self) -> Reach:
        """What is known of how this node is reached."""
        return Reach() if self._network is None else self._network.reach()

    async def look(self) -> None:
        """Ask connected peers anew how this node is reached. The caller sets the deadline."""
        if self._network is not None:
            await self._network.look()

    def join(self, key: LogKey, peers: Sequence[str] = ()) -> None:
        """Serve `key` and look for its peers, at `peers` (full multiaddrs) too. Raises `BadAddress`."""
        addresses = [parse_address(peer) for peer in peers]
        self._replicator.join(key)
        self._sessions.join(key)
        self._membership.join(key, addresses)
        self._finder.join(key, addresses)

    async def sync_log(self, key: LogKey) -> None:
        """Until a joined log holds all that its reachable peers hold, at least one among them.

        Raises `NoProvider` after `give_up_seconds`; callers with a shorter deadline cancel and may ask `why_none`.
        """
        self.need_network()
        await self._replicator.sync(key)

    def add_table(self, key: LogKey, identifier: bytes, blocks: Iterable[tuple[BlockId, int]]) -> None:
        """The blocks of an image of a joined log, with their stored bytes, in the order of its manifest `identifier`.

        Peers that know the image too tell each other what they hold of it, and ask for its blocks by number.
        """
        self._announcer.add_table(key, Table(TableId(identifier), blocks))

    def limit_giving(self, key: LogKey, bytes_max: int | None) -> None:
        """Serve a log until so many bytes of its blocks were given in all, earlier runs included; None: without end."""
        was_spent = self.giving.is_spent(key)
        self.giving.limit(key, bytes_max)
        if was_spent and self.giving.serves(key):
            self._announcer.tell_again(key)

    def source(self, key: LogKey) -> LogSource:
        """Blocks from the peers of a joined log."""
        assert key in self._sessions.logs
        return LogSource(self._fetcher, key)

    def _is_hopeless(self, key: LogKey) -> bool:
        """Whether everybody who is known to share a log was dropped for lying, or is in another swarm."""
        if self._sessions.of(key):
            return False
        if self._is_foreign(key):
            return True
        peers = {parse_address(address).peer for address in self._membership.addresses(key)}
        return bool(peers) and all(map(self._sessions.is_banned, peers))

    def _is_foreign(self, key: LogKey) -> bool:
        """Whether everybody who is known, of a log or to ask for it, is in another swarm."""
        peers, strange_peers = self._membership.strangers(key)
        nodes, strange_nodes = self._finder.strangers()
        return peers == strange_peers and nodes == strange_nodes and strange_peers + strange_nodes > 0

    def _refused(self, key: LogKey) -> None:
        """A node of another swarm refused to speak to us; when all did, and for a moment, nobody need wait."""
        now = trio.current_time()
        if not self._is_foreign(key) or self._sessions.of(key):
            self._foreign_since.pop(key, None)
        elif now - self._foreign_since.setdefault(key, now) >= HOPELESS_SECONDS:
            self._replicator.give_up(key, NoProvider(f"nobody can be spoken to: {self.why_none(key)}", _OTHER_SWARM))

    def why_none(self, key: LogKey) -> str:
        """Why nobody delivers for a joined log, in words for a person."""
        if self._network is None:
            return "the network is not up yet"
        if self._is_hopeless(key):
            return f"whoever was known to have it was dropped: it sent {self._membership.last_failure(key)}"
        why, asked = self._membership.why_none(key), self._finder.why_none()
        is_any_known, _ = self._membership.strangers(key)
        return why if asked is None or is_any_known or self._sessions.of(key) else f"{why}; {asked}"

    def statistics(self) -> SwarmStats:
        totals = self._totals
        return SwarmStats(
            peer_id=self._peer_id,
            addresses=self.addresses(),
            logs=tuple(self._log_stats(key) for key in self._sessions.logs),
            peers=self._peer_stats(),
            bytes_in=totals.bytes_in,
            bytes_out=totals.bytes_out,
            blocks_in=totals.blocks_in,
            blocks_out=totals.blocks_out,
            blocks_duplicate=totals.blocks_duplicate,
            blocks_wanted=self._fetcher.wanted_count,
            requests_in_flight=self._fetcher.in_flight_count,
            requests_repeated=self._fetcher.counts.repeated,
            dials=totals.dials,
            dials_failed=totals.dials_failed,
            handshakes_failed=totals.handshakes_failed,
            sessions_refused=totals.sessions_refused,
            sessions_crowded_out=totals.sessions_crowded_out,
            peers_banned=totals.peers_banned,
            bans=self._sessions.ledger.count_banned(trio.current_time()),
            held_up=self._sessions.waits,
            held_bytes=self._sessions.held_bytes,
            blocks=block_stats(totals, self._fetcher, self._serving),
            finder=self._finder.statistics(),
            network=NetworkStats() if self._network is None else self._network.statistics(),
        )

    def peers_of(self, key: LogKey) -> tuple[PeerView, ...]:
        """All that is known of the peers of a joined log, connected ones first."""
        known = [one for one in self._membership.known(key) if one.address.peer != self._peer_id]
        banned = {
            peer: self._sessions.records.of(peer).fault or "it lied"
            for peer in {one.address.peer for one in known}
            if self._sessions.is_banned(peer)
        }
        return peer_views(self._sessions.of(key), known, self._membership.failures(key), banned, trio.current_time())

    def neighbours(self) -> list[PeerId]:
        """Nodes that were heard on the local network."""
        return self._membership.neighbours()

    @property
    def _peer_id(self) -> PeerId | None:
        return None if self._network is None else self._network.peer_id

    def _log_stats(self, key: LogKey) -> LogStats:
        return LogStats(
            key=key,
            peers=tuple(self._sessions.of(key)),
            addresses=tuple(self._membership.addresses(key)),
            last_failure=self._membership.last_failure(key),
            traffic=log_traffic(self._sessions.moved[key], self._sessions.of(key).values(), trio.current_time()),
            tables=tuple(self._announcer.held_of(key)),
            given_bytes=self.giving.given(key),
            is_spent=self.giving.is_spent(key),
        )

    def _peer_stats(self) -> tuple[PeerStats, ...]:
        return tuple(
            PeerStats(
                peer=peer,
                address=record.address,
                sessions=record.sessions,
                bytes_in=record.bytes_in,
                bytes_out=record.bytes_out,
                blocks_in=record.blocks_in,
                blocks_out=record.blocks_out,
                entries_in=record.entries_in,
                entries_out=record.entries_out,
                banned=self._sessions.is_banned(peer),
                fault=record.fault,
            )
            for peer, record in self._sessions.records.items()
        )
