"""The examples in the package's documentation do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

import hyperlog
from hyperlog import Rights, open_repository
from hyperlog.errors import RolledBack
from tests.hyperlog.replicas import Home, sync


def test_the_examples_of_the_package(tmp_path: Path) -> None:
    with open_repository(tmp_path / "home") as repository:
        log = repository.logs.create("notes")
        first = log.append(b"hello")
        left = log.append(b"left", links=[first.id])
        right = log.append(b"right", links=[first.id])
        assert sorted(log.heads()) == sorted([left.id, right.id])
        log.append(b"both")
        assert log.get(first.id).value == b"hello"
        ids = log.append_many([b"1", b"2", b"3"])
        with log.batch() as batch:
            a = batch.add(b"a")
            last = batch.add(b"b", links=[a, first.id])
        assert log.heads() == [last]
        assert [number for number, _ in log.changes(since=2, limit=10)] == list(range(3, 10))
        assert log.writer is not None
        assert log.feed(log.writer, start=4)[0].id == ids[0]
        other = Home(tmp_path / "other")
        replica = other.logs.add_remote(log.key)
        key = other.logs.ask_to_write(log.key)
        log.grant(key, Rights.APPEND, label="the build machine")
        sync(log, replica)
        replica.append(b"from the build machine")
        sync(replica, log)
        log.transfer(key)
        assert log.owner == key
        assert bytes(log.key) != bytes(key)


def test_every_public_name_is_there() -> None:
    assert all(getattr(hyperlog, name) is not None for name in hyperlog.__all__)
    with pytest.raises(AttributeError):
        _ = hyperlog.no_such_name


def test_a_key_moves_to_another_machine_and_waits_for_its_feed(tmp_path: Path) -> None:
    with open_repository(tmp_path / "old") as old, open_repository(tmp_path / "new") as new:
        log = old.logs.create("notes")
        log.append_many([b"1", b"2"])
        moved = new.logs.import_key(log.key, old.logs.key_pair(log.key))
        with pytest.raises(RolledBack):
            moved.append(b"a fork")
        sync(log, moved)
        moved.append(b"3")
        sync(moved, log)
        assert log.ends() == moved.ends()
