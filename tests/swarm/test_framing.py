"""Frames out of arbitrary pieces: nothing is lost, nothing is buffered beyond the caps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlog.errors import PeerMisbehaved
from swarm.limits import UNKNOWN_BODY_BYTES_MAX
from swarm.replication.framing import HEAD, Frame, FrameReader, encode_frame

CAPS = {1: 8, 2: 300}
frames = st.lists(
    st.one_of(
        st.builds(Frame, st.just(1), st.binary(max_size=8)),
        st.builds(Frame, st.just(2), st.binary(max_size=300)),
        st.builds(Frame, st.integers(3, 255), st.binary(max_size=600)),
    ),
    max_size=8,
)


@given(sent=frames, cuts=st.lists(st.integers(0, 3000), max_size=10))
def test_frames_survive_any_cutting(sent: list[Frame], cuts: list[int]) -> None:
    wire = b"".join(encode_frame(frame.type, frame.body) for frame in sent)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    reader = FrameReader(CAPS)
    got = [frame for start, end in pairwise(edges) for frame in reader.feed(wire[start:end])]
    assert got == sent
    assert reader.is_between_frames


@given(sent=frames, lost=st.integers(1, 5))
def test_a_cut_frame_is_noticed(sent: list[Frame], lost: int) -> None:
    wire = b"".join(encode_frame(frame.type, frame.body) for frame in [*sent, Frame(2, b"last one")])
    reader = FrameReader(CAPS)
    assert list(reader.feed(wire[:-lost])) == sent
    assert not reader.is_between_frames


@pytest.mark.parametrize(("frame_type", "length"), [(1, 9), (2, 301), (77, UNKNOWN_BODY_BYTES_MAX + 1), (1, 2**32 - 1)])
def test_a_length_over_its_cap_is_refused_before_the_body(frame_type: int, length: int) -> None:
    with pytest.raises(PeerMisbehaved):
        list(FrameReader(CAPS).feed(HEAD.pack(length, frame_type)))


def test_caps_change_between_two_frames_that_came_together() -> None:
    reader = FrameReader({1: 2}, unknown_cap=0)
    frames = reader.feed(encode_frame(1, b"ab") + encode_frame(9, b"more") + encode_frame(1, b"abcd")[:-1])
    assert next(frames) == Frame(1, b"ab")
    reader.allow({1: 4})
    assert list(frames) == [Frame(9, b"more")]
    assert reader.bytes_held == HEAD.size + 3
    assert list(reader.feed(b"d")) == [Frame(1, b"abcd")]
    with pytest.raises(PeerMisbehaved):
        list(FrameReader({}, unknown_cap=0).feed(HEAD.pack(1, 9)))


@given(data=st.binary(max_size=200))
def test_any_bytes_give_frames_or_a_refusal(data: bytes) -> None:
    reader = FrameReader(CAPS)
    try:
        got = list(reader.feed(data))
    except PeerMisbehaved:
        return
    wire = b"".join(encode_frame(frame.type, frame.body) for frame in got)
    assert data.startswith(wire)
    assert reader.is_between_frames == (wire == data)
