"""What happens in the world of one seed: who lives there, who lies, what is cut when. Pure; equal for equal seeds.

The honest nodes that share a log form a connected graph by the addresses they know, and the log's author holds all of
its blocks; so once every fault has been mended, everything must arrive everywhere, whatever the liars do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from hyperlog.lanes import Lane
from tests.swarm.simulation.lies import LIES

FAULTS_SECONDS: Final = 40.0
"""When the last fault ends and the author falls silent; from then on the world must come to rest."""

_NODES_MAX: Final = 12
_DELAYS: Final = (0.0, 0.001, 0.02, 0.15)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """`lie` None: honest. `logs`: joined; `knows`: for each of them, whose address; `holds`: which of its blocks."""

    number: int
    lie: str | None
    logs: tuple[int, ...]
    knows: dict[int, tuple[int, ...]]
    holds: dict[int, frozenset[int]]
    starts_at: float


@dataclass(frozen=True, slots=True)
class LogPlan:
    """`sizes` of the blocks in bytes; how many are fetched at a time, and whether their lengths are known before."""

    author: int
    sizes: tuple[int, ...]
    at_a_time: int
    are_sizes_known: bool
    has_table: bool
    lanes: tuple[Lane, ...]
    """From which it is drawn for each block how urgent it is."""


@dataclass(frozen=True, slots=True)
class Append:
    at: float
    log: int
    count: int


@dataclass(frozen=True, slots=True)
class Absence:
    """A node stops and comes back with what it had stored; `killed`: without saying goodbye."""

    at: float
    until: float
    node: int
    killed: bool


@dataclass(frozen=True, slots=True)
class Partition:
    """Nothing passes between `group` and the others, and dials hang; nothing is lost."""

    at: float
    until: float
    group: frozenset[int]


@dataclass(frozen=True, slots=True)
class Break:
    """Every stream between two nodes breaks, as when a router forgets them."""

    at: float
    one: int
    other: int


Happening = Append | Absence | Partition | Break


@dataclass(frozen=True, slots=True)
class Plan:
    """`delays`: seconds one way by (lower, higher) node number; `jitter`: times up to 1 + this."""

    seed: int
    nodes: tuple[NodePlan, ...]
    logs: tuple[LogPlan, ...]
    happenings: tuple[Happening, ...]
    delays: dict[tuple[int, int], float]
    jitter: float

    @property
    def honest(self) -> list[NodePlan]:
        return [node for node in self.nodes if node.lie is None]


def make_plan(seed: int) -> Plan:
    """The world of `seed`."""
    chance = random.Random(f"plan {seed}")
    honest = chance.choice((2, 2, 2, 2, 3, 3, 4, 6))
    liars = min(chance.choice((0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 8)), _NODES_MAX - honest)
    logs = tuple(_log(chance, honest) for _ in range(chance.choice((1, 1, 1, 2))))
    nodes = _nodes(chance, honest, liars, logs)
    return Plan(
        seed,
        nodes,
        logs,
        tuple(sorted(_happenings(chance, honest, len(nodes), logs), key=lambda one: one.at)),
        {(one, other): chance.choice(_DELAYS) for other in range(len(nodes)) for one in range(other)},
        chance.choice((0.0, 0.2, 2.0)),
    )


def _log(chance: random.Random, honest: int) -> LogPlan:
    count = chance.choice((1, 3, 3, 8, 8, 8, 15, 15, 25, 100))
    # Many blocks one by one over slow lines take longer than the world lasts, for no fault of anybody.
    are_sizes_known = chance.random() < 0.8
    at_a_time = chance.choice((1, 4, 16, 100) if count <= 15 else (16, 100))
    return LogPlan(
        chance.randrange(honest),
        tuple(_size(chance) for _ in range(count)),
        at_a_time,
        are_sizes_known,
        are_sizes_known and chance.random() < 0.6,
        chance.choice(((Lane.MISS,), (Lane.BACKGROUND,), tuple(Lane))),
    )


def _size(chance: random.Random) -> int:
    return chance.choice((1, chance.randint(2, 300), chance.randint(300, 4000)))


def _nodes(chance: random.Random, honest: int, liars: int, logs: tuple[LogPlan, ...]) -> tuple[NodePlan, ...]:
    total = honest + liars
    joined = [
        [number for number in range(total) if number in (log.author, 0, 1) or number >= honest or chance.random() < 0.8]
        for log in logs
    ]
    knows: list[dict[int, tuple[int, ...]]] = [{} for _ in range(total)]
    holds: list[dict[int, frozenset[int]]] = [{} for _ in range(total)]
    for place, log in enumerate(logs):
        good = [number for number in joined[place] if number < honest]
        edges: dict[int, set[int]] = {number: set() for number in joined[place]}
        chance.shuffle(good)
        for rank, number in enumerate(good[1:], 1):
            one, other = chance.sample((number, good[chance.randrange(rank)]), 2)
            edges[one].add(other)
        for one in joined[place]:
            for other in joined[place]:
                # Honest nodes are told of most liars, as somebody who announces himself is.
                if one != other and chance.random() < (0.6 if other >= honest else 0.2):
                    edges[one].add(other)
        density = chance.choice((0.0, 0.0, 0.5, 1.0))
        for number in joined[place]:
            whole = number == log.author or number >= honest
            knows[number][place] = tuple(sorted(edges[number]))
            holds[number][place] = frozenset(
                block for block in range(len(log.sizes)) if whole or chance.random() < density
            )
    return tuple(
        NodePlan(
            number,
            None if number < honest else chance.choice(sorted(LIES)),
            tuple(place for place in range(len(logs)) if number in joined[place]),
            knows[number],
            holds[number],
            0.0 if chance.random() < 0.6 else chance.uniform(0, FAULTS_SECONDS / 2),
        )
        for number in range(total)
    )


def _happenings(chance: random.Random, honest: int, total: int, logs: tuple[LogPlan, ...]) -> list[Happening]:
    found: list[Happening] = []
    for place in range(len(logs)):
        found += [
            Append(chance.choice((0.0, chance.uniform(0, FAULTS_SECONDS))), place, chance.choice((1, 1, 2, 5, 30)))
            for _ in range(chance.randint(0, 4))
        ]
    for number in range(honest):
        if chance.random() < 0.3:
            at, until = _span(chance)
            found.append(Absence(at, until, number, chance.random() < 0.5))
    for _ in range(chance.choice((0, 0, 1, 2))):
        group = frozenset(number for number in range(total) if chance.random() < 0.5)
        found.append(Partition(*_span(chance), group))
    if total > 1:
        for _ in range(chance.choice((0, 0, 1, 3, 10))):
            one, other = chance.sample(range(total), 2)
            found.append(Break(chance.uniform(0, FAULTS_SECONDS), one, other))
    return found


def _span(chance: random.Random) -> tuple[float, float]:
    """Often short, now and then so long that the other end has given up."""
    at = chance.uniform(0, FAULTS_SECONDS - 1)
    length = chance.choice((chance.uniform(0.1, 2), chance.uniform(2, FAULTS_SECONDS)))
    return at, min(at + length, FAULTS_SECONDS)
