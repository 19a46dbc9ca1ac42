"""Questions about who serves a log, over streams of /hypernode/find/1: asked of a node, and answered.

Whoever opened the stream asks, waits for the answer, asks again or ends the stream. Both ends keep deadlines; what is
asked and answered is decided elsewhere (swarm/discovery/).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from hyperlog.errors import HyperError, PeerMisbehaved
from swarm.addresses import PeerAddress
from swarm.discovery.limits import ASK_SECONDS, SERVE_SECONDS
from swarm.discovery.messages import (
    BODY_BYTES_MAX,
    Announce,
    Announced,
    Answer,
    Busy,
    Find,
    Found,
    Message,
    Question,
    decode_message,
    encode_message,
)
from swarm.discovery.scope import IpAddress, host_of
from swarm.errors import ConnectionLost, PeerUnreachable
from swarm.limits import CLOSE_SECONDS
from swarm.network import Network, Stream
from swarm.replication.framing import FrameReader

FIND: Final = "/hypernode/find/1"
"""The protocol of these streams."""


async def ask(
    network: Network, address: PeerAddress, questions: Sequence[Question]
) -> tuple[list[Answer], IpAddress | None]:
    """The answers to all questions, and the IP address they came from (None: behind a relay).

    Raises `PeerUnreachable` (also after `ASK_SECONDS`), `ConnectionLost` or `PeerMisbehaved`.
    """
    with trio.move_on_after(ASK_SECONDS):
        stream = await network.open_stream(address, FIND)
        try:
            messages = _Messages(stream)
            answers = [await _ask_one(messages, stream, question) for question in questions]
        finally:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await stream.close()
        return answers, seen_at(stream)
    raise PeerUnreachable(f"no answer from {address.text} within {ASK_SECONDS:g} s")


async def _ask_one(messages: _Messages, stream: Stream, question: Question) -> Answer:
    await stream.send_all(encode_message(question))
    answer = await messages.next()
    if answer is None:
        raise ConnectionLost("the node ended the stream instead of answering")
    if isinstance(answer, (Busy, Announced if isinstance(question, Announce) else Found)):
        return answer
    raise PeerMisbehaved("an answer to another question")


async def serve(stream: Stream, answer: Callable[[Question, IpAddress], Answer]) -> None:
    """Answer what is asked until the stream ends, or nothing is asked for `SERVE_SECONDS`. Raises nothing."""
    host = seen_at(stream)
    try:
        messages = _Messages(stream)
        while True:
            with trio.move_on_after(SERVE_SECONDS) as patience:
                question = await messages.next()
                if question is None:
                    break
                if not isinstance(question, Announce | Find):
                    raise PeerMisbehaved("an answer without a question")
                # Who is behind a relay cannot be told where he is seen, nor anything that depends on it.
                told = Busy() if host is None else answer(question, host)
                await stream.send_all(encode_message(told))
            if patience.cancelled_caught:
                break
    except HyperError:
        pass
    finally:
        with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
            await stream.close()


def seen_at(stream: Stream) -> IpAddress | None:
    """The IP address of the other end; None behind a relay."""
    address = PeerAddress(stream.remote, stream.address)
    return host_of(stream.address) if address.relay is None else None


class _Messages:
    """One message after the other. Whoever sends more than one at a time is not spoken to."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._frames = FrameReader(BODY_BYTES_MAX)

    async def next(self) -> Message | None:
        """None at the end of the stream. Raises `ConnectionLost`, `PeerMisbehaved`."""
        while True:
            data = await self._stream.receive_some()
            if not data:
                if not self._frames.is_between_frames:
                    raise ConnectionLost("the stream ended inside a frame")
                return None
            frames = list(self._frames.feed(data))
            if len(frames) > 1:
                raise PeerMisbehaved("more than one message at a time")
            if frames:
                return decode_message(frames[0])
