"""Derived indexes follow the log, survive crashes, and start anew when what counts has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperlog.entry import Entry
from hyperlog.errors import Refused
from hyperlog.forks import ForkProof
from hyperlog.ids import WriterKey
from hyperlog.index import Index, Records
from hyperlog.keys import KeyPair
from hyperlog.log import Log
from hyperlog.run import encode_run
from tests.hyperlog.replicas import Home, forge_feed, sync, two


def count_words(index: Index, number: int, entry: Entry) -> Records:
    for word in entry.value.split():
        yield word, str(int(index.get(word) or b"0") + 1).encode()


def words(log: Log, version: int = 1) -> Index:
    return Index(log, "words", version, count_words)


def test_an_index_takes_in_what_is_new(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    log.append_many([b"a b", b"a"])
    index = words(log)
    assert index.catch_up() == 2
    assert dict(index.items()) == {b"a": b"2", b"b": b"1"}
    assert index.catch_up() == 0
    log.append(b"a c")
    assert index.catch_up() == 1
    assert dict(index.items()) == {b"a": b"3", b"b": b"1", b"c": b"1"}
    assert dict(index.items(b"b")) == {b"b": b"1"}


def test_it_goes_on_after_reopening_and_is_made_again_for_another_version(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = home.logs.create()
    log.append_many([b"a"] * 2500)
    assert words(log).catch_up() == 2500
    home.reopen()
    log = home.logs.open(log.key)
    assert words(log).position == 2500
    assert words(log).catch_up() == 0
    assert words(log, 2).position == 0
    assert words(log, 2).catch_up() == 2500
    assert dict(words(log, 2).items()) == {b"a": b"2500"}


def test_what_fails_in_the_middle_leaves_it_behind_not_wrong(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    log.append_many([b"a"] * 1500)
    log.append(b"boom")

    def fails(index: Index, number: int, entry: Entry) -> Iterator[tuple[bytes, bytes | None]]:
        if entry.value == b"boom":
            raise KeyError
        yield from count_words(index, number, entry)

    with pytest.raises(KeyError):
        Index(log, "words", 1, fails).catch_up()
    index = words(log)
    assert index.position == 1000
    assert index.catch_up() == 501
    assert dict(index.items()) == {b"a": b"1500", b"boom": b"1"}


def test_records_can_be_removed(tmp_path: Path) -> None:
    log, _ = two(tmp_path)

    def last(index: Index, number: int, entry: Entry) -> Iterator[tuple[bytes, bytes | None]]:
        for key, _ in list(index.items()):
            yield key, None
        yield entry.value, b""

    index = Index(log, "last", 1, last)
    for value in (b"a", b"b"):
        log.append(value)
        index.catch_up()
    assert dict(index.items()) == {b"b": b""}


def test_a_fork_makes_it_start_anew(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    pair = KeyPair.generate()
    links = (log.grant(pair.public).id,)
    sync(log, replica)
    log.add_run(encode_run(forge_feed(pair, log.key, [b"x", b"y"], links)[0]))
    replica.add_run(encode_run(forge_feed(pair, log.key, [b"x", b"z"], links)[0]))
    index = words(log)
    index.catch_up()
    assert index.get(b"y") == b"1"
    log.add_fork(ForkProof.of(log.claim(pair.public, 1), replica.claim(pair.public, 1)).encode())
    assert index.position == 0
    index.catch_up()
    assert index.get(b"y") is None
    assert index.get(b"x") == b"1"


@pytest.mark.parametrize("name", ["", "a b", "a\0b", "x" * 200, "ä"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    log, _ = two(tmp_path)
    with pytest.raises(Refused):
        Index(log, name, 1, count_words)


def test_two_indexes_do_not_meet(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    log.append(b"a")
    one, other = Index(log, "one", 1, count_words), Index(log, "one_more", 1, count_words)
    one.catch_up()
    assert dict(other.items()) == {}
    other.catch_up()
    one.clear()
    assert dict(other.items()) == {b"a": b"1"}
    assert WriterKey(log.key) in log.held()
