"""Health checks, programs that run on by themselves, new names and pruning, through the real command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import Home, nothing_of_containers_left, share
from tests.support.nodes import PATIENCE_SECONDS, Node, daemon, running, wait_until
from tests.vmhost.support import make_busybox_root, needs_programs

pytestmark = [pytest.mark.real, needs_programs]

_FOREVER = "while true; do sleep 1; done"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """With a daemon."""
    node = Node(tmp_path / "home")
    with nothing_of_containers_left(node.home), daemon(node):
        home = share(node, make_busybox_root(tmp_path / "root"))
        try:
            yield home
        finally:
            for name in home.names("-a"):
                home.do("rm", "-f", name)


def test_a_container_gets_well_by_a_program_that_runs_on(home: Home) -> None:
    check = ["--health-cmd", "busybox test -e /tmp/ok || { echo not yet; exit 1; }", "--health-interval", "0.2s"]
    home.boot("--name", "sick", *check, "--health-retries", "2", script=_FOREVER)
    wait_until(lambda: home.state("sick")["health"] == "unhealthy", "it is unhealthy")
    assert home.state("sick")["health_log"][-1]["output"] == "not yet\n"
    assert home.names("--filter", "health=unhealthy") == ["sick"]

    home.do("exec", "--detach", "sick", "sh", "-c", "echo > /tmp/ok; sleep 1000")
    wait_until(lambda: home.state("sick")["health"] == "healthy", "it is healthy")
    assert "(healthy)" in home.do("ps")
    assert "sleep 1000" in home.do("top", "sick")  # its command has ended long ago
    home.do("exec", "-d", "sick", "no-such-program", status=127)
    home.do("exec", "-d", "-i", "sick", "cat", status=4)

    home.do("rename", "sick", "well")
    home.do("rename", "well", "well", status=5)
    home.do("rename", "well", "not/this", status=4)
    assert home.names() == home.names("--filter", "name=^well$") == ["well"]
    home.do("stop", "--time", "0", "well")
    assert home.names("--filter", "status=exited") == ["well"]
    home.do("start", "well")  # by its new name, from disk

    home.do("boot", "-d", "--name", "done", home.link, "--", "true")
    home.wait_status("done", "exited")
    assert home.do("prune").split()[1:] == ["done"]
    assert home.do("prune", "--force", "--filter", "until=1h") == ""
    home.do("prune", "--force")
    assert home.names("-a") == ["well"]

    lines = home.do("events", "--since", "1h", "--no-follow", "--json", "--filter", "type=container").splitlines()
    seen = [(event["action"].partition(":")[0], event["attributes"]["name"]) for event in map(json.loads, lines)]
    for action in ("create", "start", "health_status", "exec_create", "exec_start"):
        assert (action, "sick") in seen
    for action in ("rename", "kill", "die", "stop", "exec_die", "start"):
        assert (action, "well") in seen
    assert ("destroy", "done") in seen


def test_one_is_removed_while_it_starts(home: Home) -> None:
    with running(home.node.start("boot", "-d", "--name", "brief", home.link, "--", "sh", "-c", _FOREVER)) as boot:
        wait_until(lambda: any((home.node.home / "run/boot").glob("*")), "its root is being made")
        home.do("rm", "-f", "brief")
        boot.communicate(timeout=PATIENCE_SECONDS)
    assert home.names("-a") == []
