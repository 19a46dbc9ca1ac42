"""Who may write: admissions, rights, revocation, rotation, transfer, whatever the order in which they are learned."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlog.encoding import encode
from hyperlog.entry import Kind
from hyperlog.errors import Corrupt, HyperError, NotWriter, OutOfOrder, Refused
from hyperlog.ids import EntryId, LogKey, WriterKey, to_text
from hyperlog.keys import KeyPair
from hyperlog.limits import WRITERS_MAX
from hyperlog.log import Log
from hyperlog.run import encode_run
from hyperlog.writers import (
    Grant,
    Revoke,
    Rights,
    Rotate,
    Statement,
    Transfer,
    decode_operation,
    encode_operation,
    work_out,
)
from tests.hyperlog.replicas import Home, forge, sync, team, two


def own(log: Log) -> WriterKey:
    assert log.writer is not None
    return log.writer


def test_only_whom_the_owner_admitted_may_write(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    home = Home(tmp_path / "writer")
    replica = home.logs.add_remote(log.key)
    assert not replica.writable
    key = home.logs.ask_to_write(log.key)
    assert not replica.writable
    with pytest.raises(NotWriter):
        replica.append(b"too early")
    log.grant(key, label="a colleague")
    sync(log, replica)
    entry = replica.append(b"hello")
    assert entry.writer == key
    sync(replica, log)
    assert log.get(entry.id).value == b"hello"


def test_a_stranger_is_refused_by_name(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    log.append(b"x")
    with pytest.raises(NotWriter, match="was not admitted"):
        log.add_run(forge(KeyPair.generate(), log.key, [b"spam"]))
    assert log.length == 1


def test_a_thousand_strangers_leave_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = home.logs.create()
    log.append(b"x")
    before = dict(home.store.items(b""))
    for _ in range(200):
        with pytest.raises(NotWriter):
            log.add_run(forge(KeyPair.generate(), log.key, [b"spam"]))
    assert dict(home.store.items(b"")) == before


def test_the_first_entry_shows_the_admission(tmp_path: Path) -> None:
    """An admission that is known here, but not linked, does not admit: another replica might not know it."""
    log, _ = two(tmp_path)
    pair = KeyPair.generate()
    log.grant(pair.public)
    with pytest.raises(NotWriter):
        log.add_run(forge(pair, log.key, [b"I do not link it"]))


@pytest.mark.parametrize(
    ("rights", "allowed"),
    [
        (Rights.APPEND, {Kind.VALUE}),
        (Rights.TRACE, {Kind.TRACE}),
        (Rights.TAG | Rights.TRACE, {Kind.TAG, Kind.TRACE}),
        (Rights.WRITE, {Kind.VALUE, Kind.TAG, Kind.TRACE}),
    ],
)
def test_rights_name_the_kinds_that_may_be_written(tmp_path: Path, rights: Rights, allowed: set[Kind]) -> None:
    _, other = team(tmp_path, 2, rights)
    for kind in (Kind.VALUE, Kind.TAG, Kind.TRACE):
        if kind in allowed:
            assert other.append(b"x", kind=kind).kind is kind
        else:
            with pytest.raises(NotWriter):
                other.append(b"x", kind=kind)
    with pytest.raises(NotWriter, match="only the owner"):
        other.grant(KeyPair.generate().public)


def test_a_later_grant_widens_the_rights(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2, Rights.TRACE)
    other.append(b"a trace", kind=Kind.TRACE)
    one.grant(own(other), Rights.WRITE)
    with pytest.raises(NotWriter):
        other.append(b"not yet known")
    sync(one, other)
    other.append(b"a value")
    sync(other, one)
    assert one.ends() == other.ends()


def test_a_dismissed_writers_later_entries_count_nowhere(tmp_path: Path) -> None:
    one, other, third = team(tmp_path, 3)
    kept = other.append(b"kept")
    sync(other, one)
    late = other.append(b"late")
    sync(other, third)
    one.revoke(own(other))
    sync(one, third)
    assert third.vector()[own(other)] == 1
    assert late.id not in third.heads()
    assert third.get(late.id).value == b"late", "what was held stays readable"
    assert not third.counts(late)
    assert third.counts(kept)
    sync(third, other)
    with pytest.raises(NotWriter):
        other.append(b"more")
    with pytest.raises(Refused):
        one.grant(own(other))
    # With a new key the same person may be admitted again.
    assert one.ends() == other.ends() == third.ends()


def test_a_dismissed_node_can_ask_with_a_new_key(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    home = Home(tmp_path / "w")
    replica = home.logs.add_remote(log.key)
    first = home.logs.ask_to_write(log.key)
    assert home.logs.ask_to_write(log.key) == first
    log.grant(first)
    log.revoke(first)
    sync(log, replica)
    second = home.logs.ask_to_write(log.key)
    assert second != first
    log.grant(second)
    sync(log, replica)
    replica.append(b"back")
    home.reopen()
    home.logs.open(log.key).append(b"still")


def test_rotation_hands_on_the_rights_and_ends_the_feed(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    home = Home(tmp_path / "w")
    replica = home.logs.add_remote(log.key)
    old = home.logs.ask_to_write(log.key)
    log.grant(old, Rights.APPEND)
    sync(log, replica)
    replica.append(b"1")
    new = home.logs.rotate(log.key)
    assert replica.writer == new
    replica.append(b"2")
    with pytest.raises(NotWriter):
        replica.append(b"a tag", kind=Kind.TAG)
    sync(replica, log)
    assert log.vector() == {own(log): 1, old: 2, new: 1}
    home.reopen()
    assert home.logs.open(log.key).writer == new
    home.logs.open(log.key).append(b"3")


def test_revoking_a_key_from_before_its_rotation_takes_the_new_key_too(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    home = Home(tmp_path / "w")
    replica = home.logs.add_remote(log.key)
    old = home.logs.ask_to_write(log.key)
    log.grant(old)
    sync(log, replica)
    replica.append(b"mine")
    new = home.logs.rotate(log.key)
    replica.append(b"the thief's")
    sync(replica, log)
    assert log.vector()[new] == 1
    log.revoke(old, length=1)
    assert log.vector() == {own(log): 2, old: 1}
    sync(log, replica)
    assert not replica.writable


def test_ownership_moves_and_the_address_stays(tmp_path: Path) -> None:
    one, other, third = team(tmp_path, 3)
    one.transfer(own(other))
    assert one.owner == own(other)
    with pytest.raises(NotWriter):
        one.grant(KeyPair.generate().public)
    one.append(b"the former owner may still write")
    sync(one, other)
    assert other.owner == own(other)
    newcomer = Home(tmp_path / "n")
    replica = newcomer.logs.add_remote(one.key)
    other.grant(newcomer.logs.ask_to_write(one.key))
    sync(other, replica)
    replica.append(b"hello")
    other.revoke(own(third))
    sync(replica, third)
    sync(other, third)
    assert third.owner == own(other)
    assert not third.writable
    assert replica.key == one.key
    other.revoke(own(one), length=0)
    assert WriterKey(one.key) in other.vector(), "what made its signer the owner cannot be undone by it"
    sync(other, one)
    assert other.owner == one.owner == own(other)


def test_the_owner_can_rotate_its_key(tmp_path: Path) -> None:
    home = Home(tmp_path / "a")
    log = home.logs.create()
    log.append(b"1")
    new = home.logs.rotate(log.key)
    assert log.owner == new
    assert bytes(log.key) != bytes(new)
    assert [path.name for path in (tmp_path / "a/keys").iterdir()] == [to_text(new)], "the old secret is gone"
    log.append(b"2")
    key = KeyPair.generate().public
    log.grant(key)
    replica = Home(tmp_path / "b").logs.add_remote(log.key)
    sync(log, replica)
    assert replica.owner == new
    assert replica.ends() == log.ends()
    assert key in {found.key for found in replica.policy.admissions.values()}


def test_system_entries_are_bounded_in_number(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    keys = [KeyPair.generate().public for _ in range(WRITERS_MAX + 1)]
    with log.batch() as batch:
        for key in keys[:20]:
            batch.add(encode_operation(Grant(key, Rights.WRITE)), kind=Kind.SYSTEM)
    assert len(log.policy.admissions) == 20


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x80",
        encode(["grant", bytes(32), 0, ""]),
        encode(["grant", KeyPair.from_seed(bytes(32)).public, 2, ""]),
        encode(["grant", KeyPair.from_seed(bytes(32)).public, 16, ""]),
        encode(["grant", KeyPair.from_seed(bytes(32)).public, 1, "x" * 257]),
        encode(["grant", bytes(32), 1, ""]),
        encode(["grant", bytes(31), 1, ""]),
        encode(["revoke", KeyPair.from_seed(bytes(32)).public, -1, ""]),
        encode(["revoke", KeyPair.from_seed(bytes(32)).public, True, ""]),
        encode(["transfer"]),
        encode(["abdicate", KeyPair.from_seed(bytes(32)).public]),
        bytes(2000),
    ],
)
def test_system_entries_that_say_nothing_known_are_refused(tmp_path: Path, value: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_operation(value)
    log, _ = two(tmp_path)
    with pytest.raises(Corrupt):
        log.append(value, kind=Kind.SYSTEM)
    assert log.length == 0


@pytest.mark.parametrize(
    "operation",
    [
        Grant(KeyPair.from_seed(bytes(32)).public, Rights.WRITE, "ä"),
        Revoke(KeyPair.from_seed(bytes(32)).public, 5, "why"),
        Transfer(KeyPair.from_seed(bytes(32)).public),
        Rotate(KeyPair.from_seed(bytes(32)).public),
    ],
)
def test_operations_round_trip(operation: Grant | Revoke | Transfer | Rotate) -> None:
    assert decode_operation(encode_operation(operation)) == operation


@pytest.mark.parametrize("seed", range(12))
def test_the_order_of_arrival_does_not_matter(tmp_path: Path, seed: int) -> None:
    """All entries of a log with every kind of operation, given one by one in random orders that causality allows."""
    chance = random.Random(seed)
    one, other, third = team(tmp_path, 3)
    other.append_many([b"x"] * 3)
    sync(other, third)
    third.append(b"y")
    one.revoke(own(other), length=2)
    sync(third, one)
    one.append(b"z")
    one.transfer(own(third))
    sync(one, third)
    third.append(b"mine")
    third.grant(KeyPair.generate().public)
    sync(third, one)
    waiting = [entry.encoded for _, entry in third.changes()]
    excuses = [third.claim(own(other), 2).encode()]
    replica = Home(tmp_path / "replica").logs.add_remote(one.key)
    for _ in range(1000):
        if not waiting:
            break
        encoded = chance.choice(waiting)
        try:
            replica.add(encoded)
        except OutOfOrder:
            for excuse in excuses:
                replica.add_excuse(excuse)
        else:
            waiting.remove(encoded)
    assert not waiting
    assert (replica.ends(), replica.heads(), replica.policy) == (third.ends(), third.heads(), third.policy)


KEYS = [KeyPair.from_seed(bytes([number]) * 32).public for number in range(5)]


@st.composite
def histories(
    draw: st.DrawFn,
) -> tuple[list[Statement], dict[tuple[WriterKey, int], list[EntryId]], dict[WriterKey, int]]:
    """Statements and uses of five keys, without sense, as hostile writers might make them."""
    statements: list[Statement] = []
    for number in range(draw(st.integers(0, 10))):
        writer, target = draw(st.sampled_from(KEYS)), draw(st.sampled_from(KEYS))
        choices: list[Grant | Revoke | Transfer | Rotate] = [
            Grant(target, Rights.WRITE),
            Revoke(target, draw(st.integers(0, 6))),
            Transfer(target),
            Rotate(target),
        ]
        operation = draw(st.sampled_from(choices))
        seq = sum(each.writer == writer for each in statements) + draw(st.integers(0, 2))
        if any((each.writer, each.seq) == (writer, seq) for each in statements):
            continue
        statements.append(Statement(writer, seq, EntryId(b"%032d" % number), operation))
    uses: dict[tuple[WriterKey, int], list[EntryId]] = {}
    for statement in statements:
        if not isinstance(statement.operation, Revoke) and draw(st.booleans()):
            uses.setdefault((statement.operation.key, draw(st.integers(0, 3))), []).append(statement.id)
    forks = draw(st.dictionaries(st.sampled_from(KEYS), st.integers(0, 5), max_size=2))
    return statements, uses, forks


@given(histories(), st.randoms())
def test_any_history_has_one_outcome(
    history: tuple[list[Statement], dict[tuple[WriterKey, int], list[EntryId]], dict[WriterKey, int]],
    chance: random.Random,
) -> None:
    statements, uses, forks = history
    log = LogKey(KEYS[0])
    policy = work_out(log, statements, uses, forks)
    shuffled = chance.sample(statements, len(statements))
    items = list(uses.items())
    chance.shuffle(items)
    again = work_out(log, shuffled, dict(items), dict(reversed(forks.items())))
    assert again == policy
    assert all(policy.limit(writer) <= seq for writer, seq in forks.items())
    for key in KEYS[1:]:
        if policy.rights(key, 5):
            assert any(found.key == key for found in policy.admissions.values())


def test_only_causal_orders_are_taken(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2)
    other.append(b"x")
    sync(other, one)
    entries = [entry.encoded for _, entry in one.changes()]
    taken = 0
    for number, order in enumerate(itertools.permutations(entries)):
        replica = Home(tmp_path / f"r{number}").logs.add_remote(one.key)
        try:
            replica.add_all(order)
        except HyperError:
            assert replica.length == 0
        else:
            taken += 1
            assert replica.ends() == one.ends()
    assert taken == 1


def test_a_run_of_another_log_or_with_odd_links_is_refused(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    log.append_many([b"1", b"2"])
    run = log.run(own(log), 0)
    first = log.id_at(own(log), 0)
    kind, _, value = run.items[1]
    run.items[1] = (kind, (first,), value)
    with pytest.raises(Corrupt, match="shorter spelling"):
        replica.add_run(encode_run(run))
    run.items[1] = (kind, None, value)
    run.items[0] = (kind, None, run.items[0][2])
    with pytest.raises(Corrupt, match="first entry"):
        replica.add_run(encode_run(run))
