"""Boot traces through the command: recorded once, prefetched elsewhere, never in the way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from images.limits import GRANULE_BYTES
from images.program_start import COMMON_GRANULES
from tests.e2e.conftest import World
from tests.support.nodes import Node, boot_figures, daemon, wait_until

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn", "netns", "tc", "mmdebstrap"), pytest.mark.slow]

_PROGRAM = ("python3", "-c", "import json; print(json.dumps(['started']))")
_PRINTS = '["started"]\n'
_TOUCHED_MAX = 0.06


def _boot(
    world: World, home: Path, stats: Path, *options: str, command: tuple[str, ...] = _PROGRAM
) -> dict[str, object]:
    node = Node(home, world.hosts.right)
    done = node.run("boot", world.link, *world.seeder.peers, "--stats", str(stats), *options, "--", *command)
    assert (done.returncode, done.stdout) == (0, _PRINTS), done.stderr
    return boot_figures(stats)


def test_a_traced_start_moves_less_and_asks_before_it_reads(world: World, tmp_path: Path) -> None:
    stats = tmp_path / "stats.json"
    plain = _boot(world, tmp_path / "plain", stats)
    assert plain["traced"] is False

    done = world.seeder.node.run("trace", world.link, "--json", "--", *_PROGRAM)
    assert done.returncode == 0, done.stderr
    assert _PRINTS in done.stderr
    made = json.loads(done.stdout)
    assert made["program"] == "python3"
    assert 0 < made["touched_bytes"] < _TOUCHED_MAX * float(str(plain["image_bytes"]))
    assert 0 < made["hot_bytes"] < made["touched_bytes"]

    traced = _boot(world, tmp_path / "traced", stats)
    assert traced["traced"] is True
    assert _number(traced["wire_bytes"]) < _number(plain["wire_bytes"]) * 0.8
    # What runs is the image's own, however it came here: a traced home reads the rest of it too.
    listing = ("sh", "-c", "find /usr/lib/python3* -type f -exec cat {} + | md5sum")
    sums = {
        node.run("boot", world.link, *world.seeder.peers, "--", *listing).stdout
        for node in (world.seeder.node, Node(tmp_path / "traced", world.hosts.right))
    }
    assert len(sums) == 1
    assert re.fullmatch(r"[0-9a-f]{32}  -\n", sums.pop())


def test_a_start_that_began_with_the_trace_of_another_one_moves_nothing_again(world: World, tmp_path: Path) -> None:
    """What is here then is a part of a hot blob, and what was missed beside it."""
    done = world.seeder.node.run("trace", world.link, "--json", "--", *_PROGRAM)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["touched_bytes"] > COMMON_GRANULES * GRANULE_BYTES, "a start takes only a part of it"
    other = ("python3", "-c", "import json, ssl, sqlite3; print(json.dumps(['started']))")
    first, again = (_boot(world, tmp_path / "home", tmp_path / "stats.json", command=other) for _ in range(2))
    assert first["traced"] is True
    assert _number(first["blocks_fetched"]) > 0
    assert (again["wire_bytes"], again["blocks_fetched"]) == (0, 0)


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def test_who_may_not_publish_keeps_a_trace_at_home(world: World, tmp_path: Path) -> None:
    node, stats = Node(tmp_path / "home", world.hosts.right), tmp_path / "stats.json"
    command = ("sh", "-c", "cat /etc/debian_version >/dev/null; echo '[\"started\"]'")
    refused = node.run("trace", world.link, *world.seeder.peers, "--", *command)
    assert refused.returncode != 0
    assert "may not write" in refused.stderr
    assert "--private" in refused.stderr
    assert _PRINTS not in refused.stderr, "it is refused before anything runs"

    kept = node.run("trace", world.link, *world.seeder.peers, "--private", "--", *command)
    assert kept.returncode == 0, kept.stderr
    assert "kept in this home" in kept.stdout
    assert _boot(world, tmp_path / "home", stats, command=command)["traced"] is True
    assert _boot(world, tmp_path / "home", stats, "--no-prefetch", command=command)["traced"] is False


def test_a_server_is_stopped_when_its_start_is_over(world: World) -> None:
    command = ("sh", "-c", "echo up >&2; exec sleep 1000")
    done = world.seeder.node.run("trace", world.link, "--private", "--seconds", "2", "--", *command)
    assert done.returncode == 0, done.stderr
    assert "up\n" in done.stderr
    assert "the start of sh reads" in done.stdout


def test_completing_goes_on_under_a_daemon_and_ends_with_the_image(world: World, tmp_path: Path) -> None:
    home, stats = tmp_path / "home", tmp_path / "stats.json"
    with daemon(Node(home, world.hosts.right)) as here:
        at_its_end = _number(_boot(world, home, stats, "--complete", "--prefetch-rate", "1M")["wire_bytes"])

        def held() -> int:
            return _number(json.loads(here.node.run("images", "--du", "--json").stdout)["stored_bytes"])

        wait_until(lambda: held() > at_its_end, "it goes on after the container")
        collected = here.node.run("collect")
        assert collected.returncode == 0, collected.stderr
        assert held() < 2_000_000
        settled = held()
        for _ in range(3):
            assert held() == settled, "nothing comes any more"
