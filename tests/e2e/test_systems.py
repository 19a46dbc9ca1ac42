"""Images that boot as whole systems: systemd is process 1, on this host and in a virtual machine."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.containers import Home
from tests.support.machines import BOOT_SECONDS, NEEDS, machine_home
from tests.support.nodes import PATIENCE_SECONDS, end, wait_until
from tests.support.system_root import MEASURED, REACHED, system_root

pytestmark = [pytest.mark.real(*NEEDS, "mmdebstrap"), pytest.mark.slow]


def test_a_system_boots_here_and_in_a_machine(tmp_path: Path) -> None:
    with machine_home(tmp_path) as small:
        no_init = small.node.run("boot", "-b", small.link)
        assert (no_init.returncode, "no init" in no_init.stderr) == (127, True), no_init.stderr
        home = Home(small.node, small.do("share", str(system_root())).strip())
        boot_to_the_end(home)
        power_off_from_outside(home)
        live_on_through_a_reboot(home)
        boot_in_a_machine(home)


def boot_to_the_end(home: Home) -> None:
    traced = home.do("trace", "--system", "--until-exit", home.link, "--", *MEASURED)
    assert traced.startswith("the start of /sbin/init reads "), traced
    assert home.do("boot", "--system", home.link, "--", *MEASURED).split() == [REACHED]


def power_off_from_outside(home: Home) -> None:
    """As a program ends at TERM, so does a system, in order; and that is no failure."""
    with home.node.start("boot", "-b", home.link, "--", "--show-status=1") as booting:
        try:
            assert booting.stdout is not None
            while "Reached target multi-user.target" not in booting.stdout.readline():
                assert booting.poll() is None
            booting.send_signal(signal.SIGTERM)
            said, _ = booting.communicate(timeout=PATIENCE_SECONDS)
            assert booting.returncode == 0
            assert "Sending SIGTERM to remaining processes" in said
        finally:
            end(booting)


def live_on_through_a_reboot(home: Home) -> None:
    home.do("boot", "-db", "--name", "box", "-e", "SAID=by the host", home.link)
    wait_until(lambda: is_up(home, "box"), "the system is up")
    assert home.do("exec", "box", "systemctl", "--failed", "--quiet") == ""
    assert "\0SAID=by the host\0" in home.do("exec", "box", "cat", "/proc/1/environ")
    assert home.do("exec", "box", "cat", "/proc/1/comm") == "systemd\n"
    home.do("exec", "box", "sh", "-c", "touch /srv/kept; systemctl reboot")
    wait_until(lambda: home.state("box")["restart_count"] == 1 and is_up(home, "box"), "it is up again")
    assert home.do("exec", "box", "ls", "/srv") == "kept\n"
    home.do("stop", "box")
    assert home.do("wait", "box") == "0\n"
    home.do("rm", "box")


def boot_in_a_machine(home: Home) -> None:
    words = ("boot", "-db", "--name", "box", "--isolation", "vm", "--memory", "768M", home.link)
    done = home.node.run(*words, seconds=BOOT_SECONDS)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: is_up(home, "box"), "the system is up in its machine", BOOT_SECONDS)
    assert home.do("exec", "box", "cat", "/proc/1/comm") == "systemd\n"
    home.do("stop", "--time", "100", "box")
    assert home.do("wait", "box") == "0\n"


def is_up(home: Home, name: str) -> bool:
    done = home.node.run("exec", name, "systemctl", "is-system-running")
    return done.stdout == "running\n"
