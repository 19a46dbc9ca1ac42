"""Frames, the beginning of a line, and the host's rules: for a guest that says anything at all."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlog import encoding
from hyperlog.errors import Refused, Unavailable
from vmhost.agent import limits, protocol
from vmhost.agent.multiplexer import Accepted, Ended, Granted, Multiplexer, Output, Running, words
from vmhost.agent.protocol import BODY_BYTES_MAX, WINDOW_BYTES, Frame, FrameReader, Kind, Welcome, encode
from vmhost.errors import AgentLost, AgentMisbehaved

_NONCE = bytes(range(16))
_WELCOME = b"WN\1\0" + (24).to_bytes(4, "little") + _NONCE + b"\1\0" + bytes(6) + b"\xa5"
_START = b"SN\1\0" + (24).to_bytes(4, "little") + bytes(24) + b"\xa5"
_frames = st.builds(
    Frame,
    st.sampled_from(list(Kind)),
    st.integers(0, 255),
    st.integers(0, 0xFFFF),
    st.binary(max_size=300),
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(places)]


@given(st.lists(_frames, max_size=20), st.lists(st.integers(0, 10_000), max_size=10), st.integers(0, 50))
def test_frames_come_out_of_any_pieces(frames: list[Frame], cuts: list[int], padding: int) -> None:
    line = b"".join(bytes(padding) + encode(Kind(f.kind), f.session, f.body, channel=f.channel) for f in frames)
    reader = FrameReader()
    assert [frame for piece in pieces(line, cuts) for frame in reader.feed(piece)] == frames


@pytest.mark.parametrize("cut", [3, 8, 20])
def test_a_frame_that_was_cut_and_padded_is_no_frame(cut: int) -> None:
    line = encode(Kind.DATA, 7, b"x" * 100)[:cut] + protocol.hello(_NONCE)
    with pytest.raises(AgentMisbehaved):
        list(FrameReader().feed(line))


def test_a_frame_has_a_longest() -> None:
    assert len(list(FrameReader().feed(encode(Kind.DATA, 1, bytes(BODY_BYTES_MAX))))) == 1
    with pytest.raises(Refused):
        encode(Kind.DATA, 1, bytes(BODY_BYTES_MAX + 1))
    with pytest.raises(AgentMisbehaved):
        list(FrameReader().feed(b"D\0\1\0" + (BODY_BYTES_MAX + 1).to_bytes(4, "little")))


@given(st.binary(max_size=200), st.lists(st.integers(0, 400), max_size=8), st.binary(max_size=60))
def test_the_welcome_is_found_in_what_an_older_stream_left(before: bytes, cuts: list[int], after: bytes) -> None:
    welcome, rest, found = Welcome(_NONCE), b"", None
    for piece in pieces(before + _WELCOME + after, cuts):
        if found is not None:
            rest += piece
        else:
            found = welcome.feed(piece)
    assert found is not None
    assert found[0] == 1
    assert (_WELCOME + found[1] + rest).endswith(after) or not after


def test_a_new_agent_is_told_of_once_and_greeted_anew() -> None:
    welcome = Welcome(_NONCE)
    assert welcome.feed(bytes(70_000) + _START[:20]) is None
    assert not welcome.take_restart()
    assert welcome.feed(_START[20:]) is None
    assert welcome.take_restart()
    assert not welcome.take_restart()
    assert welcome.feed(_WELCOME) == (1, b"")


def test_who_talks_without_answering_is_left() -> None:
    welcome = Welcome(_NONCE)
    for _ in range(limits.HUNT_BYTES_MAX // 65536):
        assert welcome.feed(b"x" * 65536) is None
    with pytest.raises(AgentMisbehaved):
        welcome.feed(b"x")


def opened() -> tuple[Multiplexer, int]:
    multiplexer = Multiplexer()
    number, _ = multiplexer.open({"op": "exec"})
    return multiplexer, number


def said(kind: Kind, number: int, body: bytes = b"", channel: int = 0) -> Frame:
    return Frame(kind, channel, number, body)


def test_a_session_from_its_request_to_its_end() -> None:
    multiplexer, number = opened()
    assert multiplexer.receive(said(Kind.ACCEPTED, number, encoding.encode({"pid": 7}))) == Accepted(number, 7)
    assert multiplexer.receive(said(Kind.RUNNING, number, encoding.encode({"pid": 9}))) == Running(number, 9)
    assert multiplexer.receive(said(Kind.DATA, number, b"hi", 1)) == Output(number, 1, b"hi")
    multiplexer.send(number, bytes(1000))
    assert multiplexer.input_credit(number) == WINDOW_BYTES - 1000
    assert multiplexer.receive(said(Kind.CREDIT, number, protocol.number_body(1000))) == Granted(number)
    assert multiplexer.receive(said(Kind.DATA, number, b"", 2)) == Output(number, 2, b"")
    assert multiplexer.receive(said(Kind.ENDED, number, encoding.encode({"signal": 9}))) == Ended(number, 137)
    assert multiplexer.input_credit(number) == 0


def test_of_an_abandoned_session_nothing_is_told_until_its_number_is_free() -> None:
    multiplexer, number = opened()
    assert multiplexer.abandon(number)
    assert not multiplexer.abandon(number)
    assert multiplexer.receive(said(Kind.DATA, number, b"late", 1)) is None
    assert multiplexer.grant(number, 1, 4) == b""
    assert multiplexer.receive(said(Kind.ENDED, number, encoding.encode({"code": 0}))) is None
    with pytest.raises(AgentMisbehaved):
        multiplexer.receive(said(Kind.DATA, number, b"", 1))


@pytest.mark.parametrize(
    "frames",
    [
        [said(Kind.DATA, 9, b"x", 1)],  # no such session
        [said(Kind.DATA, 1, b"x", 0)],  # the program's own input
        [said(Kind.DATA, 1, b"x", 3)],
        [said(Kind.DATA, 1, bytes(65_536), 1)] * (WINDOW_BYTES // 65_536 + 1),  # more than a window
        [said(Kind.DATA, 1, b"", 1), said(Kind.DATA, 1, b"x", 1)],  # after its end
        [said(Kind.DATA, 1, b"", 1), said(Kind.DATA, 1, b"", 1)],
        [said(Kind.CREDIT, 1, protocol.number_body(1))],  # for what was never sent
        [said(Kind.CREDIT, 1, b"123")],
        [said(Kind.ACCEPTED, 1, encoding.encode({"pid": 1}))] * 2,
        [said(Kind.ACCEPTED, 1, encoding.encode({"pid": -1}))],
        [said(Kind.ACCEPTED, 1, encoding.encode({"pid": True}))],
        [said(Kind.ENDED, 1, encoding.encode({"code": 256}))],
        [said(Kind.ENDED, 1, encoding.encode([1]))],
        [said(Kind.ENDED, 1, b"\xff")],
        [said(Kind.OPEN, 1, b"")],
        [Frame(0x7F, 0, 1, b"")],
    ],
)
def test_a_broken_rule_ends_the_line(frames: list[Frame]) -> None:
    multiplexer, number = opened()
    assert number == 1
    for frame in frames[:-1]:
        multiplexer.receive(frame)
    with pytest.raises(AgentMisbehaved):
        multiplexer.receive(frames[-1])


def test_sessions_are_counted_and_numbers_come_back() -> None:
    multiplexer = Multiplexer()
    numbers = [multiplexer.open({"op": "exec"})[0] for _ in range(limits.SESSIONS_MAX)]
    assert len(set(numbers)) == limits.SESSIONS_MAX
    with pytest.raises(Unavailable):
        multiplexer.open({"op": "exec"})
    for _ in range(70_000):
        multiplexer.receive(said(Kind.ENDED, numbers.pop(0), encoding.encode({"code": 0})))
        numbers.append(multiplexer.open({"op": "exec"})[0])
        assert 0 < numbers[-1] <= 0xFFFF


def test_what_a_guest_says_cannot_move_the_cursor() -> None:
    assert words(b"no\x1b[2J\xff\r\nfile") == "no [2J\ufffd  file"
    assert len(words(b"x" * 10_000)) == limits.WORDS_BYTES


def test_a_thousand_hostile_guests() -> None:
    """Whatever comes, the host holds no more than its windows and raises nothing but its own errors."""
    for seed in range(1000):
        chance = random.Random(seed)
        multiplexer, reader, held = Multiplexer(), FrameReader(), 0
        numbers = [multiplexer.open({"op": "exec"})[0] for _ in range(3)]
        try:
            for _ in range(200):
                for frame in reader.feed(_anything(chance, numbers)):
                    event = multiplexer.receive(frame)
                    held += len(event.data) if isinstance(event, Output) else 0
        except (AgentMisbehaved, AgentLost):
            pass
        assert held <= 3 * 2 * WINDOW_BYTES, seed


def _anything(chance: random.Random, numbers: list[int]) -> bytes:
    bodies = (b"", chance.randbytes(chance.randrange(200)), bytes(chance.randrange(BODY_BYTES_MAX)))
    table = encoding.encode({"code": chance.randrange(300), "pid": chance.randrange(300)})
    body = chance.choice((*bodies, table, table, protocol.number_body(chance.randrange(5))))
    kind = chance.choice(list(Kind))
    frame = encode(kind, chance.choice(numbers), body, channel=chance.choice((0, 1, 1, 2, 2, 3)))
    if chance.random() < 0.02:
        place = chance.randrange(len(frame))
        return frame[:place] + chance.randbytes(2) + frame[place:]
    return frame
