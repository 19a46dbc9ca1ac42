"""The command as people and scripts meet it: what goes to which stream, exit codes, signals, one node for each home."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import World
from tests.support.nodes import Node, daemon, running, wait_until
from tests.support.sources import TOP

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn", "netns", "tc", "mmdebstrap"), pytest.mark.slow]


def test_help_loads_nothing_that_is_slow() -> None:
    """`hypernode --help` has 0.3 s; what would take them is counted here, the time itself by bench/coldboot.py."""
    ask = "import sys; from hypernode.cli.main import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], cwd=TOP, check=True, capture_output=True, text=True)
    assert "Usage" in done.stdout
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "typer" in loaded
    assert (
        loaded & {"trio", "libp2p", "rocksdict", "nacl", "pyfuse3", "zstandard", "pydantic", "hypernode.node"} == set()
    )


def test_a_command_s_streams_and_exit_code_are_passed_through(world: World) -> None:
    script = "cat; echo to stderr >&2; exit 7"
    done = world.booter.run("boot", world.link, *world.seeder.peers, "--", "sh", "-c", script, stdin="from stdin\n")
    assert (done.returncode, done.stdout) == (7, "from stdin\n")
    assert "to stderr\n" in done.stderr
    done = world.booter.run("boot", world.link, "--", "/no/such/program")
    assert done.returncode == 127


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_container(world: World, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.1; done"
    argv = ["boot", world.link, *world.seeder.peers, "--", "sh", "-c", script]
    with running(world.booter.start(*argv, stdin=subprocess.DEVNULL)) as boot:
        assert boot.stdout is not None
        assert boot.stdout.readline() == "ready\n"
        boot.send_signal(number)
        out, err = boot.communicate(timeout=30)
    assert (boot.returncode, out) == (5, f"got {name}\n"), err


def test_share_prints_the_link_alone_and_seeds_until_interrupted(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("content")
    node = Node(tmp_path / "home")
    with running(node.start("share", str(tree), "--listen", "/ip4/127.0.0.1/tcp/0")) as share:
        assert share.stdout is not None
        link = share.stdout.readline().strip()
        assert link.startswith("hyper://")
        peers = [word for address in node.status()["addresses"] for word in ("--peer", address)]
        other = Node(tmp_path / "other").run("log", link, *peers, "--json")
        assert other.returncode == 0, other.stderr
        assert len(json.loads(other.stdout)["versions"]) == 1
        share.send_signal(signal.SIGINT)
        out, err = share.communicate(timeout=30)
    assert (share.returncode, out) == (0, ""), err
    assert "Traceback" not in err


def test_with_a_daemon_share_returns_and_the_daemon_seeds_again_after_a_restart(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("content")
    node = Node(tmp_path / "home")
    with daemon(node):
        shared = node.run("share", str(tree), "--name", "tiny")
        assert shared.returncode == 0, shared.stderr
    link = shared.stdout.strip()
    assert shared.stdout == f"{link}\n"
    with daemon(node) as again:
        assert [entry["link"] for entry in node.status()["logs"]] == [link]
        assert node.status()["addresses"] == list(again.addresses)
        other = Node(tmp_path / "other").run("log", link, *again.peers)
        assert other.returncode == 0, other.stderr


def test_a_home_has_one_daemon(tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    with daemon(node) as first:
        second = node.run("daemon")
        assert (second.returncode, second.stdout) == (5, "")
        assert str(first.process.pid) in second.stderr
        assert "Traceback" not in second.stderr


def test_a_daemon_killed_gives_its_home_free(tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    with daemon(node) as first:
        first.kill()
    with daemon(node):
        assert node.status()["addresses"]


def test_a_boot_that_is_killed_leaves_no_container(world: World) -> None:
    with running(world.booter.start("boot", world.link, *world.seeder.peers, "--", "sleep", "987")) as boot:
        wait_until(lambda: b"sleep\x00987" in _all_commands(), "the container runs")
        boot.send_signal(signal.SIGTERM)
        assert boot.wait(30) == 128 + signal.SIGTERM
    wait_until(lambda: b"sleep\x00987" not in _all_commands(), "the container is gone", 10)


def _all_commands() -> bytes:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                found.append((process / "cmdline").read_bytes())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return b"\n".join(line for line in found if line.startswith(b"sleep"))
