"""The world of one plan, lived through, and the laws that must hold of it.

Determinism: trio runs on a clock that jumps to the next deadline once everybody waits, so no real time enters, and
nothing uses threads or sockets. Tasks that are ready at the same time run in a random order; once Hypothesis is
imported, trio (by a plugin of its own) draws that order from a generator that can be seeded, so the seed explores
orders too. What stays random are nonces, which decide nothing, and the order of sets: of bytes, for which `__main__`
fixes the hash seed, and of objects, none of which is gone through where it shows. That it all suffices is not proven
but tested: the digest of everything that crossed the wire, with times, is the same in another process.
"""

from __future__ import annotations

import logging
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import trio
import trio.testing
from hypothesis.internal.entropy import deterministic_PRNG

from hyperlog.errors import HyperError, NoProvider
from hyperlog.hashing import blake3_256
from hyperlog.ids import BlockId, EntryId, LogKey, block_id
from hyperlog.keys import KeyPair
from hyperlog.limits import BLOCK_BYTES_MAX
from hyperlog.log import Log, Logs
from hyperlog.store import MemoryStore
from hyperlog.watermarks import Watermarks
from swarm.addresses import PeerId
from swarm.network import Network, NetworkSetup
from swarm.replication.tables import Table, TableId
from swarm.swarm import Swarm, SwarmConfig
from swarm.testing import MemoryBlocks, MemoryInternet, peer_id_for
from tests.hyperlog.replicas import standing
from tests.swarm.simulation.lies import LIES, Lie, LyingNetwork
from tests.swarm.simulation.plan import FAULTS_SECONDS, Absence, Append, Break, NodePlan, Partition, Plan, make_plan
from tests.swarm.simulation.watch import Watch, WatchedNetwork

REST_SECONDS: Final = 150.0
"""How long after the last fault everything must have arrived everywhere."""

END_SECONDS: Final = 5.0
"""How long a node may take to stop."""

_GIVE_UP_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`breaches`: laws that did not hold. `digest` tells one run of a seed from another that went differently."""

    seed: int
    breaches: tuple[str, ...]
    digest: str
    counts: dict[str, int]


def simulate(seed: int, trace: Callable[[str], None] | None = None) -> Outcome:
    """Live through the world of `seed`. `trace` gets a line for each thing that happens."""
    watch = Watch(trace=trace)
    clock = trio.testing.MockClock(rate=0, autojump_threshold=0)
    with _errors_of_the_swarm(watch), deterministic_PRNG(seed):
        world = World(make_plan(seed), watch, _no_marks())
        try:
            trio.run(world.run, clock=clock)
        except Exception:  # noqa: BLE001
            # Whatever a node lets through ended the whole world.
            watch.breaches.append(f"crash: {traceback.format_exc()}")
    return Outcome(seed, tuple(watch.breaches), watch.digest, dict(watch.counts))


@cache
def _no_marks() -> Watermarks:
    """High-water marks that nobody keeps."""
    with TemporaryDirectory() as directory:
        marks = Watermarks(Path(directory) / "marks")
    marks.leave_to_guard()
    marks.close()  # nothing is written to it any more
    return marks


@contextmanager
def _errors_of_the_swarm(watch: Watch) -> Iterator[None]:
    """What the swarm logs as an error is a bug that it survived."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            watch.breaches.append(f"bug: {self.format(record)}")

    logger, listener = logging.getLogger("swarm"), Listener(logging.ERROR)
    was = logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.propagate = was


class Internet(MemoryInternet):
    """Delays and partitions of the plan."""

    def __init__(self, plan: Plan, numbers: dict[PeerId, int]) -> None:
        super().__init__()
        self._plan = plan
        self._numbers = numbers
        self._chance = random.Random(f"internet {plan.seed}")
        self.partitions: list[Partition] = []

    def delay_between(self, one: PeerId, other: PeerId) -> float:
        low, high = sorted((self._numbers[one], self._numbers[other]))
        return self._plan.delays[low, high] * (1 + self._chance.random() * self._plan.jitter)

    def is_cut(self, one: PeerId, other: PeerId) -> bool:
        here, there = self._numbers[one], self._numbers[other]
        if self._plan.nodes[here].lie is not None and self._plan.nodes[there].lie is not None:
            return True  # what liars would tell each other is nobody's concern, and half of the work
        return any((here in partition.group) != (there in partition.group) for partition in self.partitions)

    def part(self) -> None:
        """Hold up what crosses a partition, and nothing else."""
        for peer in self._numbers:
            network = self.find(peer)
            for stream in [] if network is None else network.streams:
                stream.hold(self.is_cut(peer, stream.remote))


