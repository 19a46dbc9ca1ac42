"""Entries, their evidence and claims: one spelling, one verdict, nothing that was not signed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlog.entry import (
    NO_PREV,
    Evidence,
    Kind,
    decode_claim,
    decode_entry,
    decode_header,
    encode_header,
    sign_head,
    verify_head,
)
from hyperlog.errors import Corrupt, ForkDetected, HyperError, NotWriter, OutOfOrder
from hyperlog.hashing import blake3_256
from hyperlog.ids import EntryId, LogKey, WriterKey
from hyperlog.keys import KeyPair
from hyperlog.limits import ENTRY_LINKS_MAX, ENTRY_VALUE_BYTES_MAX
from hyperlog.merkle import node
from hyperlog.run import decode_run, encode_run
from tests.hyperlog.replicas import Home, evidence_of_one, forge, only_seed, two
from tests.hyperlog.speccheck import VECTORS

PAIR = KeyPair.from_seed(bytes(range(32)))
LOG = LogKey(PAIR.public)


def header(
    *,
    log: bytes = LOG,
    writer: bytes = PAIR.public,
    seq: int = 0,
    kind: int = Kind.VALUE,
    prev: bytes = NO_PREV,
    links: tuple[EntryId, ...] = (),
    value: bytes = b"value",
    value_bytes: int | None = None,
) -> bytes:
    size = len(value) if value_bytes is None else value_bytes
    return encode_header(log, writer, seq, kind, prev, links, size, blake3_256(value))


def signed(head: bytes, value: bytes = b"value", pair: KeyPair = PAIR, log: LogKey = LOG) -> bytes:
    """`head` as the only entry of a feed, validly signed."""
    return evidence_of_one(pair, log, EntryId(blake3_256(head))).encode() + head + value


def test_an_entry_alone_round_trips() -> None:
    entry = decode_entry(signed(header()))
    assert (entry.log, entry.writer, entry.seq, entry.kind, entry.prev) == (LOG, PAIR.public, 0, Kind.VALUE, NO_PREV)
    assert (entry.links, entry.value, entry.id) == ((), b"value", blake3_256(header()))
    assert decode_entry(entry.encoded) == entry
    assert decode_claim(entry.claim.encode()) == entry.claim
    assert entry.claim.id == entry.id


def test_every_changed_bit_is_noticed(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    log.append_many([b"a", b"b", b"c"])
    entry = log.append(b"a value", links=[*log.heads(), log.id_at(WriterKey(log.key), 0)])
    for encoded, decode in ((entry.encoded, decode_entry), (entry.claim.encode(), decode_claim)):
        for place in range(len(encoded)):
            for bit in (1, 128):
                changed = bytearray(encoded)
                changed[place] ^= bit
                with pytest.raises(Corrupt):
                    decode(bytes(changed))


@pytest.mark.parametrize("cut", [1, 40, 70, 100, 150, 220])
def test_cut_or_longer_entries_are_refused(cut: int) -> None:
    encoded = signed(header())
    assert cut < len(encoded)
    for wrong in (encoded[:-cut], encoded + bytes(cut), b"", encoded[cut:]):
        with pytest.raises(Corrupt):
            decode_entry(wrong)


def _ids(count: int) -> tuple[EntryId, ...]:
    return tuple(sorted(EntryId(blake3_256(b"%d" % number)) for number in range(count)))


@pytest.mark.parametrize(
    "head",
    [
        header(kind=4),
        header(kind=255),
        header(seq=1),
        header(seq=2**64 - 1, prev=bytes(range(32))),
        header(seq=2**48, prev=bytes(range(32))),
        header(prev=bytes(range(32))),
        header(links=_ids(2)[::-1]),
        header(links=_ids(1) * 2),
        header(links=_ids(ENTRY_LINKS_MAX + 1)),
        header(value_bytes=4),
        header(value_bytes=ENTRY_VALUE_BYTES_MAX + 1),
        b"\x02" + header()[1:],
    ],
)
def test_validly_signed_nonsense_is_refused(head: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_entry(signed(head))


def test_the_largest_entry_is_taken() -> None:
    value = bytes(ENTRY_VALUE_BYTES_MAX)
    entry = decode_entry(signed(header(value=value, links=_ids(ENTRY_LINKS_MAX)), value))
    assert len(entry.links) == ENTRY_LINKS_MAX
    with pytest.raises(Corrupt):
        decode_entry(signed(header(value=value + b"1"), value + b"1"))


@pytest.mark.parametrize("number", range(len(VECTORS)))
def test_odd_signatures_get_one_verdict_in_entries_too(number: int) -> None:
    """The speccheck vectors sign fixed messages, so no entry can carry them: what is checked is the key's part."""
    vector = VECTORS[number]
    key = WriterKey(bytes.fromhex(vector.public))
    evidence = Evidence(1, bytes.fromhex(vector.signature), ())
    with pytest.raises(Corrupt):
        decode_entry(evidence.encode() + header(log=key, writer=key) + b"value")


