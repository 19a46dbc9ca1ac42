"""The encrypted channel of one TCP connection: noise messages read and written in bulk, straight from the socket.

    noise message = length (2 bytes) | ciphertext of up to 65 519 bytes | tag (16)

The handshake is the library's (XX, peer ids proven); this takes over its two keys and counters. What a read brings,
up to `READ_BYTES`, goes through one buffer that all connections share: no await stands between reading into it and
having decrypted it. What is sent is encrypted at once, so that the order of the counters is the order of the bytes, and
handed to the kernel at once; what the kernel does not take waits here, whole, whoever is cancelled meanwhile, and
`flush_forever` sends it on. Writers keep to `has_room`, so the queue of a peer that does not read is bounded.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from typing import Any, Final

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.security.base_session import BaseSession
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr

from hyperlog.errors import PeerMisbehaved
from swarm.limits import PROBE_AGAIN_SECONDS, PROBE_SECONDS, PROBES_MAX, UNSENT_BYTES_HIGH, UNSENT_BYTES_MAX
from swarm.net.proposal import proposal

READ_BYTES: Final = 512 << 10
PLAIN_BYTES_MAX: Final = 65535 - 16
SMALL_MESSAGE_BYTES: Final = 256
_TAG_BYTES: Final = 16
_PIECES_MAX: Final = 64
_EMPTY_MESSAGES_MAX: Final = 64
_TCP_OPTIONS: Final = {
    trio.socket.TCP_NODELAY: 1,
    trio.socket.TCP_KEEPIDLE: PROBE_SECONDS,
    trio.socket.TCP_KEEPINTVL: PROBE_AGAIN_SECONDS,
    trio.socket.TCP_KEEPCNT: PROBES_MAX,
}
_nonce: Final = struct.Struct("<xxxxQ").pack
_shared: Final = memoryview(bytearray(READ_BYTES + 65537))


class Noise(ISecureTransport):
    """`/noise` with the library's handshake and our channel."""

    def __init__(self, inner: NoiseTransport) -> None:
        self._inner = inner

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return Channel(await self._inner.secure_inbound(conn), conn)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return Channel(await self._inner.secure_outbound(conn, peer_id), conn)


