"""`doctor` and `peers` as people and programs use them, with a daemon and without, on this host alone."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import Node, daemon
from vmhost.machines.platforms import remember_kvm

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn"), pytest.mark.slow]

EXIT_UNWELL = 8
STRANGER = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWMbbPVGsZYh3ChQjue712NHHGNybRRXwnuSpezYjGbCDS"
UNKNOWN = "hyper://8m7771qsxss56kyobodxdrtb4n7i1hr8u4wpmyzajctgn7fbjqgo"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    (path / "file").write_bytes(os.urandom(200_000))
    return path


def examine(node: Node, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and the checks by `area/name`."""
    done = node.run("doctor", *arguments, "--json")
    said = json.loads(done.stdout)
    assert said["ok"] is (done.returncode == 0)
    return done.returncode, {f"{check['area']}/{check['name']}": check for check in said["checks"]}


def shared_by(node: Node, tree: Path) -> str:
    done = node.run("share", str(tree), "--name", "tree")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_host_that_boots_images_is_well(tmp_path: Path) -> None:
    status, checks = examine(Node(tmp_path / "home"), "--listen", "/ip4/127.0.0.1/tcp/0")
    assert status == 0
    for name in ("host/mount", "host/boot", "host/clock", "home/directory", "home/space", "home/store"):
        assert checks[name]["state"] == "ok", checks[name]
    assert checks["network/listening"]["state"] == "warn", "only this machine's peers can come"
    assert checks["network/mdns"]["state"] == "skip"
    assert checks["network/upnp"]["state"] == "skip"


def test_kvm_is_said_to_work_only_where_a_guest_ran(tmp_path: Path) -> None:
    home = Node(tmp_path / "home")
    _, checks = examine(home, "--listen", "/ip4/127.0.0.1/tcp/0")
    trial = tmp_path / "state" / "hypernode" / "kvm.json"
    problem = json.loads(trial.read_text())["problem"]
    assert (checks["host/kvm"]["state"] == "ok") is (problem is None)
    remember_kvm(trial, "this trial failed")
    _, checks = examine(home, "--listen", "/ip4/127.0.0.1/tcp/0")
    assert checks["host/kvm"]["state"] != "ok"
    assert "this trial failed" in checks["host/kvm"]["words"]


def test_people_read_it_line_by_line(tmp_path: Path) -> None:
    done = Node(tmp_path / "home").run("doctor", "no link", "--listen", "/ip4/127.0.0.1/tcp/0")
    assert done.returncode == EXIT_UNWELL
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")][:5] == [
        "settings",
        "host",
        "home",
        "network",
        "link",
    ]
    assert any(line.startswith("  FAIL  key: ") for line in lines)
    assert lines[-1].startswith("1 failed")
    assert done.stderr == ""


def test_why_a_link_can_and_cannot_be_fetched(tmp_path: Path, tree: Path) -> None:
    seeder, other = Node(tmp_path / "seeder"), Node(tmp_path / "other")
    with daemon(other):
        with daemon(seeder) as seeding:
            link = shared_by(seeder, tree)
            status, checks = examine(other, link, *seeding.peers)
            assert status == 0
            assert checks["link/peers"]["facts"]["peers"][0]["state"] == "connected"
            assert checks["link/versions"]["facts"]["versions"] == 1
            assert checks["link/blocks"]["facts"]["missing"] > 0
            assert other.run("pull", link).returncode == 0

            # Somebody who is there but does not have it.
            status, checks = examine(other, UNKNOWN, *seeding.peers)
            assert status == EXIT_UNWELL
            assert checks["link/peers"]["state"] == "fail"
            assert "does not share this log" in checks["link/peer"]["words"]
        # Its seeder has gone; what is here is still whole.
        status, checks = examine(other, link)
        assert status == 0
        assert checks["link/peers"]["state"] == "warn", "nothing has to be fetched"
        assert checks["link/versions"]["state"] == "warn"
        assert checks["link/blocks"]["facts"]["missing"] == 0


def test_a_peer_that_is_not_there_is_named(tmp_path: Path) -> None:
    status, checks = examine(Node(tmp_path / "home"), UNKNOWN, "--peer", STRANGER)
    assert status == EXIT_UNWELL
    assert STRANGER in checks["link/peer"]["words"]
    assert "refused" in checks["link/peer"]["words"]
    assert checks["link/versions"]["state"] == "fail"


def test_a_home_that_is_not_sound_is_told_and_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with daemon(Node(home)):
        pass
    (home / "marks").write_bytes(b"rubbish")
    before = sorted(home.rglob("*"))
    status, checks = examine(Node(home))
    assert status == EXIT_UNWELL
    assert checks["home/store"]["state"] == "fail"
    assert checks["home/store"]["hint"]
    assert "network/listening" not in checks
    assert (home / "marks").read_bytes() == b"rubbish"
    assert [path for path in before if not path.exists()] == []


def test_what_a_killed_node_left_and_keys_that_others_can_read_are_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with daemon(Node(home)) as running:
        running.kill()
    home.chmod(0o755)
    _, checks = examine(Node(home))
    assert checks["home/node"]["state"] == "ok"
    assert "left by one that ended" in checks["home/node"]["words"]
    assert checks["home/directory"]["state"] == "warn"


def test_peers_are_listed_with_what_they_moved(tmp_path: Path, tree: Path) -> None:
    # Were the seeder to find the other in turn, a session of its own could replace the one whose counts are looked at.
    alone = {f"HYPERNODE_{name}": "off" for name in ("RENDEZVOUS", "DHT", "PEER_EXCHANGE")}
    seeder, other = (Node(tmp_path / name, environment=alone) for name in ("seeder", "other"))
    with daemon(seeder) as seeding, daemon(other):
        link = shared_by(seeder, tree)
        assert other.run("pull", link, *seeding.peers).returncode == 0
        (there,) = peers(other, link)
        (here,) = peers(seeder, link)
        assert (there["state"], there["direction"], there["is_relayed"]) == ("connected", "out", False)
        assert (here["state"], here["direction"], here["origins"]) == ("connected", "in", [])
        assert there["origins"] != []
        assert there["blocks_in"] == here["blocks_out"] > 3
        assert there["bytes_in"] > 200_000
        assert there["rate_in"] > 0
        done = other.run("peers")
        assert done.returncode == 0
        assert there["peer"] in done.stdout
    done = other.run("peers", link)
    assert "no node runs" in done.stderr
    assert other.run("peers", UNKNOWN).returncode == 3


def peers(node: Node, link: str) -> list[dict[str, Any]]:
    (log,) = json.loads(node.run("peers", link, "--json").stdout)["logs"]
    assert log["link"] == link
    return list(log["peers"])


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        status, checks = examine(Node(tmp_path / "home"), "--listen", where)
    assert status == EXIT_UNWELL
    assert any(where in check["words"] for check in checks.values() if check["state"] == "fail")