class Boaster(MemoryBlocks):
    """Has whatever one asks for, until one asks for it."""

    def has(self, block: BlockId, /) -> bool:
        return True


class Node:
    """One node over all its lives; what it stored survives them."""

    def __init__(self, plan: NodePlan, world: World) -> None:
        self.plan = plan
        self.world = world
        self.lie: Lie | None = None if plan.lie is None else LIES[plan.lie]
        self.seed = blake3_256(f"{world.plan.seed} {plan.number}".encode())
        self.peer = peer_id_for(self.seed)
        self.life = 0
        self.swarm: Swarm | None = None
        self._store = MemoryStore()
        self._logs = Logs(self._store, world.marks, Path("nowhere"))
        held = [world.payloads[place][number] for place in plan.logs for number in sorted(plan.holds[place])]
        self.blocks = Boaster() if self.lie is not None and self.lie.boasts else MemoryBlocks(held)
        self._held = set(map(block_id, held))
        self._chance = random.Random(f"node {world.plan.seed} {plan.number}")
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()

    def log(self, place: int) -> Log:
        """Its replica of a log, writable for whom the plan says so."""
        log = self._logs.add_remote(self.world.keys[place])
        if log.writer is None and (
            self.world.plan.logs[place].author == self.plan.number or (self.lie is not None and self.lie.forks)
        ):
            log.write_as(self.world.pairs[place])
        return log

    def missing(self, place: int) -> list[tuple[BlockId, int]]:
        """Blocks of a log that are not here, and how long they may be."""
        is_known = self.world.plan.logs[place].are_sizes_known
        return [
            (identifier, len(payload) if is_known else BLOCK_BYTES_MAX)
            for identifier, payload in zip(self.world.ids[place], self.world.payloads[place], strict=True)
            if identifier not in self._held
        ]

    def start(self) -> None:
        """Begin a life."""
        self.life += 1
        self._logs = Logs(self._store, self.world.marks, Path("nowhere"))
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self.world.nursery.start_soon(self._live)

    async def stop(self) -> None:
        """End a life, in time."""
        self._scope.cancel()
        with trio.move_on_after(END_SECONDS) as scope:
            await self._ended.wait()
        if scope.cancelled_caught:
            self.world.watch.breach("ends", f"node {self.plan.number} does not stop")
            await self._ended.wait()

    async def _live(self) -> None:
        config = SwarmConfig(
            identity_seed=self.seed,
            listen=("/ip4/127.0.0.1/tcp/0",),
            mdns=False,
            disk_threads=0,
            worked=lambda: 0.0,
            passed=lambda: 0.0,
            give_up_seconds=_GIVE_UP_SECONDS,
        )
        swarm = self.swarm = Swarm(self._logs, self.blocks, config, self._open_network)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for place in self.plan.logs:
                        self.log(place)
                        swarm.join(self.world.keys[place], self.world.addresses(self.plan.knows[place]))
                        if self.world.plan.logs[place].has_table:
                            swarm.add_table(self.world.keys[place], *self.world.table(place))
                    await nursery.start(swarm.run)
                    if self.lie is None:
                        for place in self.plan.logs:
                            nursery.start_soon(self._read, place, nursery)
                    await trio.sleep_forever()
        finally:
            self.swarm = None
            self._ended.set()

    async def _open_network(self, setup: NetworkSetup) -> Network:
        await trio.lowlevel.checkpoint()
        world, number = self.world, self.plan.number
        chance = random.Random(f"network {world.plan.seed} {number} {self.life}")
        if self.lie is not None:
            return LyingNetwork(world.internet, setup, self.lie, chance)
        return WatchedNetwork(world.internet, setup, world.watch, number, self.life, chance)

    async def _read(self, place: int, nursery: trio.Nursery) -> None:
        """Bring a log up to date and fetch all blocks of it."""
        with suppress(NoProvider):
            await self.sync(place)
        rest = self.missing(place)
        self._chance.shuffle(rest)
        waiting = iter(rest)
        for _ in range(self.world.plan.logs[place].at_a_time):
            nursery.start_soon(self._fetch, place, waiting)

    async def sync(self, place: int) -> None:
        """Raises `NoProvider`."""
        assert self.swarm is not None
        await self.swarm.sync_log(self.world.keys[place])

    async def _fetch(self, place: int, waiting: Iterator[tuple[BlockId, int]]) -> None:
        assert self.swarm is not None
        source, lanes = self.swarm.source(self.world.keys[place]), self.world.plan.logs[place].lanes
        for identifier, length in waiting:
            while identifier not in self._held:
                try:
                    payload = await source.get(identifier, length, lane=self._chance.choice(lanes))
                except NoProvider:
                    await trio.sleep(1)
                    continue
                self.world.watch.note(f"{self.plan.number} has {identifier.hex()[:8]}")
                if block_id(payload) != identifier:
                    self.world.watch.breach("truth", f"node {self.plan.number} was given a wrong block")
                    return
                self._held.add(self.blocks.put(payload))


