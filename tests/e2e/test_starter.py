"""With a daemon, `boot` is run by a double that its starter forks; nobody can tell, and nobody gains anything by it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hypernode.service import UNUSED_CAPABILITIES
from tests.support.nodes import Daemon, Node, daemon, running, wait_until
from tests.vmhost.support import TOP, make_busybox_root, needs_programs
from vmhost.mount_syscalls import read_mounts

pytestmark = [pytest.mark.real, needs_programs]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(Node(tmp_path / "home")) as running:
        yield running


@pytest.fixture
def link(home: Daemon, tmp_path: Path) -> str:
    done = home.node.run("share", str(make_busybox_root(tmp_path / "root")))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def start(home: Daemon, link: str, script: str, *options: str, wrapper: Sequence[str] = ()) -> subprocess.Popen[str]:
    return home.node.start("boot", *options, link, "--", "sh", "-c", script, wrapper=wrapper)


def holder(home: Daemon) -> int:
    """The process that runs the container."""
    (claim,) = (home.node.home / "run/boot").glob("*/claim.json")
    pid: int = json.loads(claim.read_text())["pid"]
    return pid


def test_streams_status_directory_and_environment_are_the_client_s(home: Daemon, link: str, tmp_path: Path) -> None:
    with running(start(home, link, "read a; echo got $a; read b; echo no >&2; exit 7", "--stats", "s.json")) as boot:
        assert boot.stdin is not None
        assert boot.stdout is not None
        boot.stdin.write("one\n")
        boot.stdin.flush()
        assert boot.stdout.readline() == "got one\n"
        assert holder(home) != boot.pid
        out, err = boot.communicate("two\n", timeout=60)
    assert (boot.returncode, out, err) == (7, "", "no\n")
    figures = json.loads((TOP / "s.json").read_text())
    (TOP / "s.json").unlink()
    assert figures["exit_code"] == 7
    done = Node(home.node.home, environment={"HYPERNODE_READ_DEADLINE": "long"}).run("boot", link, "--", "true")
    assert (done.returncode, done.stderr) == (
        125,
        "hypernode: HYPERNODE_READ_DEADLINE: 'long' is not a number of seconds\n  hint: write 30, or 2.5\n",
    )
    assert home.node.run("boot", link, "--no-such-option").returncode == 2


def test_signals_reach_the_container_and_a_killed_client_takes_it_along(home: Daemon, link: str) -> None:
    script = "trap 'echo stopping; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    with running(start(home, link, script)) as boot:
        assert boot.stdout is not None
        assert boot.stdout.readline() == "ready\n"
        boot.send_signal(signal.SIGTERM)
        out, err = boot.communicate(timeout=60)
    assert (boot.returncode, out) == (5, "stopping\n"), err
    with running(start(home, link, script)) as boot:
        assert boot.stdout is not None
        assert boot.stdout.readline() == "ready\n"
        double = holder(home)
        boot.kill()
        wait_until(lambda: not os.path.exists(f"/proc/{double}"), "the double ends")
        wait_until(lambda: not list((home.node.home / "run/boot").iterdir()), "what it had mounted is gone")
        assert not any(
            point.source.startswith(str(home.node.home)) for point in read_mounts() if "nspawn" in point.path
        )


def test_who_has_less_than_the_daemon_boots_by_itself(home: Daemon, link: str) -> None:
    for wrapper in (["setpriv", "--bounding-set=-sys_time"], ["unshare", "--uts"], ["setpriv", "--groups=7"]):
        with running(start(home, link, "echo ready; read a", wrapper=wrapper)) as boot:
            assert boot.stdout is not None
            assert boot.stdout.readline() == "ready\n"
            assert holder(home) == boot.pid, wrapper
            _, err = boot.communicate("\n", timeout=60)
        assert boot.returncode == 0, err


def test_who_was_upgraded_since_boots_by_itself(home: Daemon, link: str, tmp_path: Path) -> None:
    for package in ("hyperlog", "hypernode", "images", "swarm", "vmhost"):
        shutil.copytree(TOP / package, tmp_path / "upgraded" / package, ignore=shutil.ignore_patterns("__pycache__"))
    with running(start(home, link, "echo ready; read a", wrapper=["env", "-C", str(tmp_path / "upgraded")])) as boot:
        assert boot.stdout is not None
        assert boot.stdout.readline() == "ready\n"
        assert holder(home) == boot.pid
        boot.communicate("\n", timeout=60)


def test_a_daemon_without_what_no_container_gets_starts_them_all_the_same(tmp_path: Path) -> None:
    """As the service does (hypernode/service.py)."""
    fewer = ",".join(f"-cap_{number}" for number in UNUSED_CAPABILITIES.values())
    node = Node(tmp_path / "home")
    with daemon(node, wrapper=["setpriv", f"--bounding-set={fewer}"]) as home:
        shared = node.run("share", str(make_busybox_root(tmp_path / "root")))
        script = "grep CapEff /proc/self/status; read line"
        with running(start(home, shared.stdout.strip(), script)) as boot:
            assert boot.stdout is not None
            by_double = boot.stdout.readline()
            assert holder(home) != boot.pid
            boot.communicate("\n", timeout=60)
    with daemon(node) as home, running(start(home, shared.stdout.strip(), script)) as boot:
        assert boot.communicate("\n", timeout=60)[0] == by_double
