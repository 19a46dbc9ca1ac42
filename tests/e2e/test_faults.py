"""What goes wrong between two hosts, and exactly what people see then: exit code, words, time, and nothing left."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyperlog.ids import to_text
from tests.e2e.conftest import World
from tests.support.nodes import Node, daemon, liar, running, wait_until

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn", "netns", "tc", "mmdebstrap"), pytest.mark.slow]

_BOOT_FAILED = 125
_DEADLINE = 4.0
_BIG_FILE = "/usr/bin/perl"
# Reads in whole what is mapped into its memory, so that it needs nothing more for itself (a page of code that nobody
# delivers is SIGBUS), says so, waits for a line, then reads a file that nobody has read yet, and tells.
_READER = f"""
import errno, os, sys, time
for path in {{line.split()[5] for line in open("/proc/self/maps") if "/" in line}}:
    open(path, "rb").read()
print("ready", flush=True)
sys.stdin.readline()
start = time.monotonic()
try:
    total = 0
    with open({_BIG_FILE!r}, "rb", buffering=0) as file:
        while piece := file.read(65536):
            total += len(piece)
    print("read", total, flush=True)
except OSError as error:
    print(errno.errorcode[error.errno], round(time.monotonic() - start, 1), flush=True)
    sys.exit(9)
"""


def command(world: World, *options: str) -> list[str]:
    return ["boot", world.link, *options, "--", "python3", "-c", _READER]


@pytest.fixture
def second(world: World, tmp_path: Path) -> Node:
    """Another node on the seeder's side that holds what the reader reads, having run it. Not running now."""
    node = Node(tmp_path / "second", world.hosts.left)
    done = node.run(*command(world, *world.seeder.peers), stdin="go\n")
    assert done.returncode == 0, done.stderr
    return node


