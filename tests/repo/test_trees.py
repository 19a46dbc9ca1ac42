"""The tree comparison notices each thing a root file system can differ in."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.trees import data_bytes, differences, file_bytes

_TIME = (1_700_000_000_000_000_000, 1_700_000_000_123_456_789)


def build(top: Path) -> Path:
    (top / "directory").mkdir(parents=True)
    (top / "file").write_bytes(b"x" * 3_000_000)
    os.link(top / "file", top / "directory" / "same file")
    (top / "alone").write_bytes(b"alone")
    (top / "link").symlink_to("alone")
    os.mkfifo(top / "fifo")
    for path in (*top.rglob("*"), top):
        os.utime(path, ns=_TIME, follow_symlinks=False)
    return top


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return build(tmp_path / "a"), build(tmp_path / "b")


def test_equal_trees_do_not_differ(pair: tuple[Path, Path]) -> None:
    assert differences(*pair) == []


def test_data_is_counted_without_holes_and_links_once(pair: tuple[Path, Path]) -> None:
    assert data_bytes(pair[0]) == file_bytes(pair[0]) == 3_000_005
    os.truncate(pair[0] / "alone", 1 << 30)
    assert file_bytes(pair[0]) == 3_000_000 + (1 << 30)
    assert data_bytes(pair[0]) < 3_100_000


def test_sockets_do_not_count(pair: tuple[Path, Path]) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(pair[0], os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/s")
        os.close(here)
    os.utime(pair[0], ns=_TIME)
    assert differences(*pair) == []


def _content(top: Path) -> None:
    with open(top / "alone", "r+b") as file:
        file.write(b"A")
    os.utime(top / "alone", ns=_TIME)


def _unlink_and_copy(top: Path) -> None:
    (top / "file").unlink()
    (top / "file").write_bytes(b"x" * 3_000_000)
    os.utime(top / "file", ns=_TIME)
    os.utime(top, ns=_TIME)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (_content, "/alone: content from byte 0"),
        (lambda top: os.truncate(top / "alone", 4), "/alone: size 5 against 4"),
        (lambda top: os.chmod(top / "directory", 0o700), "/directory: mode"),
        (lambda top: os.utime(top / "link", ns=(0, 1), follow_symlinks=False), "/link: mtime"),
        (lambda top: os.utime(top, ns=(0, 1)), "/: mtime"),
        (lambda top: os.setxattr(top / "file", "user.x", b"1"), "xattrs {} against {'user.x': b'1'}"),
        (lambda top: (top / "alone").unlink(), "/alone: only in the first"),
        (lambda top: (top / "more").touch(), "/more: only in the second"),
        (_unlink_and_copy, "hard links only in the first: ['/directory/same file', '/file']"),
        (lambda top: ((top / "link").unlink(), (top / "link").symlink_to("file")), "/link: target"),
        (lambda top: ((top / "fifo").unlink(), (top / "fifo").touch()), "/fifo: type p"),
    ],
)
def test_a_change_is_found(pair: tuple[Path, Path], change: Callable[[Path], object], difference: str) -> None:
    change(pair[1])
    assert any(difference in line for line in differences(*pair)), differences(*pair)


@pytest.mark.real("root")
def test_owners_and_devices_count(pair: tuple[Path, Path]) -> None:
    for number, top in enumerate(pair):
        os.mknod(top / "device", 0o020600, os.makedev(1, 3 + number))
        os.chown(top / "alone", 1000 + number, 2000)
    found = differences(*pair)
    assert any("/device: device" in line for line in found)
    assert any("/alone: uid 1000 against 1001" in line for line in found)
