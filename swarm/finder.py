"""Find who serves the joined logs, and let others find us: the questions of a node, and its answers.

    known nodes   are told what we serve every few minutes and asked first: rendezvous
    the DHT       from those on to the nodes nearest to a log's discovery key, for telling and for asking
    candidates    what comes of it goes to Membership, which tries it; nothing of it is believed

A log is searched for while it lacks peers: at once when somebody waits, then ever more seldom. What is decided about
records, tables and walks is decided in swarm/discovery/; here are the clock and the tasks.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import trio

from hyperlog.errors import HyperError
from hyperlog.ids import ID_BYTES, DiscoveryKey, LogKey, discovery_key
from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.asking import FIND, serve
from swarm.discovery.candidates import Origin
from swarm.discovery.directory import Directory
from swarm.discovery.limits import (
    ANNOUNCED_KEYS_MAX,
    LOOK_SECONDS,
    NODE_RETRY_SECONDS,
    PROVIDE_EVERY_SECONDS,
    PROVIDE_PAUSE_SECONDS,
    PROVIDE_TTL_SECONDS,
    REFRESH_SECONDS,
    RENDEZVOUS_EVERY_SECONDS,
    RENDEZVOUS_TTL_SECONDS,
    SEARCH_FIRST_SECONDS,
    SEARCH_IDLE_SECONDS,
    SEARCH_SECONDS,
    SEARCH_WANTED_SECONDS_MAX,
    SERVED_STREAMS_MAX,
)
from swarm.discovery.messages import Answer, Found, Question
from swarm.discovery.routing import RoutingTable, place_of
from swarm.discovery.scope import IpAddress, may_pass
from swarm.errors import OtherSwarm
from swarm.finding import Finding
from swarm.membership import Membership, parsed
from swarm.network import Network, Stream
from swarm.nodes import KnownNode, Nodes, learn
from swarm.remembered import PeerMemory
from swarm.stats import FinderStats
from swarm.walking import walk_to


class Finder:
    """`serves` says whether this node has something of a joined log; `own_addresses`, where it can be dialled now.

    `refused` is told when a node of another swarm refused to speak to us.
    """

    def __init__(
        self,
        finding: Finding,
        membership: Membership,
        memory: PeerMemory,
        *,
        serves: Callable[[LogKey], bool],
        is_waiting: Callable[[LogKey], bool],
        own_addresses: Callable[[], Sequence[str]],
        refused: Callable[[LogKey], None],
        chance: random.Random,
    ) -> None:
        self._refused = refused
        self._finding = finding
        self._membership = membership
        self._memory = memory
        self._serves = serves
        self._is_waiting = is_waiting
        self._own_addresses = own_addresses
        self._chance = chance
        self._keys: dict[DiscoveryKey, LogKey] = {}
        self._searching: dict[LogKey, trio.Event] = {}
        self._joined = trio.Event()
        self._serving = 0
        self._nodes: Nodes | None = None
        self._directory: Directory | None = None
        self._known: dict[PeerId, KnownNode] = {}
        for address in map(parse_address, finding.bootstrap):
            learn(self._known, address)
        if finding.remembered:
            for address in parsed(memory.nodes()):
                learn(self._known, address)

    @property
    def protocols(self) -> dict[str, Callable[[Stream], Awaitable[None]]]:
        """What is answered on streams of other protocols than sessions."""
        finding = self._finding
        return {FIND: self._accept} if finding.answers and (finding.rendezvous or finding.dht) else {}

    def join(self, key: LogKey, peers: Sequence[PeerAddress]) -> None:
        """Search for peers of `key`; those named may know others."""
        for address in peers:
            learn(self._known, address)
        if key not in self._searching:
            self._keys[discovery_key(key)] = key
            self._searching[key] = trio.Event()
            self._joined.set()

    def hurry(self, key: LogKey) -> None:
        """Somebody waits for `key` and it has no peer: search now."""
        self._searching[key].set()

    def strangers(self) -> tuple[int, int]:
        """How many nodes are known and asked, and how many of them turned out to be in another swarm."""
        if not self._is_asking:
            return 0, 0
        return len(self._known), sum(isinstance(node.failure, OtherSwarm) for node in self._known.values())

    def why_none(self) -> str | None:
        """What became of asking known nodes, in words; None when there are none."""
        if not self._known or not self._is_asking:
            return None
        failures = [node.failure for node in self._known.values() if node.failure is not None]
        answered = len(self._known) - len(failures)
        if answered:
            return f"{answered} node(s) that were asked know nobody else"
        return f"no node could be asked who serves it: {failures[-1].message}"

    @property
    def _is_asking(self) -> bool:
        return self._finding.rendezvous or self._finding.dht

    def statistics(self) -> FinderStats:
        nodes, directory = self._nodes, self._directory
        if nodes is None:
            return FinderStats(known=len(self._known))
        return FinderStats(
            known=len(self._known),
            nodes=0 if nodes.table is None else len(nodes.table),
            records=0 if directory is None else len(directory.records),
            announced=nodes.announced,
            asked=nodes.asked,
            failed=nodes.failed,
            answered=0 if directory is None else directory.answered,
            refused=0 if directory is None else directory.refused,
        )

    async def run(self, network: Network) -> None:
        """Announce, search and keep the table until cancelled."""
        finding = self._finding
        nodes = self._nodes = Nodes(
            network,
            self._known,
            RoutingTable(network.peer_id) if finding.dht else None,
            self._membership.guard,
            own_addresses=self._own_addresses,
            answers=finding.answers,
        )
        started: set[LogKey] = set()
        async with trio.open_nursery() as nursery:
            if self.protocols:
                self._directory = Directory(self._chance, nodes.table, self._serves_key)
                nursery.start_soon(self._keep_up, nodes, self._directory)
            if finding.rendezvous:
                nursery.start_soon(self._announce_to_known, nodes)
            if finding.dht:
                nursery.start_soon(self._provide, nodes)
            if self._is_asking:
                nursery.start_soon(self._search_idle, nodes)
            while self._is_asking:
                self._joined = trio.Event()
                for key in self._searching:
                    if key not in started:
                        started.add(key)
                        nursery.start_soon(self._search, nodes, key)
                await self._joined.wait()

    # ------------------------------------------------------------------------------------------------------ answers

    async def _accept(self, stream: Stream) -> None:
        directory = self._directory
        if directory is None or self._serving >= SERVED_STREAMS_MAX:
            await stream.close()
            return

        def answer(question: Question, host: IpAddress) -> Answer:
            return directory.answer(question, stream.remote, host, trio.current_time())

        self._serving += 1
        try:
            await serve(stream, answer)
        finally:
            self._serving -= 1

    def _serves_key(self, key: DiscoveryKey) -> bool:
        log = self._keys.get(key)
        return log is not None and self._serves(log)

    async def _keep_up(self, nodes: Nodes, directory: Directory) -> None:
        """Know the nodes around us and a few elsewhere, try those that showed themselves, forget what is over."""
        refresh_at, pause = 0.0, NODE_RETRY_SECONDS
        own = DiscoveryKey(place_of(nodes.own).to_bytes(ID_BYTES, "big"))
        while True:
            now = trio.current_time()
            if now >= refresh_at:
                directory.records.expire(now)
                if nodes.table is not None:
                    for target in (own, DiscoveryKey(self._chance.randbytes(ID_BYTES))):
                        await walk_to(nodes, target)
                    self._remember(nodes.table)
                # At first others come up as we do, and few are known yet.
                refresh_at, pause = now + pause, min(2 * pause, REFRESH_SECONDS)
            while (address := directory.take_to_try()) is not None:
                if not nodes.guard.is_spared(address, now):
                    with suppress(HyperError):
                        await nodes.find(address, own)
            await trio.sleep(LOOK_SECONDS)

    def _remember(self, table: RoutingTable) -> None:
        if self._finding.remembered and len(table):
            self._memory.keep_nodes([one.text for one in table.closest(place_of(table.own))])

    # ----------------------------------------------------------------------------------------------------- announce

    async def _announce_to_known(self, nodes: Nodes) -> None:
        where: frozenset[str] = frozenset()
        while True:
            if where != frozenset(self._own_addresses()):
                where = frozenset(self._own_addresses())  # a place at a relay, a mapped port: worth telling at once
                for node in nodes.known():
                    node.told.clear()
            async with trio.open_nursery() as nursery:
                for node in nodes.known():
                    nursery.start_soon(self._announce_to, nodes, node)
            with trio.move_on_after(LOOK_SECONDS):
                await self._joined.wait()

    async def _announce_to(self, nodes: Nodes, node: KnownNode) -> None:
        now = trio.current_time()
        due = [name for name in self._keys if node.told.get(name, 0.0) <= now and self._serves_key(name)]
        for start in range(0, len(due), ANNOUNCED_KEYS_MAX):
            names = due[start : start + ANNOUNCED_KEYS_MAX]
            failure = await nodes.announce(node.address, names, RENDEZVOUS_TTL_SECONDS)
            node.note(now, failure)
            if failure is not None:
                break
            node.told.update(dict.fromkeys(names, now + RENDEZVOUS_EVERY_SECONDS))

    async def _provide(self, nodes: Nodes) -> None:
        """Tell the nodes nearest to each log's key that we serve it, one log after the other."""
        due: dict[DiscoveryKey, float] = {}
        where: frozenset[str] = frozenset()
        while True:
            now = trio.current_time()
            if where != frozenset(self._own_addresses()):
                where = frozenset(self._own_addresses())
                due.clear()
            for name in [name for name in self._keys if due.get(name, 0.0) <= now and self._serves_key(name)]:
                if not nodes.table and not nodes.known():
                    break
                kept = await self._provide_one(nodes, name)
                # What nobody kept is tried again soon, what some did is renewed long before it expires.
                due[name] = trio.current_time() + (PROVIDE_EVERY_SECONDS if kept else NODE_RETRY_SECONDS)
                await trio.sleep(PROVIDE_PAUSE_SECONDS)
            await trio.sleep(LOOK_SECONDS)

    async def _provide_one(self, nodes: Nodes, name: DiscoveryKey) -> int:
        kept = 0

        async def tell(address: PeerAddress) -> None:
            nonlocal kept
            kept += await nodes.announce(address, [name], PROVIDE_TTL_SECONDS) is None

        walk = await walk_to(nodes, name)
        async with trio.open_nursery() as nursery:
            for address in walk.nearest:
                nursery.start_soon(tell, address)
        return kept

    # ------------------------------------------------------------------------------------------------------- search

    async def _search(self, nodes: Nodes, key: LogKey) -> None:
        """While somebody waits for one log: at once, and then ever more seldom."""
        while True:
            if not self._is_waiting(key):
                await self._searching[key].wait()
            pause = SEARCH_FIRST_SECONDS
            while True:
                self._searching[key] = trio.Event()
                await self._look(nodes, key, is_patient=False)
                if not self._is_waiting(key):
                    break
                pause = min(pause * 2, SEARCH_WANTED_SECONDS_MAX)
                with trio.move_on_after(pause):
                    await self._searching[key].wait()

    async def _search_idle(self, nodes: Nodes) -> None:
        """Logs that nobody waits for: one after the other, each every `SEARCH_IDLE_SECONDS` or so."""
        due: dict[LogKey, float] = {}
        while True:
            now = trio.current_time()
            for key in self._searching:
                due.setdefault(key, now + self._chance.uniform(0, SEARCH_IDLE_SECONDS / 20))
            first = min(due, key=due.__getitem__, default=None)
            if first is not None and due[first] <= now:
                due[first] = now + SEARCH_IDLE_SECONDS * self._chance.uniform(0.8, 1.2)
                await self._look(nodes, first, is_patient=True)
            else:
                await trio.sleep(LOOK_SECONDS)

    async def _look(self, nodes: Nodes, key: LogKey, *, is_patient: bool) -> None:
        """If the log lacks peers, ask known nodes and, at the same time, the DHT. Takes a second at least."""
        if self._membership.lacks_peers(key):
            with trio.move_on_after(SEARCH_SECONDS):
                async with trio.open_nursery() as nursery:
                    if self._finding.rendezvous:
                        for node in nodes.known(patient=is_patient):
                            nursery.start_soon(self._look_at, nodes, node.address, key)
                    if self._finding.dht:
                        nursery.start_soon(walk_to, nodes, discovery_key(key), partial(self._heard, key, Origin.DHT))
        await trio.sleep(SEARCH_FIRST_SECONDS)

    async def _look_at(self, nodes: Nodes, address: PeerAddress, key: LogKey) -> None:
        try:
            found, host = await nodes.find(address, discovery_key(key))
        except OtherSwarm:
            self._refused(key)
        except HyperError:
            pass  # noted, and tried again with the next search
        else:
            self._heard(key, Origin.RENDEZVOUS, address, found, host)

    def _heard(self, key: LogKey, origin: Origin, teller: PeerAddress, found: Found, host: IpAddress | None) -> None:
        providers = [one for addresses in found.providers for one in addresses if may_pass(one, host)]
        if found.serves:
            providers.append(teller)
        self._membership.add_candidates(key, providers, origin, teller.peer)