def test_small_order_keys_and_large_scalars_sign_nothing() -> None:
    small = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa")
    for key in (bytes(32), b"\x01" + bytes(31), small):
        for signature in (bytes(64), key + bytes(32), b"\x01" + bytes(63)):
            assert not verify_head(LogKey(key), key, 1, bytes(32), signature)
    good = sign_head(PAIR, LOG, 1, bytes(32))
    order = 2**252 + 27742317777372353535851937790883648493
    malleable = good[:32] + (int.from_bytes(good[32:], "little") + order).to_bytes(32, "little")
    assert verify_head(LOG, PAIR.public, 1, bytes(32), good)
    assert not verify_head(LOG, PAIR.public, 1, bytes(32), malleable)


def test_a_signature_counts_for_one_place_only(tmp_path: Path) -> None:
    head = header()
    identifier = EntryId(blake3_256(head))
    other = KeyPair.generate()
    good = evidence_of_one(PAIR, LOG, identifier)
    decode_entry(good.encode() + head + b"value")
    wrong = [
        evidence_of_one(other, LOG, identifier),  # by somebody else
        evidence_of_one(PAIR, LogKey(other.public), identifier),  # for another log
        Evidence(1, PAIR.sign(identifier), ()),  # of the bare id
        Evidence(1, PAIR.sign(b"hyperlog entry v1\n" + head), ()),  # of another kind of message
        replace(good, length=2),
        replace(good, path=(bytes(32),)),
        Evidence(2, sign_head(PAIR, LOG, 2, node(identifier, bytes(32))), ()),
        Evidence(2, sign_head(PAIR, LOG, 2, node(bytes(32), identifier)), (bytes(32),)),  # at another place
    ]
    for evidence in wrong:
        with pytest.raises(Corrupt):
            decode_entry(evidence.encode() + head + b"value")


def test_an_entry_of_one_log_cannot_be_replayed_into_another(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    other, _ = two(tmp_path / "other")
    entry = log.append(b"x")
    with pytest.raises(Corrupt):
        other.add(entry.encoded)
    with pytest.raises(Corrupt):
        other.add_run(encode_run(log.run(WriterKey(log.key), 0)))


def test_the_same_entry_twice_is_one(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    entry = log.append(b"x")
    log.append(b"y")
    again = log.get(entry.id)
    assert again.evidence != entry.evidence or again.encoded == entry.encoded
    assert replica.add(entry.encoded) == entry
    # A second valid proof of the same entry, by a later signature, makes no second entry.
    assert replica.add(log.get(entry.id).encoded) is None
    assert replica.length == 1


def test_what_does_not_continue_the_feed_is_named(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    first, second, third = (log.get(each) for each in log.append_many([b"1", b"2", b"3"]))
    with pytest.raises(OutOfOrder):
        replica.add(second.encoded)
    replica.add(first.encoded)
    with pytest.raises(OutOfOrder):
        replica.add(third.encoded)
    replica.add_all([second.encoded, third.encoded])
    assert replica.ends() == log.ends()


@pytest.mark.parametrize("bad", ["signature", "stranger", "gap"])
def test_entries_from_elsewhere_are_kept_all_or_none(tmp_path: Path, bad: str) -> None:
    log, replica = two(tmp_path)
    entries = [log.get(each).encoded for each in log.append_many([b"1", b"2", b"3"])]
    stranger = KeyPair.generate()
    head = header(log=log.key, writer=stranger.public)
    later = log.append_many([b"4", b"5"])[1]
    wrong: dict[str, tuple[bytes, type[HyperError]]] = {
        "signature": (entries[2][:-1] + b"!", Corrupt),
        "gap": (log.get(later).encoded, OutOfOrder),
        "stranger": (signed(head, pair=stranger, log=log.key), NotWriter),
    }
    encoded, error = wrong[bad]
    with pytest.raises(error):
        replica.add_all([*entries, encoded])
    assert replica.length == 0
    assert replica.heads() == []
    replica.add_all(entries)
    assert replica.length == 3


def test_a_header_has_one_spelling() -> None:
    head = header(links=_ids(3))
    found = decode_header(head)
    again = encode_header(
        found.log,
        found.writer,
        found.seq,
        found.kind,
        found.prev,
        found.links,
        found.value_bytes,
        found.value_digest,
    )
    assert again == head
    assert found.bytes_ == len(head)


def test_a_fork_made_of_two_entries_is_proven(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = home.logs.create("x")
    seed = only_seed(tmp_path)
    log.append_many([b"1", b"2"])
    replica = Home(tmp_path / "other").logs.add_remote(log.key)
    replica.add_run(forge(KeyPair.from_seed(seed), log.key, [b"another 1"]))
    with pytest.raises(ForkDetected) as raised:
        replica.add(log.feed(WriterKey(log.key))[0].encoded)
    assert raised.value.proof is not None
    assert replica.forks()[WriterKey(log.key)].seq == 0
    assert replica.vector() == {}
    assert log.add_fork(raised.value.proof)
    assert log.vector() == {}


@given(st.binary(max_size=400))
def test_any_bytes_give_an_entry_or_corrupt(data: bytes) -> None:
    for decode in (decode_entry, decode_claim, decode_run, decode_header):
        with pytest.raises(Corrupt):
            decode(data)
