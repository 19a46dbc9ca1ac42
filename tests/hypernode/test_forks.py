"""A feed that ends because its writer signed two histories is shown in words, with what to do about it."""

from __future__ import annotations

import shutil
from pathlib import Path

from hyperlog.forks import ForkProof
from hyperlog.ids import LogKey, WriterKey
from hyperlog.link import parse_link
from hyperlog.repository import open_repository
from tests.support.nodes import Node, daemon


def fork(home: Path, key: LogKey) -> None:
    """Let a copy of `home` append too, and `home` learn of it."""
    twin = home.with_name("twin")
    shutil.copytree(home, twin)
    with open_repository(twin) as here, open_repository(home) as there:
        copy, log = here.logs.open(key), there.logs.open(key)
        for each, value in ((copy, b"one"), (log, b"other")):
            each.confirm()
            each.append(value)
        writer = WriterKey(key)
        seq = log.vector()[writer] - 1
        log.add_fork(ForkProof.of(copy.claim(writer, seq), log.claim(writer, seq)).encode())


def test_a_fork_of_the_own_feed_is_told_with_what_to_do(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    (source / "file").write_bytes(b"content")
    node = Node(tmp_path / "home")
    with daemon(node):
        shared = node.run("share", str(source))
        assert shared.returncode == 0, shared.stderr
    link = shared.stdout.strip()
    assert node.status()["logs"][0]["forks"] == []

    fork(node.home, parse_link(link).key)

    status = node.run("status").stdout
    assert "this node's key signed two different entries as number 1" in status
    assert "go on in a new log" in status
    told = node.run("log", link)
    assert told.returncode == 0, told.stderr
    assert "signed two different entries as number 1" in told.stderr
    assert "go on in a new log" in told.stderr
