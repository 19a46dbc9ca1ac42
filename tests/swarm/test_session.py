"""The session's laws, with two of them wired together and with hostile bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlog.errors import PeerMisbehaved
from hyperlog.ids import BlockId, DiscoveryKey, LogKey, block_id, discovery_key
from swarm.addresses import PeerId
from swarm.errors import PeerTooSlow
from swarm.limits import REQUESTS_IN_FLIGHT_MAX
from swarm.replication.framing import HEAD, encode_frame
from swarm.replication.handshake import Role, proof_tag
from swarm.replication.messages import (
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
    encode_message,
)
from swarm.replication.session import Session
from swarm.replication.session_events import BlockCame, BlockRefused, BlocksAsked, Ended, Event, ExchangeCame, Opened
from swarm.replication.session_states import State

KEY = LogKey(b"k" * 32)
OTHER_KEY = LogKey(b"o" * 32)
ANN, BOB, EVE = PeerId("ann"), PeerId("bob"), PeerId("eve")
PAYLOAD = b"payload"
BLOCK = block_id(PAYLOAD)


def initiator(key: LogKey = KEY, *, local: PeerId = ANN, remote: PeerId = BOB) -> Session:
    return Session.initiate(key, local=local, remote=remote, nonce=b"1" * 32)


def responder(keys: Sequence[LogKey] = (KEY,), *, local: PeerId = BOB, remote: PeerId = ANN) -> Session:
    logs: dict[DiscoveryKey, LogKey] = {discovery_key(key): key for key in keys}
    return Session.respond(logs.get, local=local, remote=remote, nonce=b"2" * 32, decoy=b"3" * 32)


def converse(one: Session, other: Session) -> tuple[list[Event], list[Event]]:
    """Carry bytes to and fro until both are quiet; the events of each end."""
    events: tuple[list[Event], list[Event]] = ([], [])
    while one.has_output or other.has_output:
        events[1].extend(other.receive(one.take_output()))
        events[0].extend(one.receive(other.take_output()))
    return events


def open_pair() -> tuple[Session, Session]:
    one, other = initiator(), responder()
    assert converse(one, other) == ([Opened(KEY)], [Opened(KEY)])
    return one, other


# --------------------------------------------------------------------------------------------------- the handshake


def test_two_ends_that_know_the_log_open() -> None:
    one, other = open_pair()
    assert one.state is other.state is State.OPEN


@pytest.mark.parametrize("knows", [[], [OTHER_KEY]])
def test_an_unknown_log_is_refused_after_the_proof(knows: list[LogKey]) -> None:
    one, other = initiator(), responder(knows)
    assert converse(one, other) == ([Ended(Reason.REFUSED)], [Ended(Reason.REFUSED)])


def transcript(session: Session, messages: Sequence[Message]) -> bytes:
    sent = b""
    for message in messages:
        session.receive(encode_message(message))
        sent += session.take_output()
    return sent


def test_unknown_log_and_wrong_proof_are_answered_alike() -> None:
    attempt: list[Message] = [Hello(1, discovery_key(KEY), b"1" * 32), Proof(b"?" * 32)]
    known, unknown = responder([KEY]), responder([])
    assert known.take_output() == unknown.take_output() == encode_message(Challenge(b"2" * 32))
    answer = transcript(known, attempt)
    assert answer == transcript(unknown, attempt) == encode_message(Bye(Reason.REFUSED))


@pytest.mark.parametrize(
    ("key", "role", "initiating", "responding", "nonces"),
    [
        (OTHER_KEY, Role.INITIATOR, ANN, BOB, (b"1" * 32, b"2" * 32)),  # knows another log only
        (KEY, Role.RESPONDER, ANN, BOB, (b"1" * 32, b"2" * 32)),  # our own tag, reflected
        (KEY, Role.INITIATOR, EVE, BOB, (b"1" * 32, b"2" * 32)),  # given to Bob by somebody else
        (KEY, Role.INITIATOR, ANN, EVE, (b"1" * 32, b"2" * 32)),  # given by Ann to somebody else
        (KEY, Role.INITIATOR, ANN, BOB, (b"1" * 32, b"9" * 32)),  # of another session
        (KEY, Role.INITIATOR, ANN, BOB, (b"9" * 32, b"2" * 32)),
    ],
)
def test_a_proof_fits_nothing_but_its_session(
    key: LogKey, role: Role, initiating: PeerId, responding: PeerId, nonces: tuple[bytes, bytes]
) -> None:
    tag = proof_tag(
        key,
        role,
        initiator=initiating,
        responder=responding,
        log=discovery_key(KEY),
        initiator_nonce=nonces[0],
        responder_nonce=nonces[1],
    )
    session = responder()
    transcript(session, [Hello(1, discovery_key(KEY), b"1" * 32)])
    assert session.receive(encode_message(Proof(tag))) == [Ended(Reason.REFUSED)]


def test_a_responder_without_the_key_cannot_open() -> None:
    one = initiator()
    one.receive(encode_message(Challenge(b"2" * 32)))
    sent = one.take_output()
    proof = encode_message(Proof(b"t" * 32))
    with pytest.raises(PeerMisbehaved):
        one.receive(sent[-len(proof) :])  # our own proof, sent back
    assert one.state is State.CLOSED


def test_n15_before_the_proof_no_answer_is_longer_than_what_it_answers() -> None:
    one, other = initiator(OTHER_KEY), responder()
    one.receive(other.take_output())
    asked = one.take_output()
    other.receive(asked)
    assert 0 < len(other.take_output()) <= len(asked)


def test_our_own_nonce_does_not_come_back() -> None:
    with pytest.raises(PeerMisbehaved):
        responder().receive(encode_message(Hello(1, discovery_key(KEY), b"2" * 32)))


def test_another_version_is_named_as_the_reason() -> None:
    other = responder()
    assert other.receive(encode_message(Hello(2, discovery_key(KEY), b"1" * 32))) == [Ended(Reason.VERSION)]
    assert initiator().receive(other.take_output()) == [Ended(Reason.VERSION)]


# ------------------------------------------------------------------------------------------- what may come when

EVERY_MESSAGE: list[Message] = [
    Hello(1, discovery_key(KEY), b"1" * 32),
    Challenge(b"2" * 32),
    Proof(b"t" * 32),
    Bye(Reason.GOING),
    Ping(1),
    Pong(1),
    Exchange(b"e"),
    Request((Wanted(0, BLOCK, 10),)),
    Cancel((0,)),
    Block(0, b"x"),
    Absent(((0, Why.NOT_HELD),)),
]


def closed() -> Session:
    one, other = open_pair()
    other.say_bye(Reason.GOING)
    converse(one, other)
    return one


def proof_awaited() -> Session:
    session = responder()
    session.receive(encode_message(EVERY_MESSAGE[0]))
    return session


@pytest.mark.parametrize("message", EVERY_MESSAGE, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize(
    ("session", "allowed"),
    [
        (responder, {Hello}),
        (initiator, {Challenge, Bye}),
        (proof_awaited, {Proof, Bye}),
        (lambda: open_pair()[0], {Bye, Ping, Pong, Exchange, Request, Cancel, Block, Absent}),
    ],
    ids=["hello awaited", "challenge awaited", "proof awaited", "open"],
)
def test_the_table_of_states(session: object, allowed: set[type[Message]], message: Message) -> None:
    assert callable(session)
    one: Session = session()
    if type(message) in allowed:
        one.receive(encode_message(message))
    else:
        with pytest.raises(PeerMisbehaved):
            one.receive(encode_message(message))
        assert one.state is State.CLOSED


@pytest.mark.parametrize("message", EVERY_MESSAGE, ids=lambda message: type(message).__name__)
def test_nothing_is_heard_after_the_end(message: Message) -> None:
    assert closed().receive(encode_message(message)) == []


def test_pieces_of_frames_after_the_end_are_no_misbehaviour() -> None:
    session = closed()
    data = b"".join(map(encode_message, EVERY_MESSAGE)) * 2
    assert [session.receive(data[at : at + 50]) for at in range(0, len(data), 50)] == [[]] * -(-len(data) // 50)


def test_after_the_end_nothing_more_is_said_whatever_is_asked_for() -> None:
    session = closed()
    session.take_output()
    session.cancel(session.request([(block_id(b"payload"), 7)])[0])
    session.close()
    session.say_bye(Reason.GOING)
    assert session.take_output() == b""


def test_an_unknown_type_is_skipped_once_open_and_refused_before() -> None:
    one, _ = open_pair()
    assert one.receive(encode_frame(200, b"from the future")) == []
    with pytest.raises(PeerMisbehaved):
        responder().receive(encode_frame(200, b"from the future"))


@pytest.mark.parametrize("frame_type", [Type.EXCHANGE, Type.BLOCK, Type.REQUEST, Type.HELLO, 200])
def test_w13_before_the_proof_nothing_is_kept_that_is_longer_than_a_proof(frame_type: int) -> None:
    for session in (initiator(), responder()):
        with pytest.raises(PeerMisbehaved):
            session.receive(HEAD.pack(129, frame_type))
        assert session.bytes_held < 129 + HEAD.size


# ----------------------------------------------------------------------------------------------------------- blocks


def test_a_block_is_asked_served_and_verified() -> None:
    one, other = open_pair()
    number = one.request([(BLOCK, 100)])[0]
    assert converse(one, other) == ([], [BlocksAsked()])
    asked = other.next_asked()
    assert asked == Wanted(number, BLOCK, 100)
    other.serve(asked, PAYLOAD)
    assert converse(one, other) == ([BlockCame(number, BLOCK, PAYLOAD)], [])
    assert one.owed_count == 0


def serve_badly(payload: bytes) -> None:
    one, _ = open_pair()
    number = one.request([(BLOCK, len(PAYLOAD))])[0]
    one.receive(encode_message(Block(number, payload)))


@pytest.mark.parametrize("payload", [b"payloae", b"payload!", b"p", PAYLOAD + b"\0"])
def test_a_wrong_block_is_misbehaviour(payload: bytes) -> None:
    with pytest.raises(PeerMisbehaved):
        serve_badly(payload)


def test_a_block_over_its_bound_is_answered_too_large() -> None:
    one, other = open_pair()
    number = one.request([(BLOCK, len(PAYLOAD) - 1)])[0]
    converse(one, other)
    asked = other.next_asked()
    assert asked is not None
    other.serve(asked, PAYLOAD)
    assert converse(one, other) == ([BlockRefused(number, BLOCK, Why.TOO_LARGE)], [])


def test_requests_beyond_the_window_are_answered_busy() -> None:
    _, other = open_pair()
    blocks = [Wanted(number, BLOCK, 10) for number in range(REQUESTS_IN_FLIGHT_MAX)]
    other.receive(encode_message(Request(tuple(blocks))))
    other.receive(encode_message(Request((Wanted(999, BLOCK, 10),))))
    assert other.asked_count == REQUESTS_IN_FLIGHT_MAX
    assert other.take_output() == encode_message(Absent(((999, Why.BUSY),)))


def test_a_request_twice_is_misbehaviour() -> None:
    _, other = open_pair()
    with pytest.raises(PeerMisbehaved):
        other.receive(encode_message(Request((Wanted(1, BLOCK, 10), Wanted(1, BLOCK, 10)))))


def test_a_cancelled_request_is_answered_once() -> None:
    one, other = open_pair()
    first, second = one.request([(BLOCK, 10), (BLOCK, 10)])
    one.cancel(first)
    events, _ = converse(one, other)
    assert events == [BlockRefused(first, BLOCK, Why.CANCELLED)]
    asked = other.next_asked()
    assert asked is not None
    assert asked.number == second
    other.serve(asked, PAYLOAD)
    one.cancel(second)  # too late: it is on its way
    events, _ = converse(one, other)
    assert events == [BlockCame(second, BLOCK, PAYLOAD)]
    assert one.owed_count == other.asked_count == 0


def test_three_answers_that_nobody_asked_for_are_misbehaviour() -> None:
    one, _ = open_pair()
    assert one.receive(encode_message(Block(5, PAYLOAD)) + encode_message(Absent(((6, Why.NOT_HELD),)))) == []
    with pytest.raises(PeerMisbehaved):
        one.receive(encode_message(Block(7, PAYLOAD)))


def test_who_asks_and_does_not_read_is_dropped() -> None:
    one, _ = open_pair()
    with pytest.raises(PeerTooSlow):
        one.receive(encode_message(Ping(0)) * 200_000)


# ------------------------------------------------------------------------------------------------------ properties


def test_frames_of_an_exchange_arrive_in_order() -> None:
    one, other = open_pair()
    one.send_exchange(b"hello")
    other.send_exchange(b"first")
    other.send_exchange(b"second")
    events, other_events = converse(one, other)
    assert events == [ExchangeCame(b"first"), ExchangeCame(b"second")]
    assert other_events == [ExchangeCame(b"hello")]


@given(data=st.binary(max_size=400), is_open=st.booleans())
def test_any_bytes_are_events_or_a_refusal(data: bytes, is_open: bool) -> None:
    session = open_pair()[0] if is_open else responder()
    try:
        session.receive(data)
    except (PeerMisbehaved, PeerTooSlow):
        assert session.state is State.CLOSED


steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 80)),
        st.tuples(st.just("serve"), st.booleans()),
        st.tuples(st.just("carry"), st.integers(1, 400)),
    ),
    max_size=120,
)


@settings(max_examples=60)
@given(steps=steps)
def test_every_request_gets_exactly_one_answer(steps: list[tuple[str, int]]) -> None:
    payloads = [bytes([number]) * (number + 1) for number in range(6)]
    store: dict[BlockId, bytes] = {block_id(payload): payload for payload in payloads[:4]}
    one, other = open_pair()
    asked: dict[int, BlockId] = {}
    answered: dict[int, BlockId] = {}
    pipes = [bytearray(), bytearray()]

    def carry(count: int) -> None:
        for source, sink, pipe in ((one, other, pipes[0]), (other, one, pipes[1])):
            pipe += source.take_output()
            data = bytes(pipe[:count])
            del pipe[:count]
            for event in sink.receive(data):
                if isinstance(event, BlockCame | BlockRefused):
                    assert event.number not in answered
                    assert asked[event.number] == event.block
                    answered[event.number] = event.block

    def serve() -> bool:
        wanted = other.next_asked()
        if wanted is None:
            return False
        payload = store.get(wanted.block)
        if payload is None:
            other.refuse(wanted, Why.NOT_HELD)
        else:
            other.serve(wanted, payload)
        return True

    for what, argument in steps:
        if what == "ask" and one.owed_count < REQUESTS_IN_FLIGHT_MAX:
            block = block_id(payloads[argument])
            asked[one.request([(block, 10)])[0]] = block
        elif what == "cancel":
            one.cancel(argument)
        elif what == "serve":
            serve()
        elif what == "carry":
            carry(argument)
    while one.owed_count:
        carry(10_000)
        serve()
    assert answered == asked
