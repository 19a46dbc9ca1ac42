"""The yamux machine: two of them talk in pieces of any size; a hostile one finds every limit."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlog.errors import PeerMisbehaved
from swarm.errors import PeerTooSlow
from swarm.limits import (
    FLOOD_FRAMES_MAX,
    FLOOD_FRAMES_PER_SECOND,
    OPENED_STREAMS_MAX,
    STREAM_FRAMES_COST,
    STREAMS_PER_PEER_MAX,
    UNREAD_BYTES_ALL_MAX,
    WINDOW_BYTES_MAX,
    WINDOW_BYTES_PER_CONNECTION_MAX,
)
from swarm.net.yamux import ACK, FIN, HEADER, RST, SYN, WINDOW_FIRST, WINDOW_OPENED, Code, Flow, Kind, Memory, Yamux


def frame(kind: int, flags: int, stream: int, value: int, payload: bytes = b"", version: int = 0) -> bytes:
    return HEADER.pack(version, kind, flags, stream, value) + payload


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(Kind.DATA, flags, stream, len(payload), payload)


def server(memory: Memory | None = None) -> Yamux:
    return Yamux(memory or Memory(), is_initiator=False, now=0)


def opened(yamux: Yamux, stream: int = 1) -> Flow:
    yamux.receive(frame(Kind.WINDOW, SYN, stream, 0), 0)
    return yamux.arrived.pop()


# ------------------------------------------------------------------------------------------------------ two of them


class Pair:
    """Two ends with bytes under way between them."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.memory = Memory()
        self.ends = (
            Yamux(self.memory, is_initiator=True, now=0),
            Yamux(self.memory, is_initiator=False, now=0),
        )
        self.wires = (bytearray(), bytearray())
        self.flows: tuple[dict[int, Flow], dict[int, Flow]] = ({}, {})
        self.said: defaultdict[tuple[int, int], bytearray] = defaultdict(bytearray)
        self.heard: defaultdict[tuple[int, int], bytearray] = defaultdict(bytearray)
        self.now = 0.0

    def collect(self, end: int) -> None:
        self.wires[end].extend(self.ends[end].take_output())

    def open(self, end: int) -> None:
        if self.ends[end].may_open and len(self.flows[end]) < STREAMS_PER_PEER_MAX:
            flow = self.ends[end].open()
            self.flows[end][flow.id] = flow

    def any_flow(self, end: int) -> Flow | None:
        flows = list(self.flows[end].values())
        return self.chance.choice(flows) if flows else None

    def say(self, end: int) -> None:
        flow = self.any_flow(end)
        if flow is not None and not flow.is_sent and not flow.is_reset:
            payload = self.chance.randbytes(self.chance.choice([1, 100, 5_000, 300_000]))
            self.collect(end)
            header, length = self.ends[end].data(flow, len(payload))
            assert flow.may_send >= 0
            self.wires[end].extend(header + payload[:length])
            self.said[end, flow.id] += payload[:length]

    def deliver(self, end: int, everything: bool = False) -> None:
        self.collect(end)
        wire, other = self.wires[end], 1 - end
        size = len(wire) if everything else self.chance.randint(0, min(len(wire), self.chance.choice([7, 70_000])))
        self.now += 0.01
        self.ends[other].receive(bytes(wire[:size]), self.now)
        del wire[:size]
        for flow in self.ends[other].arrived:
            self.flows[other][flow.id] = flow
        self.ends[other].arrived.clear()
        assert all(flow.may_come >= 0 for flow in self.flows[other].values())
        assert all(flow.unread <= WINDOW_BYTES_MAX for flow in self.flows[other].values())

    def hear(self, end: int) -> None:
        flow = self.any_flow(end)
        if flow is not None and flow.unread and self.chance.random() < 0.5:
            self.heard[1 - end, flow.id] += b"".join(self.ends[end].take_pieces(flow, 1))
        elif flow is not None:
            self.heard[1 - end, flow.id] += self.ends[end].take(flow, self.chance.choice([1, 70_000, 1 << 20]))

    def finish(self, end: int) -> None:
        flow = self.any_flow(end)
        if flow is not None and self.chance.random() < 0.2:
            self.ends[end].finish(flow)

    def settle(self) -> None:
        """Until nothing is under way and nothing unread."""
        for _ in range(100):
            for end in (0, 1):
                self.deliver(end, everything=True)
            for end in (0, 1):
                for flow in self.flows[end].values():
                    self.heard[1 - end, flow.id] += self.ends[end].take(flow, 1 << 30)
            for end in (0, 1):
                self.collect(end)
            if not any(self.wires):
                return
        raise AssertionError("the two go on talking for ever")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), steps=st.integers(1, 250))
