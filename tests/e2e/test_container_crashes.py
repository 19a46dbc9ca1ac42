"""Keepers killed at any point of a container's life: what is said is true, and nothing is left.

Daemons are in test_daemon_crashes.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import Home, groups, lock_holders, nothing_of_containers_left, processes_of, share
from tests.support.nodes import Node, daemon, running, wait_until
from tests.vmhost.support import make_busybox_root, needs_programs

pytestmark = [pytest.mark.real, needs_programs]

_POINTS = 10
_STEP_SECONDS = 0.12
"""A boot takes about a second: the points lie before, in and after each of its steps, on machines of any speed."""
_FOREVER = "echo up; while true; do sleep 1; done"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "home")
    with nothing_of_containers_left(node.home):
        yield node


def _is_true(home: Home, name: str) -> str:
    """What `ps` says of the container, which must be so; its status."""
    wait_until(lambda: name in home.names("-a"), "it is known")
    state = home.inspect(name)["state"]
    if state["status"] == "running":
        assert home.do("exec", name, "echo", "in") == "in\n"
    else:
        assert state["status"] in ("created", "exited")
        assert state["pid"] == 0
        assert state["status"] == "created" or state["error"]
    return str(state["status"])


def _cleared(home: Home, name: str) -> None:
    """What is left of a container that does not run: nothing in the kernel."""
    machine = f"hypernode-{home.inspect(name)['id'][:12]}"
    wait_until(lambda: machine not in groups(home.node.home), "no control group")
    wait_until(lambda: not [line for line in processes_of(home.node.home) if machine in line], "no process")


def test_its_keeper_is_killed_at_ten_points(node: Node, tmp_path: Path) -> None:
    with daemon(node):
        home = share(node, make_busybox_root(tmp_path / "root"))
        home.boot("--rm", script="true")  # from here on the image is mounted
        for point in range(_POINTS):
            name = f"point{point}"
            with running(node.start("boot", "-d", "--name", name, home.link, "--", "sh", "-c", _FOREVER)) as boot:
                keeper = _keeper(home, name)
                time.sleep(point * _STEP_SECONDS)  # the point
                with contextlib.suppress(ProcessLookupError):
                    os.kill(keeper, signal.SIGKILL)
                boot.communicate(timeout=120)
                assert boot.returncode in (0, 125)
            assert _is_true(home, name) != "running"
            _cleared(home, name)
            home.do("start", name)
            assert _is_true(home, name) == "running"
            home.do("rm", "-f", name)


def _keeper(home: Home, name: str) -> int:
    """The process id of the keeper, as soon as there is one."""
    found: list[int] = []

    def is_there() -> bool:
        for path in (home.node.home / "containers").glob("*/spec.json"):
            with contextlib.suppress(OSError):
                if f'"name": "{name}"' in path.read_text():
                    found[:] = lock_holders(path.parent / "lock")
        return bool(found)

    wait_until(is_there, f"a keeper of {name}")
    return found[0]


def test_both_are_killed_and_always_comes_back(node: Node, tmp_path: Path) -> None:
    root = make_busybox_root(tmp_path / "root")
    with daemon(node) as first:
        home = share(node, root)
        home.boot("--name", "always", "--restart", "always", script=_FOREVER)
        home.boot("--name", "once", script=_FOREVER)
        first.kill()
        for name in ("always", "once"):
            os.kill(int(home.state(name)["keeper"]), signal.SIGKILL)
        wait_until(lambda: home.names() == [], "seen without a daemon")
        assert home.state("once")["exit_code"] == 137
        assert "keeper was killed" in home.state("once")["error"]
        assert f" {node.home}/run/boot" not in Path("/proc/self/mountinfo").read_text()
    with daemon(node):
        home.wait_status("always", "running")
        assert home.names() == ["always"]
        os.kill(int(home.state("always")["keeper"]), signal.SIGKILL)  # under a daemon that lives: it brings it back
        wait_until(lambda: home.do("logs", "always").count("up") == 3, "it was started again")
        home.wait_status("always", "running")
        home.do("rm", "-f", "always", "once")


def test_many_are_started_and_removed(node: Node, tmp_path: Path) -> None:
    """bench/containers.py does it with a hundred."""
    with daemon(node):
        home = share(node, make_busybox_root(tmp_path / "root"))
        with contextlib.ExitStack() as stack:
            boots = [
                stack.enter_context(running(node.start("boot", "-d", home.link, "--", "sh", "-c", _FOREVER)))
                for _ in range(8)
            ]
            ids = [boot.communicate(timeout=120)[0].strip() for boot in boots]
        assert all(boot.returncode == 0 for boot in boots)
        assert len(home.names()) == len(set(ids)) == 8
        home.do("rm", "-f", *ids)
