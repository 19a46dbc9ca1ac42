"""Two to five replicas under partitions, crashes, copies of keys and cut exchanges, against the dumbest model.

The model knows every entry ever made and which writer made it after which (a tree per writer). What must hold after
each step, on every replica: what it counts is a prefix of what its writer made, links first; nothing acknowledged is
lost; heads are what nothing that counts links. When all have met: they are equal, a writer that made two histories is
frozen exactly where they part, and all entries of the others count everywhere.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hyperlog.entry import Kind
from hyperlog.errors import HyperError
from hyperlog.ids import EntryId, LogKey, WriterKey
from hyperlog.log import Log
from tests.hyperlog.replicas import Home, standing, sync, sync_slowly

NODES = st.integers(0, 9)


class World:
    """Replica 0 is the owner's. Each other node has a key; some nodes are copies of another node's home."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="hyperlog-model-")
        self.homes: list[Home] = []
        self.key = LogKey(bytes(32))
        self.made: dict[EntryId, tuple[WriterKey, int, EntryId]] = {}
        """Entry → (writer, seq, the entry before)."""
        self.dismissed: set[WriterKey] = set()
        self.acknowledged: list[set[EntryId]] = []
        self.frozen: list[dict[WriterKey, int]] = []

    def close(self) -> None:
        self._scratch.cleanup()

    def log(self, node: int) -> Log:
        return self.homes[node % len(self.homes)].logs.open(self.key)

    def note(self) -> None:
        """Learn what was made and acknowledged."""
        for node in range(len(self.homes)):
            log = self.log(node)
            for _, entry in log.changes():
                self.made[entry.id] = (entry.writer, entry.seq, entry.prev)
                self.acknowledged[node].add(entry.id)

    def start(self, count: int, admitted: int) -> None:
        path = Path(self._scratch.name)
        owner = Home(path / "0")
        log = owner.logs.create("log")
        self.key = log.key
        self.homes = [owner, *(Home(path / str(number)) for number in range(1, count))]
        for home in self.homes[1:]:
            home.logs.add_remote(self.key)
            if admitted:
                log.grant(home.logs.ask_to_write(self.key))
                admitted -= 1
        self.acknowledged = [set() for _ in self.homes]
        self.frozen = [{} for _ in self.homes]

    def append(self, node: int, count: int) -> None:
        log = self.log(node)
        try:
            log.append_many([b"%d" % number for number in range(count)])
        except HyperError:
            assert not log.writable or log.writer is None

    def append_with_links(self, node: int, chance: random.Random) -> None:
        log = self.log(node)
        known = [entry.id for _, entry in log.changes()]
        if known and log.writable:
            links = chance.sample(known, chance.randint(1, min(3, len(known))))
            assert set(links) <= set(log.append(b"linked", links=links, kind=Kind.TAG).links)

    def meet(self, node: int, other: int) -> None:
        if node % len(self.homes) != other % len(self.homes):
            sync(self.log(node), self.log(other))
            assert self.log(node).ends() == self.log(other).ends()
            assert self.log(node).heads() == self.log(other).heads()

    def meet_on_a_bad_line(self, node: int, other: int, chance: random.Random, cut: float) -> None:
        if node % len(self.homes) != other % len(self.homes):
            sync_slowly(self.log(node), self.log(other), chance, cut=lambda: chance.random() < cut)

    def crash(self, node: int) -> None:
        self.homes[node % len(self.homes)].reopen()

    def copy_a_home(self, node: int) -> None:
        """An honest mistake: a node's home, keys and all, runs a second time from here on."""
        if len(self.homes) < 5 and self.log(node).writer is not None:
            node %= len(self.homes)
            copy = self.homes[node].copy(Path(self._scratch.name) / str(len(self.homes)))
            self.homes.append(copy)
            self.acknowledged.append(set(self.acknowledged[node]))
            self.frozen.append(dict(self.frozen[node]))

    def dismiss(self, node: int) -> None:
        owner, writer = self.log(0), self.log(node).writer
        if writer is not None and writer != owner.writer and owner.writable:
            owner.revoke(writer)
            self.dismissed.add(writer)

    def rotate(self, node: int) -> None:
        home = self.homes[node % len(self.homes)]
        if self.log(node).writable and self.log(node).writer != WriterKey(self.key):
            home.logs.rotate(self.key)

    def what_counts_is_sound(self) -> None:
        if not self.homes:
            return
        self.note()
        for node in range(len(self.homes)):
            log = self.log(node)
            counting = [entry for _, entry in log.changes()]
            places = {(entry.writer, entry.seq): entry.id for entry in counting}
            assert len(places) == len(counting)
            assert len(counting) == sum(log.vector().values())
            seen: set[EntryId] = set()
            for entry in counting:
                assert entry.seq == 0 or places[entry.writer, entry.seq - 1] == entry.prev
                seen.add(entry.id)
            linked = {link for entry in counting for link in entry.links}
            assert log.heads() == sorted(seen - linked)
            assert all(log.has(identifier) for identifier in self.acknowledged[node])
            frozen = {writer: proof.seq for writer, proof in log.forks().items()}
            assert all(frozen.get(writer, 1 << 60) <= seq for writer, seq in self.frozen[node].items())
            self.frozen[node] = frozen

    def forks(self) -> dict[WriterKey, int]:
        """Where each writer made two histories, by the model."""
        places: dict[tuple[WriterKey, int], set[EntryId]] = {}
        for identifier, (writer, seq, _) in self.made.items():
            places.setdefault((writer, seq), set()).add(identifier)
        found: dict[WriterKey, int] = {}
        for (writer, seq), ids in sorted(places.items(), key=lambda item: -item[0][1]):
            if len(ids) > 1:
                found[writer] = seq
        return found

    def heal(self) -> None:
        """Everybody meets everybody, until nothing is new."""
        if not self.homes:
            return
        self.note()
        for _ in range(3):
            for node in range(len(self.homes)):
                for other in range(node):
                    sync(self.log(node), self.log(other))
        self.what_counts_is_sound()
        logs = [self.log(node) for node in range(len(self.homes))]
        for log in logs[1:]:
            assert standing(log) == standing(logs[0])
        frozen = {writer: proof.seq for writer, proof in logs[0].forks().items()}
        forks = self.forks()
        # A fork beyond a limit that was known everywhere first is no news to anybody.
        assert frozen.items() <= forks.items()
        for writer, seq in forks.items():
            assert logs[0].vector().get(writer, 0) <= seq
        if not forks and not self.dismissed:
            assert sum(logs[0].vector().values()) == len(self.made)