def test_what_is_said_is_heard_whole_in_order_and_within_the_windows(seed: int, steps: int) -> None:
    pair = Pair(random.Random(seed))
    actions = [pair.open, pair.say, pair.say, pair.deliver, pair.deliver, pair.hear, pair.finish]
    for _ in range(steps):
        pair.chance.choice(actions)(pair.chance.randint(0, 1))
        assert pair.memory.granted <= 2 * WINDOW_BYTES_PER_CONNECTION_MAX
    pair.settle()
    assert pair.heard == {**pair.heard, **pair.said}
    assert pair.memory.unread == 0
    for end in (0, 1):
        for flow in pair.flows[end].values():
            pair.ends[end].finish(flow)
    pair.settle()
    for end in (0, 1):
        assert not pair.ends[end].flows
        assert all(flow.is_finished and not flow.is_reset for flow in pair.flows[end].values())
    assert pair.memory.granted == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                frame,
                st.integers(0, 5),
                st.integers(0, 15),
                st.integers(0, 9),
                st.integers(0, 40) | st.integers(0, (1 << 32) - 1),
                st.binary(max_size=40),
                st.sampled_from([0, 0, 0, 0, 0, 0, 1]),
            ),
        ),
        max_size=30,
    )
)
def test_anything_at_all_is_understood_or_misbehaviour(pieces: list[bytes]) -> None:
    memory = Memory()
    yamux = server(memory)
    own = [yamux.open() for _ in range(3)]
    yamux.take_output()
    try:
        for number, piece in enumerate(pieces):
            yamux.receive(piece, number / 100)
    except PeerMisbehaved:
        yamux.goodbye(Code.PROTOCOL_ERROR)
    assert len(yamux.take_output()) <= 12 * (2 + sum(map(len, pieces)) // 12)
    for flow in own:
        yamux.take(flow, 1 << 20)
    yamux.end()
    assert memory.unread == 0
    assert memory.granted == 0
    assert not yamux.flows


# ------------------------------------------------------------------------------------------------------- the limits


@pytest.mark.parametrize("length", [WINDOW_FIRST + 1, (16 << 20) + 1, (1 << 32) - 1])
def test_w6_a_frame_beyond_the_window_is_refused_by_its_header_alone(length: int) -> None:
    yamux = server()
    opened(yamux)
    with pytest.raises(PeerMisbehaved):
        yamux.receive(frame(Kind.DATA, 0, 1, length), 0)


def test_w6_also_on_a_stream_that_is_not_there() -> None:
    with pytest.raises(PeerMisbehaved):
        server().receive(frame(Kind.DATA, 0, 7, WINDOW_BYTES_MAX + 1), 0)


def test_w7_an_idle_reader_holds_one_window_and_no_byte_more() -> None:
    memory = Memory()
    yamux = server(memory)
    flow = opened(yamux)
    for _ in range(WINDOW_FIRST >> 16):
        yamux.receive(data(1, bytes(1 << 16)), 0)
    assert memory.unread == flow.unread == WINDOW_FIRST
    with pytest.raises(PeerMisbehaved):
        yamux.receive(data(1, b"x"), 0)
    assert memory.unread == WINDOW_FIRST


def test_a_reader_that_reads_is_granted_more_up_to_the_bound_of_the_connection() -> None:
    yamux = server()
    flows = [opened(yamux, stream) for stream in (1, 3, 5)]
    for _ in range(200):
        for flow in flows:
            yamux.receive(data(flow.id, bytes(min(flow.may_come, 1 << 20))), 0)
            yamux.take(flow, 1 << 30)
    windows = [flow.may_come for flow in flows]
    assert max(windows) == WINDOW_BYTES_MAX
    assert sum(windows) <= WINDOW_BYTES_PER_CONNECTION_MAX + 3 * WINDOW_FIRST


def test_what_answers_a_stream_that_we_open_may_be_long_at_once_while_there_is_room() -> None:
    memory = Memory()
    yamux = server(memory)
    flows = [yamux.open() for _ in range(OPENED_STREAMS_MAX)]
    said = yamux.take_output()
    heads = [HEADER.unpack_from(said, at) for at in range(0, len(said), HEADER.size)]
    for flow in flows:
        assert flow.may_come == WINDOW_FIRST + sum(value for _, _, _, stream, value in heads if stream == flow.id)
    assert flows[0].may_come == WINDOW_OPENED
    assert flows[-1].may_come == WINDOW_FIRST
    assert 0 < memory.granted <= WINDOW_BYTES_PER_CONNECTION_MAX // 2
    yamux.receive(frame(Kind.WINDOW, ACK, flows[0].id, 0) + data(flows[0].id, bytes(WINDOW_OPENED)), 0)
    with pytest.raises(PeerMisbehaved):
        yamux.receive(data(flows[0].id, bytes(1)), 0)
    yamux.end()
    assert memory.granted == 0


def test_unread_bytes_of_all_connections_are_bounded() -> None:
    memory = Memory()
    memory.unread = UNREAD_BYTES_ALL_MAX
    yamux = server(memory)
    opened(yamux, 1)
    yamux.receive(data(1, bytes(WINDOW_FIRST)), 0)  # an ordinary peer is not the one to go
    opened(yamux, 3)
    with pytest.raises(PeerTooSlow):
        yamux.receive(data(3, bytes(1000)), 0)


def test_w8_streams_beyond_the_limit_are_reset_and_thousands_end_the_connection() -> None:
    yamux = server()
    with pytest.raises(PeerMisbehaved, match="flood"):
        yamux.receive(b"".join(frame(Kind.WINDOW, SYN, 2 * number + 1, 0) for number in range(10_000)), 0)
    assert len(yamux.arrived) == STREAMS_PER_PEER_MAX
    refused = FLOOD_FRAMES_MAX // (STREAM_FRAMES_COST + 1) - STREAMS_PER_PEER_MAX
    said = yamux.take_output()
    assert len(said) // HEADER.size == STREAMS_PER_PEER_MAX + refused
    assert said.count(frame(Kind.WINDOW, RST, 2 * STREAMS_PER_PEER_MAX + 1, 0)) == 1


@pytest.mark.parametrize(
    "nothing",
    [
        frame(Kind.PING, SYN, 0, 1),
        frame(Kind.PING, ACK, 0, 1),
        frame(Kind.WINDOW, 0, 1, 0),
        frame(Kind.WINDOW, RST, 9, 0),
        data(1, b""),
    ],
)
def test_w10_a_flood_of_frames_that_carry_nothing_ends_the_connection(nothing: bytes) -> None:
    yamux = server()
    opened(yamux)
    for second in range(1, 6):  # an honest rate goes on for ever
        for _ in range(FLOOD_FRAMES_PER_SECOND // 2):
            yamux.receive(nothing, second)
        yamux.take_output()
    with pytest.raises(PeerMisbehaved, match="flood"):
        yamux.receive(nothing * 100_000, 7)


def test_w10_who_answers_our_data_is_no_flood() -> None:
    yamux = server()
    flow = opened(yamux)
    for _ in range(2 * FLOOD_FRAMES_MAX):
        _, length = yamux.data(flow, 2048)
        assert length == 2048
        yamux.receive(frame(Kind.WINDOW, 0, 1, 2048), 0)


@pytest.mark.parametrize(
    "bad",
    [
        frame(Kind.PING, SYN, 0, 1, version=1),
        frame(4, 0, 0, 0),
        frame(Kind.WINDOW, SYN, 2, 0),
        frame(Kind.WINDOW, SYN, 0, 0),
        frame(Kind.WINDOW, SYN, 1, 0),
        frame(Kind.WINDOW, 0, 1, (1 << 32) - 1),
        frame(Kind.GO_AWAY, 0, 0, Code.PROTOCOL_ERROR),
        frame(Kind.DATA, FIN, 1, 0) + data(1, b"more"),
    ],
)
def test_frames_that_cannot_be_are_misbehaviour(bad: bytes) -> None:
    yamux = server()
    opened(yamux)
    with pytest.raises(PeerMisbehaved):
        yamux.receive(bad, 0)


# ------------------------------------------------------------------------------------------------------ the corners


def test_one_direction_may_end_before_the_other() -> None:
    yamux = server()
    flow = opened(yamux)
    yamux.receive(data(1, b"last words", FIN), 0)
    assert flow.is_finished
    assert 1 in yamux.flows
    assert yamux.data(flow, 5)[1] == 5
    yamux.finish(flow)
    assert not yamux.flows
    assert yamux.take(flow, 100) == b"last words"


def test_data_for_a_stream_that_was_reset_here_is_skipped() -> None:
    memory = Memory()
    yamux = server(memory)
    flow = opened(yamux)
    start = data(1, bytes(1000))
    yamux.receive(start[:500], 0)
    yamux.reset(flow)
    yamux.receive(start[500:] + data(1, bytes(1000)) + frame(Kind.PING, SYN, 0, 77), 0)
    assert memory.unread == 0
    assert yamux.take_output().endswith(frame(Kind.PING, ACK, 0, 77))


def test_no_more_is_skipped_than_a_stream_that_ended_here_had_been_granted() -> None:
    yamux = server()
    with pytest.raises(PeerMisbehaved):
        yamux.receive(data(9, b"x"), 0)  # there never was such a stream
    yamux = server()
    flow = opened(yamux)
    yamux.receive(data(1, bytes(1000)), 0)
    yamux.reset(flow)
    yamux.receive(data(1, bytes(WINDOW_FIRST - 1000)), 0)
    with pytest.raises(PeerMisbehaved):
        yamux.receive(data(1, b"x"), 0)


def test_w10_rapid_resets_end_the_connection_and_leave_nothing() -> None:
    yamux = server()
    ids = range(1, 20_001, 2)
    with pytest.raises(PeerMisbehaved, match="flood"):
        receive_all(yamux, [frame(Kind.WINDOW, flag, each, 0) for each in ids for flag in (SYN, RST)])
    assert not yamux.flows
    assert len(yamux.arrived) <= FLOOD_FRAMES_MAX // STREAM_FRAMES_COST


def test_w10_a_frame_in_messages_of_a_byte_ends_the_connection_and_one_in_large_messages_does_not() -> None:
    yamux = server()
    flow = opened(yamux)
    whole = data(1, bytes(200_000))
    for start in range(0, len(whole), 1200):
        yamux.receive(whole[start : start + 1200], 0)
    assert yamux.take(flow, 1 << 20) == bytes(200_000)
    dribbled = data(1, bytes(200_000))
    with pytest.raises(PeerMisbehaved, match="flood"):
        receive_all(yamux, [bytes((byte,)) for byte in dribbled])


def receive_all(yamux: Yamux, messages: list[bytes]) -> None:
    for message in messages:
        yamux.receive(message, 0)


def test_what_a_peer_had_finished_saying_outlives_the_connection() -> None:
    yamux = server()
    finished, cut = opened(yamux, 1), opened(yamux, 3)
    yamux.receive(data(1, b"bye", FIN) + data(3, b"half"), 0)
    yamux.end()
    assert (finished.is_finished, finished.is_reset) == (True, False)
    assert yamux.take(finished, 10) == b"bye"
    assert cut.is_reset
    assert list(yamux.touched) == [finished, cut]


def test_after_a_goodbye_and_beyond_the_limit_nothing_is_opened() -> None:
    yamux = server()
    for _ in range(OPENED_STREAMS_MAX):
        yamux.open()
    assert not yamux.may_open
    other = server()
    other.receive(frame(Kind.GO_AWAY, 0, 0, Code.NORMAL), 0)
    assert other.is_gone
    assert not other.may_open


def test_pings_are_answered_and_answers_are_not() -> None:
    yamux = server()
    yamux.ping(6)
    yamux.receive(frame(Kind.PING, SYN, 0, 5) + frame(Kind.PING, ACK, 0, 6), 0)
    assert yamux.take_output() == frame(Kind.PING, SYN, 0, 6) + frame(Kind.PING, ACK, 0, 5)


@pytest.mark.parametrize(("mine", "is_copied"), [(100_000, True), (200_000, False)])
def test_several_pieces_stay_where_they_were_decrypted_if_they_are_half_of_it(mine: int, is_copied: bool) -> None:
    yamux = server()
    for stream in (1, 3):
        opened(yamux, stream)
    yamux.receive(data(1, b"a" * (mine // 2)) + data(3, bytes(150_000)) + data(1, b"b" * (mine // 2)), 0)
    assert [isinstance(piece, bytearray) for piece in yamux.flows[1].pieces] == [is_copied] * 2
    assert yamux.take(yamux.flows[1], 1 << 20) == b"a" * (mine // 2) + b"b" * (mine // 2)


def test_what_is_kept_holds_no_more_than_twice_what_is_unread() -> None:
    yamux = server()
    for stream in (1, 3, 5):
        opened(yamux, stream)
    together = data(1, bytes(1000)) + data(3, bytes(40_000)) + data(5, bytes(60_000)) + data(3, b"more")
    yamux.receive(together, 0)
    held = {id(piece.obj if isinstance(piece, memoryview) else piece): 0 for piece in yamux.flows[5].pieces}
    assert len(held) == 1
    assert isinstance(yamux.flows[5].pieces[0], memoryview)  # where it was decrypted
    small = [piece for stream in (1, 3) for piece in yamux.flows[stream].pieces]
    assert all(isinstance(piece, bytearray) for piece in small)
    assert len(together) + sum(map(len, small)) <= 2 * sum(flow.unread for flow in yamux.flows.values())
    assert list(map(len, yamux.take_pieces(yamux.flows[5], 1))) == [60_000]
    assert yamux.flows[5].unread == 0
    assert yamux.take(yamux.flows[3], 1 << 20) == bytes(40_000) + b"more"
