"""Walks over links: order, reach, and size."""

from __future__ import annotations

import random
from pathlib import Path

from hyperlog.dag import ancestors, causal_order, comes_after
from hyperlog.entry import Entry
from tests.hyperlog.replicas import Home, sync, team, two


def test_ancestors_are_found_once_and_end_at_stop(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    root = log.append(b"root").id
    left, right = (log.append(value, links=[root]).id for value in (b"left", b"right"))
    top = log.append(b"top").id
    found = [entry.id for entry in ancestors(log.get, [top])]
    assert found[0] == top
    assert sorted(found) == sorted([top, left, right, root])
    assert {entry.id for entry in ancestors(log.get, [top], stop=[left])} == {top, right, root}
    assert comes_after(log.get, top, root)
    assert not comes_after(log.get, root, top)


def test_the_order_is_the_same_on_every_replica(tmp_path: Path) -> None:
    replicas = team(tmp_path, 3)
    chance = random.Random(1)
    for _ in range(30):
        chance.choice(replicas).append_many([b"x"] * chance.randint(1, 4))
        sync(*chance.sample(replicas, 2))
    for left, right in ((0, 1), (1, 2), (0, 1), (0, 2)):
        sync(replicas[left], replicas[right])
    orders = [causal_order(entry for _, entry in log.changes()) for log in replicas]
    assert orders[0] == orders[1] == orders[2]
    place = {entry.id: number for number, entry in enumerate(orders[0])}
    assert all(place[link] < place[entry.id] for entry in orders[0] for link in entry.links)
    shuffled: list[Entry] = chance.sample(orders[0], len(orders[0]))
    assert causal_order(shuffled) == orders[0]


def test_a_long_chain_needs_no_deep_stack(tmp_path: Path) -> None:
    log = Home(tmp_path).logs.create()
    log.append_many([b"x"] * 20_000)
    assert sum(1 for _ in ancestors(log.get, log.heads())) == 20_000
    assert len(causal_order(entry for _, entry in log.changes())) == 20_000
