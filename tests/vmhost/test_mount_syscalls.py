"""What is mounted, in which order it is undone, and undoing it after a crash."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from vmhost.mount_syscalls import (
    MountPoint,
    clear_stale,
    mount,
    mounted_at,
    mounts_under,
    parse_mountinfo,
    plain_path,
    real_location,
    unmount,
)

TABLE = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 0:50 / /srv/with\040space\011and\134back rw master:2 propagate_from:1 - fuse.x hyper\040node rw,user_id=0
41 27 0:51 / /srv/high\377byte ro - erofs /meta rw

garbage
42 27 0:52 / /cut - tmpfs
x 27 0:52 / /cut rw - tmpfs none rw
"""


def test_mountinfo_is_read() -> None:
    points = parse_mountinfo(TABLE)
    assert [point.path for point in points] == [
        "/proc",
        "/",
        "/srv/with space\tand\\back",
        os.fsdecode(b"/srv/high\xffbyte"),
    ]
    assert points[2] == MountPoint(40, 27, "0:50", "/srv/with space\tand\\back", "fuse.x", "hyper node", "rw,user_id=0")


def point(number: int, parent: int, path: str) -> MountPoint:
    return MountPoint(number, parent, f"0:{number}", path, "tmpfs", "none")


@pytest.mark.parametrize(
    ("mounts", "directory", "order"),
    [
        ([], "/a", []),
        ([point(1, 0, "/"), point(2, 1, "/a")], "/b", []),
        # What stands on another goes first, however the table lists it.
        ([point(3, 2, "/a/b"), point(2, 1, "/a")], "/a", [3, 2]),
        # A name that only begins the same is another directory.
        ([point(2, 1, "/a"), point(3, 1, "/ab"), point(4, 1, "/a/c")], "/a", [4, 2]),
        # Side by side: the later one may hold the earlier one open (an overlay its lower).
        ([point(2, 1, "/a/fuse"), point(3, 1, "/a/lower"), point(4, 1, "/a/root")], "/a", [4, 3, 2]),
        # One on top of another at the same place.
        ([point(2, 1, "/a"), point(3, 2, "/a"), point(4, 3, "/a")], "/a", [4, 3, 2]),
        ([point(2, 1, "/a/x/y"), point(3, 2, "/a/x/y/z"), point(4, 1, "/a/w")], "/a", [3, 4, 2]),
        ([point(1, 1, "/"), point(2, 1, "/a")], "/", [2, 1]),
    ],
)
def test_the_order_of_unmounting(mounts: list[MountPoint], directory: str, order: list[int]) -> None:
    assert [found.mount_id for found in mounts_under(mounts, directory)] == order


def test_a_plain_path_leads_to_the_same_place(tmp_path: Path) -> None:
    odd = tmp_path / "a,b:c"
    odd.mkdir()
    with plain_path(str(odd)) as plain:
        assert not set(plain) & set(",:\\")
        assert os.path.samefile(plain, odd)
    with plain_path(str(tmp_path)) as same:
        assert same == str(tmp_path)


def test_where_a_path_really_is_though_its_end_may_be_dead(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert real_location(f"{tmp_path}/link/../link/end") == f"{tmp_path}/real/end"


@pytest.mark.real("root")
def test_what_a_crash_left_is_cleared_in_order(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").mkdir()
    mount("t", str(tmp_path / "ab"), "tmpfs", 0)
    mount("t", str(tmp_path / "a"), "tmpfs", 0)
    for name in ("lower", "up", "work", "root"):
        (tmp_path / "a" / name).mkdir()
    mount("t", str(tmp_path / "a/lower"), "tmpfs", 0)
    options = ",".join(f"{option}={tmp_path}/a/{name}" for option, name in
                       [("lowerdir", "lower"), ("upperdir", "up"), ("workdir", "work")])  # fmt: skip
    mount("o", str(tmp_path / "a/root"), "overlay", 0, options)
    assert clear_stale(str(tmp_path / "a")) == [str(tmp_path / name) for name in ("a/root", "a/lower", "a")]
    assert clear_stale(str(tmp_path / "a")) == []
    assert mounted_at(str(tmp_path / "ab")) is not None  # not ours to clear
    unmount(str(tmp_path / "ab"))


@pytest.mark.real("root")
def test_a_busy_mount_is_detached(tmp_path: Path) -> None:
    mount("t", str(tmp_path), "tmpfs", 0)
    with ExitStack() as stack:
        visitor = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
        stack.callback(visitor.wait)
        stack.callback(visitor.kill)
        assert clear_stale(str(tmp_path)) == [str(tmp_path)]
        assert visitor.poll() is None
    assert mounted_at(str(tmp_path)) is None


@pytest.mark.real("root")
def test_what_others_mount_meanwhile_does_not_count(tmp_path: Path) -> None:
    """What has gone leaves its number to the next mount of anybody, and that one stays."""
    ours, others = tmp_path / "ours", tmp_path / "others"
    places = [others / str(number) for number in range(300)]
    for place in [ours, *places]:
        place.mkdir(parents=True)

    def mount_others(begun: threading.Event) -> None:
        for place in places:
            mount("t", str(place), "tmpfs", 0)
            begun.set()

    for _ in range(20):
        mount("t", str(ours), "tmpfs", 0)
        begun = threading.Event()
        busy = threading.Thread(target=mount_others, args=(begun,))
        busy.start()
        try:
            begun.wait()
            assert clear_stale(str(ours)) == [str(ours)]
        finally:
            busy.join()
            assert len(clear_stale(str(others))) == len(places)


@pytest.mark.real("root")
def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    mount("t", str(tmp_path / "target"), "tmpfs", 0)
    with pytest.raises(OSError, match="Invalid argument"):
        unmount(str(tmp_path / "link"))
    assert clear_stale(str(tmp_path / "link")) == []
    assert clear_stale(str(tmp_path)) == [str(tmp_path / "target")]


@pytest.mark.real("root")
def test_options_longer_than_a_page_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="do not fit"):
        mount("t", str(tmp_path), "tmpfs", 0, "x" * 4096)