class Channel(BaseSession):
    """Made from a finished handshake (`secured`) and the connection under it."""

    def __init__(self, secured: Any, raw: Any) -> None:
        super().__init__(
            local_peer=secured.local_peer,
            local_private_key=secured.local_private_key,
            remote_peer=secured.remote_peer,
            remote_permanent_pubkey=secured.remote_permanent_pubkey,
            is_initiator=secured.is_initiator,
        )
        states = secured.conn.noise_state.noise_protocol
        self._raw = raw
        self.socket: trio.socket.SocketType = raw.stream.stream.socket
        self.local_port = 0
        if self.socket.family != trio.socket.AF_UNIX:  # a circuit ends in a pair of those
            self.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE, 1)
            for option, value in _TCP_OPTIONS.items():
                self.socket.setsockopt(trio.socket.IPPROTO_TCP, option, value)
            self.local_port = int(self.socket.getsockname()[1])
        self._encrypt = ChaCha20Poly1305(bytes(states.cipher_state_encrypt.k)).encrypt
        self._encrypted = int(states.cipher_state_encrypt.n)
        self._decrypt = ChaCha20Poly1305(bytes(states.cipher_state_decrypt.k)).decrypt_into
        self._decrypted = int(states.cipher_state_decrypt.n)
        self._part = b""
        self._plain: deque[bytes | memoryview] = deque()
        self._answer = b""
        """What is still to come of the answer to a proposal."""
        self._empty = 0
        self._unsent: deque[bytes | memoryview] = deque()
        self._unsent_bytes = 0
        self._stuck = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self.is_closed = False
        self.bytes_in = 0
        """Bytes of the wire, with all that noise and yamux add."""
        self.bytes_out = 0

    # ---------------------------------------------------------------------------------------------------- receiving

    async def receive(self) -> list[bytes | memoryview]:
        """What is there, decrypted: at least some bytes. Small messages are pieces of their own, others are not.

        Raises `ConnectionClosedError` or `PeerMisbehaved`.
        """
        plain = list(self._plain)
        self._plain.clear()
        while not (plain := self._check_answer(plain)):
            plain = await self._receive()
        return plain

    async def _receive(self) -> list[bytes | memoryview]:
        """As `receive`, whatever it is."""
        while True:
            kept = len(self._part)
            try:
                _shared[:kept] = self._part
                count = os.readv(self.socket.fileno(), [_shared[kept : kept + READ_BYTES]])
            except BlockingIOError:
                await self._readable()
                continue
            except OSError as error:
                raise ConnectionClosedError(str(error)) from error
            if not count:
                raise ConnectionClosedError("the connection ended")
            self.bytes_in += count
            plain = self._open(_shared[: kept + count])
            if plain:
                return plain

    def propose(self, protocol: TProtocol) -> None:
        """Speak `protocol` from here on; the peer's answer is checked when it comes. Raises as `send_now`."""
        self._answer = proposal(protocol)
        self.put(self._answer)
        self.send_now()

    def _check_answer(self, plain: list[bytes | memoryview]) -> list[bytes | memoryview]:
        """What comes after the answer to our proposal."""
        if not self._answer:
            return plain
        came = b"".join(plain)
        count = min(len(came), len(self._answer))
        if came[:count] != self._answer[:count]:
            raise ConnectionClosedError("the peer does not speak what we propose")
        self._answer = self._answer[count:]
        return [came[count:]] if len(came) > count else []

    async def _readable(self) -> None:
        try:
            await trio.lowlevel.wait_readable(self.socket)
        except trio.ClosedResourceError as error:
            raise ConnectionClosedError("the connection was closed") from error

    def _open(self, view: memoryview) -> list[bytes | memoryview]:
        """Decrypt the whole messages in `view`, one after the other; what remains is kept for the next read."""
        ends: list[int] = []
        at, end = 0, len(view)
        while end - at >= 2 and (after := at + 2 + (view[at] << 8 | view[at + 1])) <= end:
            ends.append(after)
            at = after
        self._part = bytes(view[at:])
        plain = memoryview(bytearray(max(at - len(ends) * (2 + _TAG_BYTES), 0)))
        pieces: list[bytes | memoryview] = []
        at = start = filled = 0
        try:
            for after in ends:
                size = after - at - 2 - _TAG_BYTES
                self._decrypt(_nonce(self._decrypted), view[at + 2 : after], None, plain[filled : filled + size])
                self._decrypted += 1
                self._empty = 0 if size else self._empty + 1
                at = after
                if size < SMALL_MESSAGE_BYTES:
                    pieces += (plain[start:filled], plain[filled : filled + size])
                    start = filled + size
                filled += size
        except (InvalidTag, ValueError) as error:
            raise PeerMisbehaved("a message that was not encrypted with our key") from error
        if self._empty > _EMPTY_MESSAGES_MAX:
            raise PeerMisbehaved("a flood of empty messages")
        pieces.append(plain[start:filled])
        return [piece for piece in pieces if piece]

    async def read(self, n: int | None = None) -> bytes:
        """Some bytes, at most `n`. For negotiation; afterwards the muxer calls `receive`."""
        if not self._plain:
            self._plain.extend(await self.receive())
        first = bytes(self._plain.popleft())
        if n is not None and n < len(first):
            self._plain.appendleft(first[n:])
            return first[:n]
        return first

    # ------------------------------------------------------------------------------------------------------ sending

    @property
    def has_room(self) -> bool:
        return self._unsent_bytes < UNSENT_BYTES_HIGH

    def put(self, data: bytes, more: bytes | memoryview = b"") -> None:
        """Encrypt `data`, then `more` if that is longer, and queue it for `send_now`: few messages, all of one size."""
        if not more:
            data, more = b"", data
        total = len(data) + len(more)
        size = -(-total // max(-(-total // PLAIN_BYTES_MAX), 1))
        at = size - len(data)
        assert at >= 0
        view = memoryview(more)
        plain: bytes | memoryview = b"".join((data, view[:at]))
        while plain:
            message = self._encrypt(_nonce(self._encrypted), plain, None)
            self._encrypted += 1
            self._unsent += (len(message).to_bytes(2, "big"), message)
            self._unsent_bytes += len(message) + 2
            plain = view[at : at + size]
            at += size

    def send_now(self) -> None:
        """Give the kernel what it takes. Raises `ConnectionClosedError`, `PeerMisbehaved` once too much waits here."""
        unsent = self._unsent
        try:
            while unsent:
                pieces = list(unsent) if len(unsent) <= _PIECES_MAX else [unsent[n] for n in range(_PIECES_MAX)]
                count = os.writev(self.socket.fileno(), pieces)
                self.bytes_out += count
                self._unsent_bytes -= count
                if not self._unsent_bytes:
                    unsent.clear()
                    break
                while unsent and count >= len(unsent[0]):
                    count -= len(unsent.popleft())
                if count:
                    # That it took a part says that it is full: no need to ask again.
                    unsent[0] = memoryview(unsent[0])[count:]
                    self._wait_to_send()
                    break
        except BlockingIOError:
            self._wait_to_send()
        except OSError as error:
            raise ConnectionClosedError(str(error)) from error
        if self._room and self.has_room:
            self._room.unpark_all()

    def _wait_to_send(self) -> None:
        if self._unsent_bytes > UNSENT_BYTES_MAX:
            raise PeerMisbehaved("the peer does not read")
        self._stuck.set()

    async def flush_forever(self) -> None:
        """Send on what the kernel did not take at once. Raises `ConnectionClosedError`."""
        while True:
            await self._stuck.wait()
            await self._flush()
            self._stuck = trio.Event()

    async def _flush(self) -> None:
        while self._unsent:
            # Somebody else may have closed it before we came to wait. Trio knows of those only who wait already.
            if self.socket.fileno() < 0:
                raise ConnectionClosedError("the connection was closed")
            try:
                await trio.lowlevel.wait_writable(self.socket)
            except trio.ClosedResourceError as error:
                raise ConnectionClosedError("the connection was closed") from error
            self.send_now()

    async def wait_room(self) -> None:
        """Until `has_room`. Raises `ConnectionClosedError`."""
        while not self.has_room and not self.is_closed:
            await self._room.park()
        if self.is_closed:
            raise ConnectionClosedError("the connection was closed")

    async def write(self, data: bytes) -> None:
        """Send all of `data`. For negotiation, where one task writes and nobody flushes."""
        self.put(data)
        self.send_now()
        await self._flush()

    async def close(self) -> None:
        """Close the socket; whoever waits here learns it. Safe to call twice."""
        self.is_closed = True
        self.socket.close()
        self._room.unpark_all()
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int] | None:
        address: tuple[str, int] | None = self._raw.get_remote_address()
        return address

    def get_transport_addresses(self) -> list[Multiaddr]:
        return list(self._raw.get_transport_addresses())

    def get_connection_type(self) -> ConnectionType:
        kind: ConnectionType = self._raw.get_connection_type()
        return kind
