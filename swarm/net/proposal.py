"""multistream-select where there is one protocol to propose: it is used in the same breath, and the answer read later.

Who dials proposes one security protocol, one muxer, and one protocol for a stream, each with two messages that the
other end repeats if it agrees. Waiting for both, each time, would cost five round trips before the first byte of a
session. So both go out at once, what is said under the protocol goes out right behind them, and the answer is what
comes before everything else. Nobody is told more for that: what goes out before an answer is the first message of a
handshake, or goes to a peer that has proven who it is. An end that refuses answers "na".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_client import MULTISELECT_PROTOCOL_ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils import encode_delim
from multiaddr import Multiaddr


class Refused(MultiselectClientError):
    """The peer does not speak what was proposed."""


def proposal(protocol: TProtocol) -> bytes:
    """What proposes a protocol, and agrees to it."""
    return bytes(encode_delim(MULTISELECT_PROTOCOL_ID.encode()) + encode_delim(protocol.encode()))


async def read_answer(communicator: MultiselectCommunicator, protocol: TProtocol) -> None:
    """Read the answer to a proposal. Raises `Refused`, or `MultiselectClientError` when none came."""
    try:
        answers = await communicator.read(), await communicator.read()
    except MultiselectCommunicatorError as error:
        raise MultiselectClientError("no answer to a proposal came") from error
    if answers != (MULTISELECT_PROTOCOL_ID, protocol):
        raise Refused(f"the peer does not speak {protocol}")


class Proposing(IRawConnection):
    """A raw connection that we began, on which `protocol` is proposed before the first bytes that are written.

    The first read raises what `read_answer` does.
    """

    def __init__(self, raw: Any, protocol: TProtocol) -> None:
        self._raw: IRawConnection = raw
        self.stream = raw.stream
        self._unsent = proposal(protocol)
        self._answer: Callable[[], Awaitable[None]] | None = lambda: read_answer(MultiselectCommunicator(raw), protocol)
        self.is_initiator = raw.is_initiator

    async def write(self, data: bytes) -> None:
        unsent, self._unsent = self._unsent, b""
        await self._raw.write(unsent + data)

    async def read(self, n: int | None = None) -> bytes:
        if self._answer is not None:
            answer, self._answer = self._answer, None
            await answer()
        return await self._raw.read(n)

    async def close(self) -> None:
        await self._raw.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._raw.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self._raw.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self._raw.get_connection_type()
