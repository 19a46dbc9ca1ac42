"""Virtual machines that end, hang, or run full: the cause is named, and nothing is left of them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.guest import CACHE_HOME
from tests.support.machines import BOOT_SECONDS, NEEDS, MachineHome, machine_home
from tests.support.nodes import end, wait_until
from vmhost.agent.limits import SILENCE_SECONDS
from vmhost.machines.limits import ABANDONED_SECONDS
from vmhost.machines.platforms import kvm_problem, remember_kvm

pytestmark = [pytest.mark.real(*NEEDS), pytest.mark.slow]

_SMALL = ("--memory", "200M")  # all of the same size: they begin from one saved machine


def test_what_ends_a_machine_is_named(tmp_path: Path) -> None:
    with machine_home(tmp_path) as home:
        for script, status, told in (
            ("echo c >/proc/sysrq-trigger; sleep 1000", 125, "the guest's kernel panicked: sysrq triggered crash"),
            ("echo o >/proc/sysrq-trigger; sleep 1000", 125, "the guest turned itself off"),
            ("exec tail -c 140000000 /dev/zero", 137, "the guest ran out of memory: it has 190 MiB"),
            ("dd if=/dev/zero of=/big bs=65536 || exit 5", 5, "what the image may write is full: 30 MiB"),
        ):
            said = home.run_in_vm(*_SMALL, script=script, status=status)
            assert told in said, said
            assert not list((home.node.home / "run/boot").iterdir())
        run_again_what_failed(home)
        end_with_its_keeper(home)


def run_again_what_failed(home: MachineHome) -> None:
    home.boot_vm("--name", "box", "--restart", "on-failure", *_SMALL, script="echo up; sleep 1000")
    home.wait_log("box", "up")
    first = home.state("box")["pid"]
    os.kill(first, signal.SIGSTOP)
    frozen = time.monotonic()
    wait_until(lambda: home.state("box")["restart_count"] == 1, "the one that hangs is given up")
    assert time.monotonic() - frozen >= SILENCE_SECONDS - 6, "it was given up too early"
    assert not Path(f"/proc/{first}").exists()
    home.wait_status("box", "running")
    second = home.state("box")["pid"]
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: home.state("box")["restart_count"] == 2, "the one that was killed is started again")
    home.wait_status("box", "running")


def end_with_its_keeper(home: MachineHome) -> None:
    """And begin again with another one, by the policy."""
    state = home.state("box")
    os.kill(state["keeper"], signal.SIGKILL)
    wait_until(lambda: not is_alive(state["pid"]), "QEMU goes with its keeper")
    wait_until(lambda: home.state("box")["keeper"] not in (0, state["keeper"]), "it is known to have ended")
    home.wait_status("box", "running")


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_machines_that_never_come_up(tmp_path: Path) -> None:
    with machine_home(tmp_path) as home:
        leave_a_silent_kvm_to_the_emulator(home, tmp_path)
        be_killed_while_a_machine_is_saved(home, tmp_path / "cache")


def leave_a_silent_kvm_to_the_emulator(home: MachineHome, directory: Path) -> None:
    """KVM is played by a QEMU whose processors never start."""
    player, played = directory / "bin" / "qemu-system-x86_64", directory / "played"
    player.parent.mkdir()
    player.write_text(_PLAYER.format(real=shutil.which(player.name), played=played))
    player.chmod(0o755)
    verdict = home.node.home.parent / "state" / "hypernode" / "kvm.json"
    remember_kvm(verdict, None)
    search = f"{player.parent}:{os.environ['PATH']}"
    node = replace(home.node, environment={**home.node.environment, "PATH": search})
    argv = ("boot", "--isolation", "vm", *_SMALL, home.link, "--", "echo", "here")
    done = node.run(*argv, seconds=BOOT_SECONDS)
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr
    assert "KVM does not work here" in done.stderr
    assert kvm_problem(verdict) is not None
    played.unlink()
    again = node.run(*argv, seconds=BOOT_SECONDS)
    assert (again.returncode, again.stdout, again.stderr) == (0, "here\n", "")
    assert not played.exists()


_PLAYER = """#!/bin/sh
case " $* " in *" -accel kvm "*) ;; *) exec {real} "$@" ;; esac
touch {played}
for word; do
    shift
    case "$word" in kvm) word=tcg ;; host) word=max ;; esac
    set -- "$@" "$word"
done
exec {real} "$@" -S
"""


def be_killed_while_a_machine_is_saved(home: MachineHome, cache: Path) -> None:
    (cache / "hypernode").mkdir(parents=True)
    (cache / "hypernode" / "guests").symlink_to(CACHE_HOME / "hypernode" / "guests")
    home = MachineHome(replace(home.node, environment={"XDG_CACHE_HOME": str(cache)}), home.link)
    templates = cache / "hypernode" / "templates"
    process = home.node.start("boot", "--isolation", "vm", *_SMALL, home.link, "--", "true")
    try:
        wait_until(lambda: process.poll() is not None or any(templates.glob("*/qmp.sock")), "one is being made")
        process.kill()
        process.communicate(timeout=BOOT_SECONDS)
    finally:
        end(process)
    (left,) = templates.glob("*-*/")
    wait_until(lambda: not machines_in(left), "QEMU goes with the command")
    os.utime(left, (0, time.time() - 2 * ABANDONED_SECONDS))
    assert home.run_in_vm(*_SMALL, script="echo here") == "here\n"
    (made,) = templates.iterdir()
    assert sorted(path.name for path in made.iterdir()) == ["memory", "state"]


def machines_in(directory: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == directory and is_alive(int(entry.name)):
                found.append(entry.name)
    return found
