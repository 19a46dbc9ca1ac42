"""Killing the node leaves its containers alive, and the node started next takes them over."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import Node, boot_figures, daemon, running, wait_until
from tests.vmhost.support import make_busybox_root, needs_programs

pytestmark = [pytest.mark.real, needs_programs]

_FILES = 60
_KILLS = 3
_DEADLINE = 2.0
_MAP_FAILED = ctypes.c_void_p(-1).value
# Each file once, never twice: what it reads is in no cache.
_LOAD = f"i=0; while [ $i -lt {_FILES} ]; do busybox sha256sum /data/big$i || exit 9; i=$((i+1)); done"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_busybox_root(tmp_path / "root")
    for number in range(_FILES):
        (root / f"data/big{number}").write_bytes(os.urandom(400_000 + number))
    return root


def expected(root: Path) -> list[str]:
    paths = [root / f"data/big{number}" for number in range(_FILES)]
    return [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  /data/{path.name}\n" for path in paths]


def share(node: Node, root: Path) -> str:
    done = node.run("share", str(root))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def start(node: Node, link: str, script: str, *options: str) -> subprocess.Popen[str]:
    return node.start("boot", *options, link, "--", "sh", "-c", script)


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def wait_back(process: subprocess.Popen[str]) -> None:
    """Until the command of a container says that its node was killed, and that there is another."""
    assert process.stderr is not None
    said = [process.stderr.readline(), process.stderr.readline()]
    assert ["was killed" in said[0], "is back" in said[1]] == [True, True], said


def mounted(node: Node) -> bool:
    return f" {node.home}/" in Path("/proc/self/mountinfo").read_text()


@contextlib.contextmanager
def locked_in_memory(*paths: Path) -> Iterator[None]:
    """These files are cached, and stay so: a kernel may reclaim pages that nobody used for some seconds."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    with contextlib.ExitStack() as stack:
        for path in paths:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
            assert address != _MAP_FAILED, os.strerror(ctypes.get_errno())
            stack.callback(libc.munmap, ctypes.c_void_p(address), ctypes.c_size_t(size))
            locked = libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size))
            assert locked == 0, os.strerror(ctypes.get_errno())
        yield


def test_a_container_reads_on_when_its_node_is_killed_again_and_again(root: Path, tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    read: list[str] = []
    with daemon(node) as first:
        link = share(node, root)
        boot = start(node, link, _LOAD, "--stats", str(tmp_path / "stats.json"))
        with running(boot):
            read += lines(boot, 5)
            first.kill()
            for _ in range(_KILLS - 1):
                with daemon(node) as next_one:
                    wait_back(boot)
                    read += lines(boot, 5)
                    next_one.kill()
            with daemon(node):
                wait_back(boot)
                read += lines(boot, _FILES - len(read))
                assert boot.wait(60) == 0
                assert not list((node.home / "run/boot").iterdir())
    assert read == expected(root)
    assert boot_figures(tmp_path / "stats.json")["exit_code"] == 0
    assert not mounted(node)


def test_without_a_node_what_is_cached_is_read_and_the_rest_fails_in_time(root: Path, tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    script = "cat /data/big0 | wc -c; read go; cat /data/big0 | wc -c; busybox time -f %e cat /data/big1 > /dev/null"
    with daemon(node) as only:
        link = share(node, root)
        with running(start(node, link, script, "--read-deadline", str(_DEADLINE))) as boot:
            assert lines(boot, 1) == ["400000\n"]
            [root_here] = node.home.glob("run/boot/*/root")
            with locked_in_memory(root_here / "bin/busybox", root_here / "data/big0"):
                only.kill()
                out, err = boot.communicate("go\n", timeout=60)
    assert out == "400000\n", err
    assert "cat: read error: I/O error" in err or "Input/output error" in err
    seconds = next(float(line) for line in err.splitlines() if line.replace(".", "").isdigit())
    assert seconds <= _DEADLINE + 2
    assert node.run("images").returncode == 0  # becomes the next node, and clears away what is left
    wait_until(lambda: not mounted(node), "cleared")


def test_an_orderly_stop_ends_the_container(root: Path, tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    with daemon(node) as stopped:
        link = share(node, root)
        with running(start(node, link, "echo up; sleep 600")) as boot:
            assert lines(boot, 1) == ["up\n"]
            stopped.process.terminate()
            _, err = boot.communicate(timeout=60)
            assert stopped.process.wait(60) == 0
    assert boot.returncode == 125
    assert "the node ended" in err
    assert not mounted(node)
