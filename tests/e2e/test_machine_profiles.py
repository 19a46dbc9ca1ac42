"""Containers in machines whose guest has systemd as its PID 1, and hypervisors that are not here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.guest import built_guest
from tests.support.machines import NEEDS, machine_home

pytestmark = [pytest.mark.real(*NEEDS), pytest.mark.slow]


def test_a_container_under_a_guest_with_systemd(tmp_path: Path) -> None:
    built_guest("systemd", tmp_path)
    with machine_home(tmp_path) as home:
        home.boot_vm("--name", "box", "--guest", "systemd", script="echo up; sleep 1000")
        home.wait_log("box", "up")
        assert home.do("exec", "box", "sh", "-c", "echo inside").strip() == "inside"
        # Its control groups lie below the unit of the agent.
        assert home.do("stats", "--no-stream", "box").splitlines()[1].split()[0] == "box"
        home.do("stop", "-t", "1", "box")
        assert home.state("box")["status"] == "exited"
        without = replace(home.node, environment={**home.node.environment, "PATH": str(tmp_path)})
        for words, said in (
            (("--hypervisor", "xen"), "xl is not installed"),
            (("--hypervisor", "cloud-hypervisor"), "cloud-hypervisor is not installed"),
            (("--hypervisor", "vmware"), "there is no hypervisor 'vmware'"),
            (("--guest", "other"), "there is no guest 'other'"),
        ):
            done = without.run("boot", "--isolation", "vm", *words, home.link)
            assert (done.returncode, said in done.stderr) == (125, True), done.stderr