class Replicas(RuleBasedStateMachine):
    """The world, driven by Hypothesis, which shrinks what fails."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def teardown(self) -> None:
        try:
            self.world.heal()
        finally:
            self.world.close()

    @initialize(count=st.integers(2, 5), admitted=st.integers(0, 4))
    def start(self, count: int, admitted: int) -> None:
        self.world.start(count, admitted)

    @rule(node=NODES, count=st.integers(1, 20))
    def append(self, node: int, count: int) -> None:
        self.world.append(node, count)

    @rule(node=NODES, chance=st.randoms())
    def append_with_links(self, node: int, chance: random.Random) -> None:
        self.world.append_with_links(node, chance)

    @rule(node=NODES, other=NODES)
    def meet(self, node: int, other: int) -> None:
        self.world.meet(node, other)

    @rule(node=NODES, other=NODES, chance=st.randoms(), cut=st.floats(0.01, 0.3))
    def meet_on_a_bad_line(self, node: int, other: int, chance: random.Random, cut: float) -> None:
        self.world.meet_on_a_bad_line(node, other, chance, cut)

    @rule(node=NODES)
    def crash(self, node: int) -> None:
        self.world.crash(node)

    @rule(node=NODES)
    def copy_a_home(self, node: int) -> None:
        self.world.copy_a_home(node)

    @rule(node=NODES)
    def dismiss(self, node: int) -> None:
        self.world.dismiss(node)

    @rule(node=NODES)
    def rotate(self, node: int) -> None:
        self.world.rotate(node)

    @invariant()
    def what_counts_is_sound(self) -> None:
        self.world.what_counts_is_sound()


TestReplicas = Replicas.TestCase
TestReplicas.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def _step(world: World, chance: random.Random) -> None:
    node, other = chance.randrange(5), chance.randrange(5)
    match chance.choices(range(8), (30, 15, 18, 22, 5, 4, 2, 4))[0]:
        case 0:
            world.append(node, chance.randint(1, 20))
        case 1:
            world.append_with_links(node, chance)
        case 2:
            world.meet(node, other)
        case 3:
            world.meet_on_a_bad_line(node, other, chance, chance.choice((0.0, 0.02, 0.1)))
        case 4:
            world.crash(node)
        case 5:
            world.copy_a_home(node)
        case 6:
            world.dismiss(node)
        case _:
            world.rotate(node)


@pytest.mark.parametrize("seed", range(30))
def test_a_long_random_walk(seed: int) -> None:
    """Hypothesis tries many short lives; these are long ones, in most of which something forks."""
    chance = random.Random(seed)
    world = World()
    try:
        world.start(chance.randint(2, 4), chance.randint(1, 4))
        for _ in range(40):
            _step(world, chance)
            world.what_counts_is_sound()
        world.heal()
    finally:
        world.close()


def test_the_walks_meet_what_they_are_for() -> None:
    """The walks above would prove nothing if their worlds were dull."""
    forks = homes = entries = 0
    for seed in range(8):
        chance = random.Random(seed)
        world = World()
        try:
            world.start(chance.randint(2, 4), chance.randint(1, 4))
            for _ in range(40):
                _step(world, chance)
                world.note()
            world.heal()
            forks += len(world.log(0).forks())
            homes += len(world.homes)
            entries += len(world.made)
        finally:
            world.close()
    assert forks >= 3
    assert homes >= 24
    assert entries >= 500
