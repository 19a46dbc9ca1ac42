"""The formats of docs/LOG_FORMAT.md: exact bytes, and a second reader written from that document alone."""

from __future__ import annotations

from pathlib import Path

from hyperlog.encoding import decode
from hyperlog.entry import Kind
from hyperlog.hashing import blake3_256
from hyperlog.ids import LogKey, WriterKey
from hyperlog.keys import KeyPair, verify
from hyperlog.messages import (
    Absent,
    Compare,
    Done,
    Entries,
    Hello,
    Message,
    Request,
    Sample,
    Sent,
    State,
    Want,
    encode_message,
)
from hyperlog.run import encode_run
from hyperlog.writers import Grant, Operation, Revoke, Rights, Rotate, Transfer, encode_operation
from tests.hyperlog.replicas import forge_feed, team

PAIR = KeyPair.from_seed(bytes(range(32)))
LOG = LogKey(PAIR.public)


IDS = ["a64d1959cd858769", "14645dd2a57e0360", "e577b9ed068b2679"]
RUN = "555f92e7e2a4bea5"
OPERATIONS = ["2155d58107a76ec9", "f345f5e93b212e9b", "8b27dcd753b34f9b", "68252ac39b65521a"]
MESSAGES = "e6d87777b999e8ad"


def digest(data: bytes) -> str:
    return blake3_256(data).hex()[:16]


def test_the_bytes_of_format_1() -> None:
    run, ids = forge_feed(PAIR, LOG, [b"one", b"two", b"three"])
    assert [each.hex()[:16] for each in ids] == IDS
    assert digest(encode_run(run)) == RUN
    operations: list[Operation] = [Grant(PAIR.public, Rights.WRITE, "x"), Revoke(PAIR.public, 7, "y")]
    encoded = [encode_operation(each) for each in (*operations, Transfer(PAIR.public), Rotate(PAIR.public))]
    assert [digest(each) for each in encoded] == OPERATIONS
    range_ = (PAIR.public, 1, 2)
    messages: list[Message] = [
        Hello(1, True, False, True),
        State(True, ((PAIR.public, 3, ids[2]),), ((PAIR.public, 1),)),
        Request((range_,)),
        Sample((range_,)),
        Want((ids[0],)),
        Entries(((b"entry", b"admission"),)),
        Absent((ids[0],)),
        Compare(PAIR.public, ((ids[0], 0),)),
        Sent(5),
        Done(6),
    ]
    assert digest(b"".join(map(encode_message, messages))) == MESSAGES


# ---- a reader of the document


def node(left: bytes, right: bytes) -> bytes:
    return blake3_256(b"\x00" + left + right)


def tree(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return node(tree(leaves[:k]), tree(leaves[k:]))


def siblings(index: int, size: int) -> list[tuple[int, int]]:
    found = []
    a, b = 0, size
    while b - a > 1:
        k = 1
        while 2 * k < b - a:
            k *= 2
        if index < a + k:
            found.append((a + k, b))
            b = a + k
        else:
            found.append((a, a + k))
            a += k
    return found[::-1]


def check_head(log: bytes, writer: bytes, length: int, root: bytes, signature: bytes) -> None:
    assert verify(writer, signature, b"hyperlog head v1\n" + log + writer + length.to_bytes(8, "big") + root)


def read_run(data: bytes, ids: list[bytes]) -> list[tuple[int, list[bytes], bytes]]:
    """Check a run of a feed whose ids before it are `ids`, add its ids, give (kind, links, value)."""
    assert data[0] == 1
    log, writer = data[1:33], data[33:65]
    start, count = int.from_bytes(data[65:73], "big"), int.from_bytes(data[73:77], "big")
    prev, length = data[77:109], int.from_bytes(data[109:117], "big")
    signature, rights = data[117:181], data[181]
    at = 182
    path = [data[at + 32 * each : at + 32 * each + 32] for each in range(rights)]
    at += 32 * rights
    kinds = data[at : at + count]
    at += count
    counts = [int.from_bytes(data[at + 2 * each : at + 2 * each + 2], "big") for each in range(count)]
    at += 2 * count
    sizes = [int.from_bytes(data[at + 4 * each : at + 4 * each + 4], "big") for each in range(count)]
    at += 4 * count
    assert start == len(ids)
    assert prev == (ids[-1] if ids else bytes(32))
    found = []
    linked = []
    for number in counts:
        own = 0 if number == 0xFFFF else number
        linked.append([data[at + 32 * each : at + 32 * each + 32] for each in range(own)])
        at += 32 * own
    for each in range(count):
        value = data[at : at + sizes[each]]
        at += sizes[each]
        before = ids[-1] if ids else bytes(32)
        links = [before] if counts[each] == 0xFFFF else linked[each]
        header = b"\x01" + log + writer + len(ids).to_bytes(8, "big") + kinds[each : each + 1] + before
        header += len(links).to_bytes(2, "big") + b"".join(links) + len(value).to_bytes(4, "big") + blake3_256(value)
        ids.append(blake3_256(header))
        found.append((kinds[each], links, value))
    assert at == len(data)
    root = ids[-1]
    others = iter(path)
    for a, b in siblings(len(ids) - 1, length):
        root = node(tree(ids[a:b]), root) if b <= len(ids) - 1 else node(root, next(others))
    check_head(log, writer, length, root, signature)
    return found


def read_entry(data: bytes) -> tuple[bytes, bytes]:
    """Check an entry that stands alone; its id and value."""
    length, signature, hashes = int.from_bytes(data[1:9], "big"), data[9:73], data[73]
    path = [data[74 + 32 * each : 106 + 32 * each] for each in range(hashes)]
    head = data[74 + 32 * hashes :]
    links = int.from_bytes(head[106:108], "big")
    end = 108 + 32 * links + 36
    value = head[end:]
    assert int.from_bytes(head[end - 36 : end - 32], "big") == len(value)
    assert head[end - 32 : end] == blake3_256(value)
    seq = int.from_bytes(head[65:73], "big")
    root = identifier = blake3_256(head[:end])
    for (a, _), other in zip(siblings(seq, length), path, strict=True):
        root = node(other, root) if a < seq else node(root, other)
    check_head(head[1:33], head[33:65], length, root, signature)
    return identifier, value


def test_a_second_reader_agrees(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2)
    one.append_many([b"%d" % number for number in range(40)])
    one.append(b"tag", links=[one.id_at(WriterKey(one.key), 3)], kind=Kind.TAG)
    writer = WriterKey(one.key)
    ids: list[bytes] = []
    found: list[tuple[int, list[bytes], bytes]] = []
    for end in (1, 2, 17, 30, 42):
        found += read_run(encode_run(one.run(writer, len(ids), until=end)), ids)
    entries = one.feed(writer)
    assert ids == [entry.id for entry in entries]
    assert found == [(entry.kind, list(entry.links), entry.value) for entry in entries]
    assert [read_entry(entry.encoded) for entry in entries] == [(entry.id, entry.value) for entry in entries]
    assert decode(found[0][2], bytes_max=1024) == ["grant", other.writer, 13, ""]
