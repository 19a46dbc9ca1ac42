"""An encrypted stream over TCP whose two ends know one token: Noise NNpsk0. The only door to the noise library.

    Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s, prologue "hypernode remote mount 1"
    psk = BLAKE3("hypernode remote token v1\\n" · token);  each message as length u16 · ciphertext

Neither end has an identity beyond the token: who knows it is let in, and meets who is meant. Keys are fresh for each
connection, so a token that leaks later opens nothing that was recorded. The first message has a tag that the token
makes, so a recorded handshake lets a token be guessed at home: short ones are refused (`TOKEN_CHARACTERS_MIN`).
"""

from __future__ import annotations

from typing import Final

import trio
from cryptography.exceptions import InvalidTag
from noise.connection import NoiseConnection
from noise.exceptions import NoiseInvalidMessage

from hyperlog.hashing import blake3_256
from hypernode.errors import RemoteLost, RemoteRefused
from hypernode.remote.limits import HANDSHAKE_SECONDS

_NAME: Final = b"Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s"
_PROLOGUE: Final = b"hypernode remote mount 1"
_DOMAIN: Final = b"hypernode remote token v1\n"
_PLAIN_BYTES_MAX: Final = 65535 - 16
_READ_BYTES: Final = 256 << 10
_HANDSHAKE_BYTES: Final = 32 + 16
"""Each of the two messages: a fresh public key and a tag."""


class NoiseStream(trio.abc.Stream):
    """What is sent and received over `stream` after the handshake; it is closed with this. Not for several senders."""

    def __init__(self, stream: trio.abc.Stream, noise: NoiseConnection) -> None:
        self._stream = stream
        self._noise = noise
        self._pending = bytearray()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        parts: list[bytes] = []
        for start in range(0, len(view), _PLAIN_BYTES_MAX):
            message = self._noise.encrypt(bytes(view[start : start + _PLAIN_BYTES_MAX]))
            parts += (len(message).to_bytes(2, "big"), message)
        await self._stream.send_all(b"".join(parts))

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, b"" at the end. Raises `trio.BrokenResourceError`, also when they do not decrypt."""
        del max_bytes  # a whole message at least
        while True:
            plain = self._open()
            if plain:
                return plain
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                return b""
            self._pending += data

    def _open(self) -> bytes:
        plain: list[bytes] = []
        at = 0
        while len(self._pending) - at >= 2:
            end = at + 2 + int.from_bytes(self._pending[at : at + 2], "big")
            if end > len(self._pending):
                break
            try:
                plain.append(bytes(self._noise.decrypt(bytes(self._pending[at + 2 : end]))))
            except (InvalidTag, NoiseInvalidMessage, ValueError) as error:
                raise trio.BrokenResourceError("a message that was not encrypted with our key") from error
            at = end
        del self._pending[:at]
        return b"".join(plain)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def secure(stream: trio.abc.Stream, token: str, *, initiator: bool) -> NoiseStream:
    """Prove the token to each other. Raises `RemoteRefused` when the other end does not know it, `RemoteLost`."""
    noise = NoiseConnection.from_name(_NAME)
    noise.set_psks(blake3_256(_DOMAIN + token.encode()))
    noise.set_prologue(_PROLOGUE)
    if initiator:
        noise.set_as_initiator()
    else:
        noise.set_as_responder()
    noise.start_handshake()
    with trio.move_on_after(HANDSHAKE_SECONDS):
        try:
            if initiator:
                await _send(stream, bytes(noise.write_message()))
            noise.read_message(await _receive(stream))
            if not initiator:
                await _send(stream, bytes(noise.write_message()))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise RemoteLost("the connection broke during the handshake") from error
        except (InvalidTag, NoiseInvalidMessage, ValueError) as error:
            raise RemoteRefused("the other end does not know the token", "give both ends the same token") from error
        return NoiseStream(stream, noise)
    raise RemoteLost(f"the other end did not shake hands within {HANDSHAKE_SECONDS:g} s")


async def _send(stream: trio.abc.Stream, message: bytes) -> None:
    await stream.send_all(len(message).to_bytes(2, "big") + message)


async def _receive(stream: trio.abc.Stream) -> bytes:
    data = b""
    while len(data) < 2 + _HANDSHAKE_BYTES:
        more = await stream.receive_some(2 + _HANDSHAKE_BYTES - len(data))
        if not more:
            raise RemoteRefused("the other end hung up during the handshake", "is it the same token at both ends?")
        data += more
        if data[:2] != _HANDSHAKE_BYTES.to_bytes(2, "big")[: len(data)]:
            raise RemoteRefused("the other end does not shake hands as hypernode does", "is it the right port?")
    return data[2:]