def expected_read(world: World) -> str:
    return f"ready\nread {(world.root / _BIG_FILE[1:]).stat().st_size}\n"


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def go(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Let the reader read; the rest of its output, and standard error."""
    return process.communicate("go\n", timeout=60)


def test_a_corrupted_block_is_refused_and_fetched_from_another_peer(world: World, second: Node) -> None:
    """The liar is the only peer at first, so that it is asked; the boot waits, and goes on when another peer comes."""
    with daemon(world.booter), liar(second) as lying:
        with running(world.booter.start(*command(world, *lying.peers))) as boot:
            wait_until(lambda: bool(banned_peers(world.booter)) or boot.poll() is not None, "the liar is banned")
            assert world.booter.run("log", world.link, "--refresh", *world.seeder.peers).returncode == 0
            out, err = go(boot)
        assert (boot.returncode, out) == (0, expected_read(world)), err
        (banned,) = banned_peers(world.booter)
        assert all(address.endswith(banned) for address in lying.addresses)


def banned_peers(node: Node) -> set[str]:
    return {peer["peer"] for peer in node.status()["peers"] if peer["banned"]}


def test_with_only_a_liar_there_is_no_boot(world: World, second: Node) -> None:
    world.seeder.kill()
    with liar(second) as lying:
        done = world.booter.run("boot", world.link, *lying.peers, "--", "true")
    assert (done.returncode, done.stdout) == (_BOOT_FAILED, "")
    assert "hypernode: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_peer_killed_in_the_middle_is_replaced_by_another(world: World, second: Node) -> None:
    with daemon(second) as other:
        with running(world.booter.start(*command(world, *world.seeder.peers, *other.peers))) as boot:
            assert read_line(boot) == "ready\n"
            world.seeder.kill()
            start = time.monotonic()
            out, err = go(boot)
        assert (boot.returncode, "ready\n" + out) == (0, expected_read(world)), err
        assert time.monotonic() - start < 15


def test_with_no_peer_left_reads_fail_within_the_deadline(world: World) -> None:
    options = [*world.seeder.peers, "--read-deadline", str(_DEADLINE)]
    with running(world.booter.start(*command(world, *options))) as boot:
        assert read_line(boot) == "ready\n"
        world.seeder.kill()
        out, err = go(boot)
    assert boot.returncode == 9, (out, err)
    name, seconds = out.split()
    assert name == "EIO"
    assert float(seconds) <= _DEADLINE + 2
    assert "hypernode: the container got an I/O error: " in err


def test_when_a_peer_returns_the_next_read_works(world: World, second: Node) -> None:
    with daemon(world.booter):
        options = [*world.seeder.peers, "--read-deadline", "20"]
        with running(world.booter.start(*command(world, *options))) as boot:
            assert read_line(boot) == "ready\n"
            world.seeder.kill()
            address = world.seeder.addresses[0].partition("/p2p/")[0]
            assert boot.stdin is not None
            boot.stdin.write("go\n")
            boot.stdin.flush()
            with daemon(world.seeder.node, address):
                out, err = boot.communicate(timeout=60)
    assert (boot.returncode, "ready\n" + out) == (0, expected_read(world)), err


def test_an_unknown_key_is_said_to_be_unknown(world: World, tmp_path: Path) -> None:
    link = f"hyper://{to_text(os.urandom(32))}"
    start = time.monotonic()
    asking = Node(tmp_path / "asking", world.hosts.right).start("log", link, *world.seeder.peers)
    with running(asking):
        done = world.booter.run("boot", link, *world.seeder.peers, "--", "true")
        assert (done.returncode, done.stdout) == (_BOOT_FAILED, "")
        assert "hypernode: nobody who has " in done.stderr
        assert "hint: " in done.stderr
        assert "Traceback" not in done.stderr
        out, err = asking.communicate(timeout=60)
        assert (asking.returncode, out) == (6, ""), err
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("link", ["hyper://", "hyper://short", "https://example.org", "hyper://" + "y" * 51 + "!"])
def test_a_malformed_link_is_refused_at_once(tmp_path: Path, link: str) -> None:
    node = Node(tmp_path / "home")
    for verb, code in (("boot", _BOOT_FAILED), ("log", 4)):
        done = node.run(verb, link)
        assert (done.returncode, done.stdout) == (code, "")
        assert "link" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a home on a disk of so many MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def make(mebibytes: int) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "disk", disk], check=True)
        return disk / "home"

    yield make
    if os.path.ismount(disk):
        # It was seen to be busy for a moment when no process held it any more.
        wait_until(lambda: subprocess.run(["umount", disk], check=False).returncode == 0, "the disk is free")


def test_a_full_disk_refuses_to_share(debian_root: Path, small_home: Callable[[int], Path]) -> None:
    done = Node(small_home(24)).run("share", str(debian_root))
    assert (done.returncode, done.stdout) == (6, ""), done.stderr
    assert "full" in done.stderr or "no room" in done.stderr or "No space" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_without_room_for_the_tree_refuses_to_boot(world: World, small_home: Callable[[int], Path]) -> None:
    done = Node(small_home(1), world.hosts.right).run("boot", world.link, *world.seeder.peers, "--", "true")
    assert (done.returncode, done.stdout) == (_BOOT_FAILED, "")
    assert "full" in done.stderr or "no room" in done.stderr or "No space" in done.stderr
    assert "bug" not in done.stderr


def test_a_disk_that_fills_up_does_not_stop_a_container(world: World, small_home: Callable[[int], Path]) -> None:
    """What cannot be kept is used all the same, and right."""
    programs = sorted(path for path in (world.root / "usr/bin").iterdir() if path.is_file() and not path.is_symlink())
    names = ["/" + path.relative_to(world.root).as_posix() for path in programs]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in programs)).hexdigest()
    disk = small_home(3)
    script = ["sh", "-c", 'cat "$@" | sha256sum', "sh", *names]
    done = Node(disk, world.hosts.right).run("boot", world.link, *world.seeder.peers, "--", *script)
    assert (done.returncode, done.stdout) == (0, f"{digest}  -\n"), done.stderr
    assert shutil.disk_usage(disk).free < 320 * 1024, "what blocks leave free (hyperlog/blocks.py), and one of them"


# A user who may read everything, so that where Python and this checkout lie does not matter, but is not root.
_NOBODY = [
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
]
# A mount namespace whose /dev has what programs need, but no fuse.
_NO_FUSE_SCRIPT = (
    "mount -t tmpfs dev /dev && mknod /dev/null c 1 3 && mknod /dev/zero c 1 5 && mknod /dev/urandom c 1 9"
    ' && mknod /dev/random c 1 8 && chmod 666 /dev/* && exec "$@"'
)
_NO_FUSE = ["unshare", "--mount", "--propagation=private", "sh", "-c", _NO_FUSE_SCRIPT, "sh"]


def test_without_root_it_says_so(world: World, tmp_path: Path) -> None:
    home = tmp_path / "nobody"
    home.mkdir()
    os.chown(home, 65534, 65534)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    node = Node(home / "home", world.hosts.right)
    done = node.run("boot", world.link, *world.seeder.peers, "--", "true", wrapper=_NOBODY)
    assert (done.returncode, done.stdout) == (_BOOT_FAILED, "")
    assert done.stderr == "hypernode: mounting images needs root\n  hint: run it with sudo\n"


def test_without_dev_fuse_it_says_so(world: World) -> None:
    done = world.booter.run("boot", world.link, *world.seeder.peers, "--", "true", wrapper=_NO_FUSE)
    assert (done.returncode, done.stdout) == (_BOOT_FAILED, "")
    assert done.stderr.startswith("hypernode: there is no /dev/fuse\n  hint: load it with `modprobe fuse`")


def test_after_a_crash_the_next_run_clears_the_mounts(world: World, tmp_path: Path) -> None:
    view = tmp_path / "view"
    view.mkdir()
    with running(world.booter.start("mount", world.link, str(view), *world.seeder.peers, stderr=None)) as mount:
        wait_until(lambda: os.path.ismount(view) or mount.poll() is not None, "mounted")
        mount.kill()
        mount.wait()
    home = os.fspath(world.booter.home)
    assert home in Path("/proc/self/mountinfo").read_text()
    done = world.booter.run("boot", world.link, *world.seeder.peers, "--", "echo", "again")
    assert (done.returncode, done.stdout) == (0, "again\n"), done.stderr
    assert home not in Path("/proc/self/mountinfo").read_text()
    assert str(view) not in Path("/proc/self/mountinfo").read_text()
