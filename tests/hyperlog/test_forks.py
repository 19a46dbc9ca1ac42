"""Fork proofs: what makes one, what does not, and that one per writer is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperlog.entry import Claim, Evidence, Kind, decode_claim, encode_header, sign_head
from hyperlog.errors import Corrupt, FeedFrozen, ForkDetected, NotWriter
from hyperlog.forks import ForkProof, decode_fork
from hyperlog.hashing import blake3_256
from hyperlog.ids import EntryId, LogKey, WriterKey
from hyperlog.keys import KeyPair
from hyperlog.log import Log
from hyperlog.merkle import peaks_of, root, siblings
from hyperlog.run import encode_run
from tests.hyperlog.replicas import Home, forge, forge_feed, only_seed, sync, two


def claims(pair: KeyPair, log: LogKey, values: list[bytes], links: tuple[EntryId, ...] | None = None) -> list[Claim]:
    """What `pair` signed in a feed made of `values`."""
    run, ids = forge_feed(pair, log, values, links)
    signature = sign_head(pair, log, len(ids), root(peaks_of(ids)))
    found: list[Claim] = []
    prev = EntryId(bytes(32))
    for seq, (_, linked, value) in enumerate(run.items):
        head = encode_header(
            log,
            pair.public,
            seq,
            Kind.VALUE,
            prev,
            (prev,) if linked is None else linked,
            len(value),
            blake3_256(value),
        )
        path = tuple(root(peaks_of(ids[start:end])) for start, end in siblings(seq, len(ids)))
        found.append(decode_claim(Evidence(len(ids), signature, path).encode() + head))
        prev = ids[seq]
    return found


PAIR = KeyPair.from_seed(bytes(range(32)))
LOG = LogKey(PAIR.public)
ONE = claims(PAIR, LOG, [b"a", b"b", b"c"])
OTHER = claims(PAIR, LOG, [b"a", b"x", b"y", b"z"])


def test_two_claims_about_one_place_are_a_proof() -> None:
    exact, later = ForkProof.of(ONE[1], OTHER[1]), ForkProof.of(ONE[2], OTHER[2])
    assert (exact.seq, exact.is_exact) == (1, True)
    assert (later.seq, later.is_exact) == (2, False)
    for proof in (exact, later):
        assert decode_fork(proof.encode()) == proof
    assert ForkProof.of(OTHER[1], ONE[1]) == exact
    assert len(exact.encode()) < 1000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ONE[0], OTHER[0]),
        (ONE[1], ONE[1]),
        (ONE[1], OTHER[2]),
        (ONE[1], claims(KeyPair.generate(), LOG, [b"a", b"b"])[1]),
        (ONE[1], claims(PAIR, LogKey(KeyPair.generate().public), [b"a", b"b"])[1]),
    ],
)
def test_claims_that_contradict_nothing_are_no_proof(one: Claim, other: Claim) -> None:
    with pytest.raises(Corrupt):
        ForkProof.of(one, other)


def test_no_proof_is_forged_by_changing_one() -> None:
    encoded = ForkProof.of(ONE[1], OTHER[1]).encode()
    for place in range(len(encoded)):
        changed = bytearray(encoded)
        changed[place] ^= 1
        with pytest.raises(Corrupt):
            decode_fork(bytes(changed))
    for wrong in (b"", encoded[:-1], encoded + b"\0", encoded[:5], bytes(40_000)):
        with pytest.raises(Corrupt):
            decode_fork(wrong)
    first, second = ONE[1].encode(), OTHER[1].encode()
    later, sooner = sorted((first, second), key=lambda each: decode_claim(each).id, reverse=True)
    with pytest.raises(Corrupt, match="order"):
        decode_fork(b"\x01" + len(later).to_bytes(4, "big") + later + sooner)


def forked(tmp_path: Path) -> tuple[Log, Log, KeyPair]:
    """A log of an admitted writer with three entries, and a replica of it."""
    log, replica = two(tmp_path)
    pair = KeyPair.generate()
    links = (log.grant(pair.public).id,)
    log.add_run(encode_run(forge_feed(pair, log.key, [b"a", b"b", b"c"], links)[0]))
    sync(log, replica)
    return log, replica, pair


def proof_at(log: Log, pair: KeyPair, seq: int) -> bytes:
    values = [b"a", b"b", b"c"]
    values[seq] = b"another"
    links = (log.id_at(WriterKey(log.key), 0),)
    return ForkProof.of(log.claim(pair.public, seq), claims(pair, log.key, values, links)[seq]).encode()


def test_one_proof_per_writer_is_kept_the_lowest(tmp_path: Path) -> None:
    log, replica, pair = forked(tmp_path)
    proofs = [proof_at(log, pair, seq) for seq in range(3)]
    assert log.add_fork(proofs[2])
    assert log.vector()[pair.public] == 2
    assert not log.add_fork(proofs[2])
    assert log.add_fork(proofs[1])
    assert not log.add_fork(proofs[2])
    assert log.forks()[pair.public].seq == 1
    assert log.vector()[pair.public] == 1
    sync(replica, log)
    assert replica.forks() == log.forks()
    assert replica.heads() == log.heads()
    assert log.add_fork(proofs[0])
    assert pair.public not in log.vector()
    sync(log, replica)
    assert replica.ends() == log.ends()


def test_ten_thousand_forks_cost_one_record(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = home.logs.create()
    pair = KeyPair.generate()
    links = (log.grant(pair.public).id,)
    mine = claims(pair, log.key, [b"0"], links)[0]
    for number in range(1, 100):
        log.add_fork(ForkProof.of(mine, claims(pair, log.key, [b"%d" % number], links)[0]).encode())
    assert len(list(home.store.items(b"p"))) == 1


def test_proofs_of_strangers_and_of_other_logs_are_not_kept(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    stranger = KeyPair.generate()
    one, other = (claims(stranger, log.key, [value])[0] for value in (b"a", b"b"))
    with pytest.raises(NotWriter):
        log.add_fork(ForkProof.of(one, other).encode())
    with pytest.raises(Corrupt):
        log.add_fork(ForkProof.of(ONE[1], OTHER[1]).encode())
    assert log.forks() == {}


def test_a_frozen_feed_takes_nothing_more(tmp_path: Path) -> None:
    log, _, pair = forked(tmp_path)
    links = (log.id_at(WriterKey(log.key), 0),)
    more = encode_run(forge_feed(pair, log.key, [b"a", b"b", b"c", b"d"], links)[0])
    log.add_fork(proof_at(log, pair, 2))
    with pytest.raises(FeedFrozen):
        log.add_run(more)
    with pytest.raises(ForkDetected):
        log.add_run(encode_run(forge_feed(pair, log.key, [b"a", b"else", b"x", b"y"], links)[0]))


def test_what_was_held_stays_readable_and_reopens_the_same(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = home.logs.create()
    pair = KeyPair.generate()
    links = (log.grant(pair.public).id,)
    log.add_run(encode_run(forge_feed(pair, log.key, [b"a", b"b", b"c"], links)[0]))
    late = log.id_at(pair.public, 2)
    log.append(b"links it")
    log.add_fork(proof_at(log, pair, 1))
    assert log.get(late).value == b"c"
    assert [entry.value for _, entry in log.changes()][1:] == [b"a", b"links it"]
    assert len(log.feed(pair.public)) == 1
    before = log.ends(), log.heads(), log.policy, list(log.changes())
    home.reopen()
    again = home.logs.open(log.key)
    assert (again.ends(), again.heads(), again.policy, list(again.changes())) == before
    again.append(b"goes on")


def test_the_log_goes_on_with_a_new_key_for_the_forked_writer(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    home = Home(tmp_path / "w")
    replica = home.logs.add_remote(log.key)
    key = home.logs.ask_to_write(log.key)
    log.grant(key)
    sync(log, replica)
    replica.append(b"mine")
    seed = only_seed(tmp_path / "w")
    twin = encode_run(
        forge_feed(KeyPair.from_seed(seed), log.key, [b"the twin's"], (log.id_at(WriterKey(log.key), 0),))[0]
    )
    log.add_run(twin)
    sync(log, replica)
    with pytest.raises(FeedFrozen, match="number 0") as raised:
        replica.append(b"more")
    assert "ask the owner" in (raised.value.hint or "")
    log.grant(home.logs.ask_to_write(log.key))
    sync(log, replica)
    replica.append(b"with a new key")
    sync(replica, log)
    assert log.ends() == replica.ends()


def test_an_own_history_that_was_signed_elsewhere_is_noticed_on_arrival(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = home.logs.create()
    seed = only_seed(tmp_path)
    log.append_many([b"1", b"2"])
    with pytest.raises(ForkDetected):
        log.add_run(forge(KeyPair.from_seed(seed), log.key, [b"1", b"x", b"3"]))
    log.add_run(forge(KeyPair.from_seed(seed), log.key, [b"1", b"2", b"3"]))
    assert log.length == 3, "what only goes on is what a second machine with this key wrote"
