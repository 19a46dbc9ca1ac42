"""The protobuf messages of libp2p's relay, hole punching, dial-back and identify protocols, on a stream of ours.

    message = length (unsigned varint) | protobuf of that many bytes, at most `MESSAGE_BYTES_MAX`

A read takes not a byte more than its message: what follows on the same stream may be a circuit's first.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError, Message
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from hyperlog.errors import PeerMisbehaved
from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.errors import BadAddress, ConnectionLost
from swarm.net.identity import peer_id_text
from swarm.net.nat.limits import MESSAGE_BYTES_MAX
from swarm.net.streams import LibP2PStream

HOP: Final = TProtocol("/libp2p/circuit/relay/0.2.0/hop")
STOP: Final = TProtocol("/libp2p/circuit/relay/0.2.0/stop")
DCUTR: Final = TProtocol("/libp2p/dcutr")
AUTONAT: Final = TProtocol("/libp2p/autonat/1.0.0")
IDENTIFY: Final = TProtocol("/ipfs/id/1.0.0")

_IDENTIFY_BYTES_MAX: Final = 64 << 10
_M = TypeVar("_M", bound=Message)


async def send(stream: LibP2PStream, message: Message) -> None:
    """Raises `ConnectionLost`."""
    body = message.SerializeToString()
    await stream.send_all(_varint(len(body)) + body)


async def receive(stream: LibP2PStream, kind: type[_M], most: int = MESSAGE_BYTES_MAX) -> _M:
    """The next message. Raises `PeerMisbehaved` for what is none, `ConnectionLost`."""
    length = shift = 0
    while True:
        byte = (await read_exactly(stream, 1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 21:
            raise PeerMisbehaved("a message of an impossible length")
    if length > most:
        raise PeerMisbehaved(f"a message of {length} bytes")
    try:
        return kind.FromString(await read_exactly(stream, length))
    except DecodeError as error:
        raise PeerMisbehaved("a message that is no protobuf") from error


async def receive_identify(stream: LibP2PStream, kind: type[_M]) -> _M:
    """An answer of identify, which may be longer than others."""
    return await receive(stream, kind, _IDENTIFY_BYTES_MAX)


async def read_exactly(stream: LibP2PStream, count: int) -> bytes:
    """Raises `ConnectionLost`."""
    data = b""
    while len(data) < count:
        try:
            data += await stream.muxed.read(count - len(data))
        except BaseLibp2pError as error:
            raise ConnectionLost("the stream ended inside a message") from error
    return data


def _varint(number: int) -> bytes:
    data = b""
    while number >= 0x80:
        data += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return data + bytes((number,))


def packed(address: str) -> bytes:
    """A multiaddr's text as its bytes."""
    return bytes(Multiaddr(address).to_bytes())


def unpacked(raw: bytes) -> Multiaddr | None:
    """A multiaddr from its bytes; None for what is none."""
    try:
        address = Multiaddr(raw)
        str(address)
    except Exception:  # noqa: BLE001
        # The library raises whatever its parts raise; the bytes are a stranger's.
        return None
    return address


def peer_address(raw: bytes, peer: PeerId) -> PeerAddress | None:
    """An address that a peer says it has, as one that we can dial; None when it is not."""
    address: Any = unpacked(raw)
    if address is None:
        return None
    text = str(address)
    try:
        return parse_address(text if "/p2p/" in text else f"{text}/p2p/{peer}")
    except BadAddress:
        return None


def peer_in(raw: bytes) -> PeerId | None:
    """The peer that a message names; None when the bytes are no peer id."""
    try:
        identity = ID(raw)
        text = peer_id_text(identity)
        parse_address(f"/ip4/192.0.2.1/tcp/1/p2p/{text}")
    except (ValueError, BadAddress):
        return None
    return text
