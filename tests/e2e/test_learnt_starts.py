"""Boot traces that nobody asked for: a home remembers starts, and versions, copies and writers keep what was traced."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import Daemon, Node, boot_figures, daemon, wait_until
from tests.vmhost.support import make_busybox_root

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn", "busybox"), pytest.mark.slow]

_FILES = 60
_FILE_BYTES = 256 << 10
_READ = (7, 23, 41)
_RATE = 50_000
_BLOCK = 64 << 10
_START = ("sh", "-c", f"cat {' '.join(f'/data/part{number}' for number in _READ)} >/dev/null; echo started")
_OTHER = ("sh", "-c", "cat /data/part50 >/dev/null; echo started")


def _ok(node: Node, *arguments: str) -> str:
    done = node.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _traces(node: Node, *link: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(_ok(node, "traces", "ls", *link, "--json"))["traces"]
    return found


def _part(root: Path, number: int) -> None:
    (root / f"data/part{number}").write_bytes(os.urandom(_FILE_BYTES))


@pytest.fixture
def author(tmp_path: Path) -> Iterator[tuple[Daemon, str, Path]]:
    """A daemon that shares a tree of many files, of which a start reads three; the tree."""
    root = make_busybox_root(tmp_path / "root")
    for number in range(_FILES):
        _part(root, number)
    with daemon(Node(tmp_path / "author")) as serving:
        yield serving, _ok(serving.node, "share", str(root), "--name", "parts"), root


def _boot(home: Path, author: Daemon, link: str, *options: str, command: tuple[str, ...] = _START) -> dict[str, Any]:
    stats = home.parent / f"{home.name}.json"
    printed = _ok(Node(home), "boot", link, *author.peers, "--stats", str(stats), *options, "--", *command)
    assert printed == "started"
    return boot_figures(stats)


def test_a_home_remembers_starts_and_forgets_them(author: tuple[Daemon, str, Path], tmp_path: Path) -> None:
    serving, link, root = author
    home = tmp_path / "reader"
    first = _boot(home, serving, link)
    assert first["traced"] is False
    _boot(home, serving, link, "--no-private-traces", command=_OTHER)
    (known,) = _traces(Node(home))
    assert (known["program"], known["private"], known["link"], known["version"]) == ("sh", True, link, 1)
    assert len(_READ) * _FILE_BYTES <= known["touched_bytes"] < 4_000_000, "and the shell, of 15 MB"

    _ok(Node(home), "collect")
    again = _boot(home, serving, link)
    assert again["traced"] is True
    assert again["wire_bytes"] < 1.2 * first["wire_bytes"]

    # The next version, in which a file that is read has changed: it is fetched before it is asked for.
    _part(root, _READ[1])
    _ok(serving.node, "share", str(root), "--update", link)
    next_version = _boot(home, serving, link, "--refresh")
    assert (next_version["version"], next_version["traced"]) == (2, True)
    assert _FILE_BYTES < next_version["wire_bytes"] < 2 * _FILE_BYTES

    assert sorted(trace["version"] for trace in _traces(Node(home))) == [1, 2]
    _ok(Node(home), "traces", "rm", f"{link}@1")
    assert [trace["version"] for trace in _traces(Node(home))] == [2]
    assert Node(home).run("traces", "rm").returncode != 0, "it says of what"
    assert json.loads(_ok(Node(home), "traces", "rm", link, "--json")) == {"forgotten": 1}
    assert _traces(Node(home)) == []


def test_further_versions_and_copies_start_as_fast(author: tuple[Daemon, str, Path], tmp_path: Path) -> None:
    serving, link, root = author
    node = serving.node
    _ok(node, "trace", link, "--", *_START)
    _ok(node, "trace", link, "--", *_OTHER)
    first = _boot(tmp_path / "first", serving, link)
    assert first["traced"] is True

    (root / "etc/changed").write_text("in version 2\n")
    _ok(node, "share", str(root), "--update", link)
    _ok(node, "boot", link, "--keep", "written", "--", "sh", "-c", "echo 3 >/etc/changed")
    _ok(node, "commit", "written")
    copy = json.loads(_ok(node, "fork", link, "--name", "copy", "--json"))["link"]
    for place in (f"{link}@2", f"{link}@3", copy):
        published = [trace for trace in _traces(node, place) if not trace["private"]]
        assert len(published) == 2, place
        assert all(trace["hot_bytes"] for trace in published), place
    for number, place in enumerate((f"{link}@3", copy)):
        start = _boot(tmp_path / f"later{number}", serving, place)
        assert start["traced"] is True
        assert start["wire_bytes"] < 1.2 * first["wire_bytes"]


def test_a_second_boot_moves_nothing_whoever_was_traced(author: tuple[Daemon, str, Path], tmp_path: Path) -> None:
    serving, link, _ = author
    _ok(serving.node, "trace", link, "--", *_START)
    home = tmp_path / "reader"
    words = (*_START, "further")
    first = _boot(home, serving, link, command=words)
    assert first["traced"] is True, "the trace of a command that starts the same way"
    again = _boot(home, serving, link, command=words)
    assert (again["traced"], again["blocks_fetched"]) == (True, 0)


def test_whoever_may_write_may_trace(author: tuple[Daemon, str, Path], tmp_path: Path) -> None:
    serving, link, _ = author
    with daemon(Node(tmp_path / "writer")) as other:
        key = _ok(other.node, "writers", "ask", link, *serving.peers)
        _ok(serving.node, "writers", "grant", link, key)

        def is_admitted() -> bool:
            rows = json.loads(_ok(other.node, "writers", "ls", link, "--json"))["writers"]
            return any(row["key"] == key and row["state"] in ("admitted", "writer") for row in rows)

        wait_until(is_admitted, "the grant has arrived")
        _ok(other.node, "trace", link, "--", *_START)
        wait_until(lambda: len(_traces(serving.node, link)) == 1, "the trace has arrived")
    (trace,) = _traces(serving.node, link)
    assert (trace["private"], trace["hot_bytes"]) == (False, 0), "its order is advice; content is the owner's to say"
    assert _boot(tmp_path / "reader", serving, link)["traced"] is True


def test_prefetching_keeps_its_rate_and_ends_with_the_container(
    author: tuple[Daemon, str, Path], tmp_path: Path
) -> None:
    serving, link, _ = author
    script = 'if [ "$0" = all ]; then cat /data/part* >/dev/null; else sleep 2; echo started; fi'
    _ok(serving.node, "trace", link, "--", "sh", "-c", script, "all")
    (trace,) = _traces(serving.node, link)
    start = ("sh", "-c", script, "none")  # without a trace of its own: that of the same start is used
    plain = _boot(tmp_path / "plain", serving, link, "--no-prefetch", command=start)
    with daemon(Node(tmp_path / "reader")) as here:
        began = time.monotonic()
        capped = _boot(here.node.home, serving, link, "--prefetch-rate", str(_RATE), command=start)
        seconds = time.monotonic() - began
        assert capped["traced"] is True
        assert capped["wire_bytes"] < plain["wire_bytes"] + 1.2 * _RATE * seconds + 500_000

        def held() -> int:
            found: int = json.loads(_ok(here.node, "images", "--du", "--json"))["stored_bytes"]
            return found

        settled = held()
        assert settled < trace["hot_bytes"], "it was not nearly done"
        ended = time.monotonic()
        while time.monotonic() < ended + 2 * _BLOCK / _RATE:
            assert held() == settled, "nothing comes any more"
