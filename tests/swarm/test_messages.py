"""Every message has one spelling, and any other bytes are refused within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlog.encoding import encode
from hyperlog.errors import PeerMisbehaved
from hyperlog.ids import BlockId, DiscoveryKey
from hyperlog.lanes import Lane
from hyperlog.limits import BLOCK_BYTES_MAX
from swarm.discovery.directory import address_at
from swarm.discovery.limits import EXCHANGED_PEERS_MAX
from swarm.discovery.peer_lists import Peers
from swarm.limits import REQUESTS_IN_FLIGHT_MAX, TABLE_BLOCKS_MAX, TABLES_PER_SESSION_MAX
from swarm.replication.framing import HEAD, Frame
from swarm.replication.messages import (
    BODY_BYTES_MAX,
    Absent,
    Block,
    Bye,
    Cancel,
    Challenge,
    Exchange,
    Hello,
    Message,
    Ping,
    Pong,
    Proof,
    Reason,
    Request,
    Type,
    Wanted,
    Why,
    decode_message,
    encode_message,
)
from swarm.replication.table_messages import Gained, Have, Hurry, KnowTable, Run
from swarm.replication.tables import TableId
from swarm.testing import peer_id_for

ids = st.binary(min_size=32, max_size=32)
naturals = st.integers(0, 2**53 - 1)
numbers = st.integers(0, 2**32 - 1)
lanes = st.sampled_from(Lane)
slots = st.integers(0, TABLES_PER_SESSION_MAX - 1)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    wanted = st.builds(
        Wanted,
        numbers,
        ids.map(BlockId),
        st.integers(1, BLOCK_BYTES_MAX),
        st.just(draw(lanes)),
        st.just(draw(st.booleans())),
    )
    return Request(tuple(draw(st.lists(wanted, min_size=1, max_size=64))))


tables: st.SearchStrategy[Message] = st.one_of(
    st.builds(KnowTable, ids.map(TableId), st.integers(1, TABLE_BLOCKS_MAX)),
    st.builds(Have, slots, st.integers(0, 1000).map(lambda n: 8 * n), st.binary(max_size=300)),
    st.builds(Gained, slots, st.lists(numbers, min_size=1, max_size=64).map(tuple)),
    st.builds(
        Run,
        lanes,
        st.booleans(),
        slots,
        st.lists(
            st.tuples(st.integers(0, 2**31), st.integers(0, 1000), st.integers(1, REQUESTS_IN_FLIGHT_MAX)),
            min_size=1,
            max_size=64,
        ).map(tuple),
    ),
    st.builds(Hurry, lanes, st.lists(numbers, min_size=1, max_size=64).map(tuple)),
)
ports = st.integers(1, 65535)
told_peers: st.SearchStrategy[Message] = st.builds(
    Peers,
    st.lists(ports, max_size=2, unique=True).map(tuple),
    st.lists(
        st.builds(
            lambda name, host, port: (address_at(peer_id_for(name), host, port),),
            st.binary(max_size=4),
            st.ip_addresses(v=4, network="10.0.0.0/8"),
            ports,
        ),
        max_size=EXCHANGED_PEERS_MAX,
    ).map(tuple),
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, st.just(1), ids.map(DiscoveryKey), ids),
    st.builds(Challenge, ids),
    st.builds(Proof, ids),
    st.builds(Bye, st.sampled_from(Reason)),
    st.builds(Ping, naturals),
    st.builds(Pong, naturals),
    st.builds(Exchange, st.binary(min_size=1, max_size=300)),
    requests(),
    tables,
    told_peers,
    st.builds(Cancel, st.lists(numbers, min_size=1, max_size=64).map(tuple)),
    st.builds(Block, numbers, st.binary(min_size=1, max_size=300)),
    st.builds(Absent, st.lists(st.tuples(numbers, st.sampled_from(Why)), min_size=1, max_size=64).map(tuple)),
)


def frame_of(data: bytes) -> Frame:
    length, frame_type = HEAD.unpack_from(data)
    assert len(data) == HEAD.size + length
    return Frame(frame_type, data[HEAD.size :])


@given(message=messages)
def test_messages_round_trip(message: Message) -> None:
    assert decode_message(frame_of(encode_message(message))) == message


@given(frame_type=st.sampled_from(sorted(Type)), body=st.binary(max_size=120))
def test_any_body_is_a_message_with_that_spelling_or_refused(frame_type: Type, body: bytes) -> None:
    frame = Frame(frame_type, body)
    try:
        message = decode_message(frame)
    except PeerMisbehaved:
        return
    assert message is not None
    # Unknown reasons for a goodbye are read as one that is known; hellos of other versions may carry more.
    if not isinstance(message, Bye) and not (isinstance(message, Hello) and message.version != 1):
        assert frame_of(encode_message(message)) == frame


@given(message=messages, position=st.integers(0, 2000), flip=st.integers(1, 255))
def test_changed_messages_are_other_messages_or_refused(message: Message, position: int, flip: int) -> None:
    frame_type, body = frame_of(encode_message(message))
    changed = bytearray(body)
    changed[position % len(changed)] ^= flip
    try:
        other = decode_message(Frame(frame_type, bytes(changed)))
    except PeerMisbehaved:
        return
    assert other != message or isinstance(message, Bye)


@given(frame_type=st.integers(0, 255).filter(lambda number: number not in set(map(int, Type))), body=st.binary())
def test_unknown_types_are_no_message(frame_type: int, body: bytes) -> None:
    assert decode_message(Frame(frame_type, body)) is None


def test_a_later_version_may_say_more_in_its_hello() -> None:
    body = encode([2, b"d" * 32, b"n" * 32, "more"])
    assert decode_message(Frame(Type.HELLO, body)) == Hello(2, DiscoveryKey(b"d" * 32), b"n" * 32)


@pytest.mark.parametrize(
    ("frame_type", "body"),
    [
        (Type.HELLO, encode([1, b"d" * 31, b"n" * 32])),
        (Type.HELLO, encode([True, b"d" * 32, b"n" * 32])),
        (Type.HELLO, encode([1, b"d" * 32, b"n" * 32, 0])),
        (Type.CHALLENGE, encode([b"n" * 33])),
        (Type.PING, encode([-1])),
        (Type.PING, encode([2**53])),
        (Type.EXCHANGE, b""),
        (Type.REQUEST, b""),
        (Type.REQUEST, bytes(39)),
        (Type.REQUEST, bytes(40)),  # a length of 0
        (Type.REQUEST, bytes(36) + (BLOCK_BYTES_MAX + 1).to_bytes(4, "big")),
        (Type.BLOCK, bytes(4)),
        (Type.ABSENT, bytes(4) + b"\x09"),
    ],
)
def test_what_no_honest_peer_sends_is_refused(frame_type: Type, body: bytes) -> None:
    with pytest.raises(PeerMisbehaved):
        decode_message(Frame(frame_type, body))


def test_every_type_has_a_cap() -> None:
    assert set(BODY_BYTES_MAX) == set(Type)
