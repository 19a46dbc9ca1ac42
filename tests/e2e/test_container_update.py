"""Limits and restart policies of containers, changed while they run and while they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.containers import nothing_of_containers_left, share
from tests.support.nodes import Node, daemon
from tests.vmhost.support import make_busybox_root, needs_programs
from vmhost.cgroup import hierarchies

pytestmark = [pytest.mark.real, needs_programs]

_EATER = "cat /dev/zero | head -c 60000000 | tail -c 60000000 >/dev/null"


@pytest.mark.skipif(
    not {"cpu", "memory", "pids"} <= (hierarchies().controllers | hierarchies().old.keys()),
    reason="this host's control groups cannot be written to",
)
def test_limits_hold_at_once_and_from_then_on(tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    with daemon(node), nothing_of_containers_left(node.home):
        home = share(node, make_busybox_root(tmp_path / "root"))
        home.boot("--name", "box", "--env", "KEPT=1", script="echo up; exec sleep 1000")
        home.wait_log("box", "up")
        home.do("exec", "box", "sh", "-c", _EATER)
        home.do("update", "--memory", "30M", "--pids-limit", "20", "--cpus", "0.5", "--restart", "always", "box")
        home.do("exec", "box", "sh", "-c", _EATER, status=137)
        assert use(home.do("stats", "--no-stream", "--json", "box"))["memory_limit"] in range(29_990_000, 30_000_001)
        forks = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 5 & done"
        assert "fork" in node.run("exec", "box", "sh", "-c", forks).stderr
        config = home.inspect("box")["config"]
        changed = (30_000_000, 20, 0.5, "always", ["KEPT=1"])
        assert tuple(config[name] for name in ("memory", "processes", "cpus", "restart", "env")) == changed
        home.do("stop", "-t", "1", "box")
        # While it does not run, and under a name that it has only had since it was made.
        home.do("rename", "box", "crate")
        home.do("update", "--memory", "40M", "--restart", "no", "crate")
        home.do("start", "crate")
        assert use(home.do("stats", "--no-stream", "--json", "crate"))["memory_limit"] in range(39_990_000, 40_000_001)
        for words, said in (
            ((), "nothing is to be changed"),
            (("--memory", "1"), "are too few"),
            (("--cpus", "0"), "make no sense"),
            (("--restart", "sometimes"), "sometimes"),
        ):
            done = node.run("update", *words, "crate")
            assert (done.returncode, said in done.stderr) == (4, True), done.stderr
        told = home.do("events", "--since", "1h", "--no-follow", "--json", "--filter", "event=update")
        assert [json.loads(line)["action"] for line in told.splitlines()] == ["update", "update"]
        home.do("rm", "-f", "crate")


def use(text: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(text)["containers"][0]
    return found