class World:
    """All nodes of a plan, and the clock they share."""

    def __init__(self, plan: Plan, watch: Watch, marks: Watermarks) -> None:
        self.plan = plan
        self.watch = watch
        self.marks = marks
        chance = random.Random(f"content {plan.seed}")
        self.pairs = [KeyPair.from_seed(chance.randbytes(32)) for _ in plan.logs]
        self.keys = [LogKey(pair.public) for pair in self.pairs]
        self.payloads = [[chance.randbytes(size) for size in log.sizes] for log in plan.logs]
        self.ids = [[block_id(payload) for payload in payloads] for payloads in self.payloads]
        self.made: set[EntryId] = set()
        self.nodes = [Node(node, self) for node in plan.nodes]
        self.honest = [node for node in self.nodes if node.lie is None]
        self.internet = Internet(plan, {node.peer: node.plan.number for node in self.nodes})
        watch.truth.update(identifier for ids in self.ids for identifier in ids)
        tables = (Table(*self.table(place)) for place in range(len(plan.logs)))
        watch.tables.update((table.id, table) for table in tables)
        watch.names.update({node.peer: node.plan.number for node in self.nodes})
        self._nursery: trio.Nursery | None = None
        self._entries = 0

    @property
    def nursery(self) -> trio.Nursery:
        assert self._nursery is not None
        return self._nursery

    def addresses(self, numbers: tuple[int, ...]) -> list[str]:
        return [f"/ip4/192.0.2.1/tcp/{number + 1}/p2p/{self.nodes[number].peer}" for number in numbers]

    def table(self, place: int) -> tuple[TableId, list[tuple[BlockId, int]]]:
        """All blocks of a log, as an image of it has them."""
        blocks = list(zip(self.ids[place], self.plan.logs[place].sizes, strict=True))
        return TableId(blake3_256(b"table" + self.keys[place])), blocks

    async def run(self) -> None:
        """Live through the plan, come to rest, judge, and end."""
        tasks = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as self._nursery:
            async with trio.open_nursery() as happening:
                for node in self.nodes:
                    happening.start_soon(self._bring_up, node)
                for one in self.plan.happenings:
                    happening.start_soon(self._happen, one)
            self.watch.note("all faults are mended")
            rested_at = await self._come_to_rest()
            if rested_at is not None:
                self.watch.counts["rest seconds"] = round(rested_at - FAULTS_SECONDS)
            self._judge()
            async with trio.open_nursery() as ending:
                for node in self.nodes:
                    ending.start_soon(node.stop)
        if self.watch.open_streams:
            self.watch.breach("ends", f"{len(self.watch.open_streams)} streams were left open")
        if trio.lowlevel.current_statistics().tasks_living != tasks:
            self.watch.breach("ends", "tasks were left behind")

    # ----------------------------------------------------------------------------------------------- what happens

    async def _bring_up(self, node: Node) -> None:
        await trio.sleep_until(node.plan.starts_at)
        if node.lie is not None and node.lie.is_gone:
            return
        if node.lie is not None and node.lie.forks:
            for place in node.plan.logs:
                self._append(node, place, 2)
        node.start()
        await trio.sleep_until(FAULTS_SECONDS)

    async def _happen(self, one: Append | Absence | Partition | Break) -> None:
        await trio.sleep_until(one.at)
        match one:
            case Append(_, place, count):
                self._append(self.nodes[self.plan.logs[place].author], place, count)
            case Absence(_, until, number, killed):
                await self._be_absent(self.nodes[number], until, killed=killed)
            case Partition(_, until, _):
                self.internet.partitions.append(one)
                self.internet.part()
                self.watch.note(f"partition {sorted(one.group)}")
                await trio.sleep_until(until)
                self.internet.partitions.remove(one)
                self.internet.part()
                self.watch.note("partition healed")
            case Break(_, first, second):
                await self._break(self.nodes[first].peer, self.nodes[second].peer)

    def _append(self, node: Node, place: int, count: int) -> None:
        log = node.log(place)
        values = [f"{node.plan.number} {self._entries + number}".encode() for number in range(count)]
        self._entries += count
        # A feed that is known to be forked cannot go on.
        with suppress(HyperError):
            self.made.update(log.append_many(values))
            self.watch.note(f"{node.plan.number} appends {count}")

    async def _be_absent(self, node: Node, until: float, *, killed: bool) -> None:
        if node.swarm is None or node.life == 0:
            return
        if killed and self.internet.find(node.peer) is not None:
            self.internet.kill(node.peer)
        self.watch.note(f"{node.plan.number} leaves")
        self.watch.counts["absences"] += 1
        await node.stop()
        await trio.sleep_until(until)
        self.watch.note(f"{node.plan.number} is back")
        node.start()

    async def _break(self, one: PeerId, other: PeerId) -> None:
        network = self.internet.find(one)
        if network is not None:
            self.watch.counts["breaks"] += 1
            await network.hang_up(other)

    # --------------------------------------------------------------------------------------------------- what must be

    async def _come_to_rest(self) -> float | None:
        """Wait until everything has arrived everywhere; when that was."""
        with trio.move_on_after(REST_SECONDS):
            for wait in (1,) * int(REST_SECONDS):
                if not self._unfinished():
                    break
                await trio.sleep(wait)
            rested_at = trio.current_time()
            async with trio.open_nursery() as nursery:
                for node in self.honest:
                    for place in node.plan.logs:
                        if sum(place in other.plan.logs for other in self.honest) > 1:
                            nursery.start_soon(node.sync, place)
            return rested_at
        for what in self._unfinished():
            self.watch.breach("arrives", what)
        return None

    def _unfinished(self) -> list[str]:
        found = [
            f"node {node.plan.number} lacks {len(missing)} blocks of log {place}"
            for node in self.honest
            for place in node.plan.logs
            if (missing := node.missing(place))
        ]
        for place in range(len(self.plan.logs)):
            logs = [node.log(place) for node in self.honest if place in node.plan.logs]
            if any(log.ends() != logs[0].ends() for log in logs):
                found.append(f"the replicas of log {place} differ: {[sum(log.vector().values()) for log in logs]}")
        return found

    def _judge(self) -> None:
        watch = self.watch
        forked = any(node.lie is not None and node.lie.forks for node in self.nodes)
        counting: set[EntryId] = set()
        for place in range(len(self.plan.logs)):
            logs = [node.log(place) for node in self.honest if place in node.plan.logs]
            if any(standing(log) != standing(logs[0]) for log in logs):
                watch.breach("converge", f"the replicas of log {place} stand differently")
            counting.update(entry.id for log in logs for _, entry in log.changes())
        if not counting <= self.made or (counting != self.made and not forked):
            watch.breach("converge", f"{len(self.made)} entries were made and {len(counting)} count")
        honest = {node.peer for node in self.honest}
        watch.counts["entries"] = len(counting)
        watch.counts["forked"] = forked
        for node in self.honest:
            assert node.swarm is not None
            stats = node.swarm.statistics()
            watch.counts["banned"] += stats.peers_banned
            watch.counts["repeated"] += stats.requests_repeated
            watch.counts["duplicate"] += stats.blocks_duplicate
            for peer in stats.peers:
                if peer.peer in honest and peer.banned:
                    watch.breach("honest", f"{node.plan.number} drops {watch.names[peer.peer]}: {peer.fault}")
