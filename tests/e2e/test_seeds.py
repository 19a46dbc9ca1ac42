"""Seeds of others' images: a daemon that follows an author, survives both of their restarts, and lets go again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperlog.errors import Refused
from hypernode.api.requests import Share, Status
from hypernode.api.seed_requests import SeedAdd, Seeds
from hypernode.api.version_requests import Cat, Pull, Usage, Verify
from tests.support.asking import ask
from tests.support.nodes import PATIENCE_SECONDS, Daemon, Node, daemon, end, wait_until

pytestmark = pytest.mark.slow


def _ok(node: Node, *arguments: str) -> str:
    done = node.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _write(tree: Path, *names: str, seed: int) -> None:
    tree.mkdir(exist_ok=True)
    for place, name in enumerate(names):
        (tree / name).write_bytes(random.Random(f"{seed} {place}").randbytes(1_000_000))


def _publish(author: Daemon, tree: Path) -> str:
    result = ask(author.node, Share(str(tree), name="web"))
    return str(result["link"])


def _seed(node: Node) -> dict[str, Any]:
    (found,) = ask(node, Seeds())["seeds"]
    return dict(found)


def _has(node: Node, newest: int) -> bool:
    found = _seed(node)
    return (found["newest"], found["state"]) == (newest, "complete")


def _stored(node: Node) -> int:
    return int(ask(node, Usage())["stored_bytes"])


@pytest.fixture
def author(tmp_path: Path) -> Iterator[tuple[Daemon, str, Path]]:
    """A daemon that shares a tree of 3 MB."""
    tree = tmp_path / "tree"
    _write(tree, "one", "two", "three", seed=1)
    with daemon(Node(tmp_path / "author")) as serving:
        yield serving, _publish(serving, tree), tree


def test_a_seed_follows_its_author_and_serves_without_him(author: tuple[Daemon, str, Path], tmp_path: Path) -> None:
    serving, link, tree = author
    seeder = Node(tmp_path / "seeder")
    with daemon(seeder) as seeding:
        added = json.loads(_ok(seeder, "seed", "add", link, *serving.peers, "--wait", "--json"))
        assert (added["state"], added["newest"], added["kept"]) == ("complete", 1, 1)
        assert added["here_bytes"] == added["total_bytes"] > 3_000_000
        assert "complete" in _ok(seeder, "seed", "ls")
        assert _ok(seeder, "collect").endswith("0 blocks, 0 B"), "what a seed keeps was collected"

        _write(tree, "one", seed=2)
        _publish(serving, tree)  # nobody tells the seeder but the author's announcement
        wait_until(lambda: _has(seeder, 2), "the new version is here")
        wait_until(lambda: _stored(seeder) < 3_900_000, "the old version's own blocks are gone")
        assert ask(seeder, Verify(f"{link}@2"))["complete"]
        assert not ask(seeder, Verify(f"{link}@1"))["complete"]
        told = _ok(seeder, "events", "--since", "1h", "--no-follow", "--filter", "type=seed", "--json").splitlines()
        actions = [(event["action"], event["id"]) for event in map(json.loads, told)]
        assert actions[0] == ("add", link)
        assert ("complete", link) in actions
        assert json.loads(_ok(seeder, "top", "--once", "--json"))["seeds"][0]["state"] == "complete"

        seeding.kill()
    serving.kill()  # the author is gone for good
    with daemon(seeder) as seeding, daemon(Node(tmp_path / "reader")) as reader:
        wait_until(lambda: _has(seeder, 2), "the seed is what it was before the crash")
        assert ask(reader.node, Pull(link, seeding.addresses))["bytes_fetched"] > 3_000_000
        assert ask(reader.node, Verify(link))["complete"]

        assert _ok(seeder, "seed", "rm", link) == link
        assert seeder.run("seed", "rm", link).returncode == 3
        assert ask(seeder, Seeds())["seeds"] == []
        _ok(seeder, "collect")
        assert _stored(seeder) == 0


def test_a_sparse_seed_has_manifests_and_a_budget_holds(author: tuple[Daemon, str, Path], tmp_path: Path) -> None:
    serving, link, tree = author
    with daemon(Node(tmp_path / "seeder")) as seeding:
        seeder = seeding.node
        ask(seeder, SeedAdd(link, serving.addresses, sparse=True, wait=True))
        assert _stored(seeder) < 100_000
        ask(seeder, Cat(f"{link}:/one"))
        assert 1_000_000 < _stored(seeder) < 1_200_000
        _ok(seeder, "collect")
        assert _stored(seeder) > 1_000_000, "what was read through a sparse seed was collected"

        small = ask(seeder, SeedAdd(link, serving.addresses, sparse=True, budget=1000, wait=True))
        assert (small["state"], small["kept"], small["detail"][:15]) == ("complete", 0, "nothing is kept")

        changed = ask(seeder, SeedAdd(link, serving.addresses, versions=3, budget=4_200_000, wait=True))
        assert (changed["sparse"], changed["kept"]) == (False, 1)
        for number in (2, 3):
            _write(tree, "one", seed=number)
            _publish(serving, tree)
            wait_until(lambda number=number: _has(seeder, number), f"version {number} is here")  # type: ignore[misc]
        wait_until(lambda: "2 of 3 versions fit the budget" in _seed(seeder)["detail"], "all three were looked at")
        assert _seed(seeder)["kept"] == 2, "three versions take 5 MB"
        assert _stored(seeder) < 4_200_000

        done = seeder.run("seed", "add", link, "--budget", "1M", "--wait")
        assert done.returncode == 6
        assert "not even the newest version fits" in done.stderr
        wait_until(lambda: _stored(seeder) < 1_000_000, "the budget holds")


def test_a_seed_is_done_when_it_gave_its_share(author: tuple[Daemon, str, Path], tmp_path: Path) -> None:
    serving, link, _ = author
    seeder = Node(tmp_path / "seeder")
    with daemon(seeder, options=("--ratio", "1")) as seeding:
        added = json.loads(_ok(seeder, "seed", "add", link, *serving.peers, "--wait", "--json"))
        assert (added["state"], added["ratio"], added["given_bytes"]) == ("complete", 1.0, 0)
        serving.kill()  # nobody else has it from here on
        _ok(Node(tmp_path / "first"), "pull", link, *seeding.peers)
        wait_until(lambda: _seed(seeder)["state"] == "done", "it gave as much as it holds")
        given = _seed(seeder)["given_bytes"]
        assert given >= _seed(seeder)["total_bytes"]
        assert "(1.00 of 1)" in _ok(seeder, "seed", "ls")
        assert ", done: gave 3.0 MB" in _ok(seeder, "status")
        assert ask(seeder, Verify(link))["complete"], "what was given is still here"

    with daemon(seeder, options=("--ratio", "1")) as seeding:
        wait_until(lambda: _seed(seeder)["state"] == "done", "it is done after a restart, too")
        with Node(tmp_path / "second").start("pull", link, *seeding.peers) as second:
            try:
                wait_until(lambda: ask(seeder, Status())["logs"][0]["peers"] > 0, "somebody else asks")
                assert _seed(seeder)["given_bytes"] == given
                changed = json.loads(_ok(seeder, "seed", "add", link, "--ratio", "0", "--json"))
                assert (changed["ratio"], changed["given_bytes"]) == (0.0, given)
                _, err = second.communicate(timeout=PATIENCE_SECONDS)
                assert second.returncode == 0, err
            finally:
                end(second)
        assert _seed(seeder)["given_bytes"] > 1.9 * given
        assert _seed(seeder)["state"] == "complete"
        assert seeder.run("seed", "add", link, "--ratio", "-1").returncode == 4


def test_what_cannot_be_seeded_is_told(tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    nobody = "hyper://" + "y" * 52
    done = node.run("seed", "add", nobody, "--json")
    assert done.returncode == 0, done.stderr
    assert "no daemon runs" in done.stderr
    assert json.loads(done.stdout)["state"] == "idle"
    with daemon(node):
        assert _seed(node)["state"] == "queued"
        for bad in (
            SeedAdd(nobody, versions=0),
            SeedAdd(f"{nobody}@1", versions=2),
            SeedAdd(nobody, sparse=True, rate=1),
        ):
            with pytest.raises(Refused):
                ask(node, bad)
        assert node.run("seed", "add", "nonsense").returncode == 3  # a name that no image has
