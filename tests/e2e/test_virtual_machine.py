"""A shared image in a virtual machine: over the swarm, lazily, with its exit status, streams and further programs.

Always under emulation: what is true there is true under KVM, and whether that works differs from machine to machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import World
from tests.support.guest import CACHE_HOME, built_guest
from tests.support.nodes import Node, boot_figures, daemon, end, wait_until
from tests.support.trees import data_bytes
from vmhost.machines.limits import GUEST_OWN_MIB
from vmhost.machines.platforms import remember_kvm

pytestmark = [
    pytest.mark.real("root", "fuse", "netns", "tc", "mmdebstrap", "qemu", "apt-get"),
    pytest.mark.slow,
]

MIB = 1 << 20
_MOVED_MAX = 0.15
_SECONDS = 400.0  # of one boot, on a machine that has other things to do
_PROGRAM = "import json,sys,os; print(json.dumps([sys.stdin.read(), os.uname().release, os.getpid() > 1])); sys.exit(7)"
_ECHO = """
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
while True:
    data, sender = server.recvfrom(65536)
    server.sendto(b"inside: " + data, sender)
"""
_ASK = """
import socket, sys
asking = socket.socket(type=socket.SOCK_DGRAM)
asking.connect(("127.0.0.1", int(sys.argv[1])))
asking.settimeout(1)
while True:
    try:
        asking.send(b"word" * 9000)
        print(end=asking.recv(65536).decode())
        break
    except OSError:  # it is still starting
        continue
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The kernel's release of a built guest."""
    return str(built_guest("fast", tmp_path_factory.mktemp("guest"))["kernel_release"])


@pytest.fixture
def world(make_world: Callable[[int | None], World]) -> World:
    world = make_world(None)
    booter = replace(world.booter, environment={"XDG_CACHE_HOME": os.fspath(CACHE_HOME)})
    remember_kvm(booter.home.parent / "state" / "hypernode" / "kvm.json", "these tests do without")
    return replace(world, booter=booter)


def machines_of(process: subprocess.Popen[str]) -> list[int]:
    """The virtual machines that a command runs."""
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    children = [int(pid) for pid in listing.read_text().split()] if listing.exists() else []
    return [pid for pid in children if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]]


def boot(node: Node, world: World, *command: str, options: tuple[str, ...] = ()) -> list[str]:
    return ["boot", "--isolation", "vm", *options, world.link, *world.seeder.peers, "--", *command]


def test_an_image_boots_in_a_machine_having_moved_little(world: World, guest: str, tmp_path: Path) -> None:
    size, stats, booter = data_bytes(world.root), tmp_path / "stats.json", world.booter
    refused = booter.run(*boot(booter, world, "true"))
    assert refused.returncode == 125
    assert "these tests do without" in refused.stderr
    assert "--trust" in refused.stderr

    before = world.hosts.right.received_bytes()
    argv = boot(booter, world, "python3", "-c", _PROGRAM, options=("--trust", "--stats", str(stats)))
    done = booter.run(*argv, stdin="said", seconds=_SECONDS)
    moved = world.hosts.right.received_bytes() - before

    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout) == ["said", guest, True]
    assert 0 < moved <= _MOVED_MAX * size, f"{moved / size:.1%} of the image crossed the wire"
    figures = boot_figures(stats)
    assert (figures["exit_code"], figures["link"]) == (7, world.link)
    assert 0 < figures["wire_bytes"] <= moved

    missing = booter.run(*boot(booter, world, "no-such-program", options=("--trust",)), seconds=_SECONDS)
    assert missing.returncode == 127
    assert "no-such-program" in missing.stderr


def test_a_machine_in_the_background_is_reached_into(world: World, guest: str, tmp_path: Path) -> None:
    with daemon(world.booter) as running:
        use_a_machine_in_the_background(running.node, world, guest, tmp_path)


def use_a_machine_in_the_background(booter: Node, world: World, guest: str, tmp_path: Path) -> None:
    options = ("--trust", "--detach", "--name", "box", "--memory", "256M", "-p", "127.0.0.1:0:53/udp")
    made = booter.run(*boot(booter, world, "python3", "-c", _ECHO, options=options), seconds=_SECONDS)
    assert made.returncode == 0, made.stderr
    try:
        published = json.loads(booter.run("inspect", "box").stdout)[0]["state"]["ports"][0]
        assert published.endswith("->53/udp")
        asking = [*world.hosts.right.enter, sys.executable, "-c", _ASK, published.partition("->")[0].rpartition(":")[2]]
        answer = subprocess.run(asking, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
        assert answer == "inside: " + "word" * 9000
        second = booter.run("exec", "box", "sh", "-c", "cat /proc/sys/kernel/osrelease; exit 9")
        assert (second.returncode, second.stdout.strip()) == (9, guest), second.stderr
        (tmp_path / "file").write_text("copied in")
        assert booter.run("cp", str(tmp_path / "file"), "box:/tmp/").returncode == 0
        assert booter.run("exec", "box", "cat", "/tmp/file").stdout == "copied in"
        for change in ("pause", "unpause"):
            assert booter.run(change, "box").returncode == 0
        assert booter.run("exec", "box", "true").returncode == 0
        assert booter.run("update", "--memory", "200M", "--cpus", "0.5", "box").returncode == 0
        use = json.loads(booter.run("stats", "--no-stream", "--json", "box").stdout)["containers"][0]
        assert use["memory_limit"] == (200_000_000 // MIB - GUEST_OWN_MIB) * MIB
        assert json.loads(booter.run("inspect", "box").stdout)[0]["config"]["memory"] == 200_000_000
        assert booter.run("exec", "box", "cat", "/sys/fs/cgroup/cpu.max").stdout == "50000 100000\n"
        for wish in (("--memory", "300M"), ("--cpus", "2"), ("--pids-limit", "9")):
            assert booter.run("update", *wish, "box").returncode == 4
    finally:
        removed = booter.run("rm", "--force", "box")
    assert removed.returncode == 0, removed.stderr


def test_a_killed_machine_is_named_and_leaves_nothing(world: World, guest: str) -> None:
    argv = boot(world.booter, world, "sh", "-c", "echo up; sleep 1000", options=("--trust",))
    process = world.booter.start(*argv)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        (machine,) = machines_of(process)
        os.kill(machine, signal.SIGKILL)
        _, said = process.communicate(timeout=_SECONDS)
    finally:
        end(process)
    assert process.returncode == 125
    assert "QEMU was killed" in said
    assert not list((world.booter.home / "run" / "boot").iterdir())


@pytest.mark.parametrize("stage", ["fetching", "booting"])
def test_a_start_that_is_interrupted_leaves_nothing(world: World, guest: str, stage: str) -> None:
    process = world.booter.start(*boot(world.booter, world, "sleep", "1000", options=("--trust",)))
    try:
        if stage == "booting":
            wait_until(lambda: bool(machines_of(process)) or process.poll() is not None, "QEMU started", _SECONDS)
            (machine,) = machines_of(process)
        else:
            wait_until(lambda: (world.booter.home / "api.sock").exists(), "its node is up")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=_SECONDS)
    finally:
        end(process)
    assert process.returncode == 130, said
    if stage == "booting":
        assert not Path(f"/proc/{machine}").exists()
    places = world.booter.home / "run" / "boot"
    assert not places.exists() or not list(places.iterdir())
