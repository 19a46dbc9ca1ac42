"""Private swarms: only who holds the swarm's key gets past the handshake, and both ends are told in words why not.

A private node offers, in the place of `/noise`, a security protocol of its own name, so whoever is in no private swarm
is refused at once, in the negotiation, and knows why; and so is a private node that calls somebody else. Under that
name comes the same noise handshake, and then from both ends, first thing in the encrypted channel,

    tag = BLAKE3 keyed with the swarm's key of canonical CBOR ["hypernode private swarm v1", role, handshake hash]

32 bytes, role "initiator" or "responder". The hash binds it to this very handshake, so it is of no use in another. It
shows nothing of the key, which is 32 random bytes and cannot be guessed at. (libp2p's own way, an extra cipher below
noise, is not to its specification in py-libp2p and takes half a minute to fail.)
"""

from __future__ import annotations

import hmac
import logging
from typing import Any, Final

import trio
from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.security_multistream import SecurityMultistream

from hyperlog.encoding import encode
from hyperlog.hashing import keyed
from swarm.net.channel import Channel, Noise
from swarm.net.identity import peer_id_text
from swarm.net.proposal import Proposing, Refused

PRIVATE: Final = TProtocol("/hypernode/private/1")
_DOMAIN: Final = "hypernode private swarm v1"
_NAME_DOMAIN: Final = "hypernode private swarm name v1"
_TAG_BYTES: Final = 32
_QUIET_SECONDS: Final = 60.0
_log: Final = logging.getLogger(__name__)


def swarm_name(key: bytes | None) -> str:
    """What members of a private swarm know each other by on the local network; it tells nothing of the key."""
    return "" if key is None else keyed(key, encode([_NAME_DOMAIN])).hex()[:16]


class ForeignSwarm(BaseLibp2pError):
    """The peer does not hold the key of our private swarm."""


class Security(SecurityMultistream):
    """The one security protocol of a node: `/noise`, or `PRIVATE` with a swarm's key. Others are refused in words."""

    def __init__(self, noise: NoiseTransport, swarm_key: bytes | None, refusals: Refusals) -> None:
        self._is_private = swarm_key is not None
        transport = Noise(noise) if swarm_key is None else PrivateNoise(noise, swarm_key, refusals)
        super().__init__({PRIVATE if self._is_private else TProtocol(NOISE): transport})
        handlers = self.multiselect.handlers
        if self._is_private:
            offers = _Offers(handlers, TProtocol(NOISE), "a node that is not in this private swarm", refusals)
        else:
            offers = _Offers(handlers, PRIVATE, "a node of a private swarm, while this one is in none,", refusals)
        self.multiselect.handlers = offers

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        ((protocol, transport),) = self.transports.items()
        try:
            return await transport.secure_outbound(Proposing(conn, protocol), peer_id)
        except Refused:
            if self._is_private:
                raise ForeignSwarm("it is not in our private swarm") from None
            raise ForeignSwarm("it is in a private swarm, and this node has no swarm key") from None


class _Offers(dict[TProtocol | None, Any]):
    """The protocols that are offered; notes when the one of the other kind of swarm is asked for."""

    def __init__(self, offered: Any, foreign: TProtocol, who: str, refusals: Refusals) -> None:
        super().__init__(offered)
        self._foreign = foreign
        self._who = who
        self._refusals = refusals

    def __contains__(self, protocol: object) -> bool:
        if protocol == self._foreign:
            self._refusals.note(f"{self._who} was refused")
        return super().__contains__(protocol)


class PrivateNoise(ISecureTransport):
    """Noise, then the proof."""

    def __init__(self, inner: NoiseTransport, key: bytes, refusals: Refusals) -> None:
        self._inner = inner
        self._key = key
        self._refusals = refusals

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return await self._prove(await self._inner.secure_inbound(conn), conn)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return await self._prove(await self._inner.secure_outbound(conn, peer_id), conn)

    async def _prove(self, secured: Any, conn: IRawConnection) -> Channel:
        handshake = bytes(secured.conn.noise_state.get_handshake_hash())
        channel = Channel(secured, conn)
        ours, theirs = ("initiator", "responder") if channel.is_initiator else ("responder", "initiator")
        await channel.write(self._tag(ours, handshake))
        tag = b""
        while len(tag) < _TAG_BYTES:
            tag += await channel.read(_TAG_BYTES - len(tag))
        if not hmac.compare_digest(tag, self._tag(theirs, handshake)):
            if not channel.is_initiator:
                self._refusals.note(
                    f"peer {peer_id_text(channel.remote_peer)}, whose swarm key is not ours, was refused"
                )
            raise ForeignSwarm("it is in another private swarm: its swarm key is not ours")
        return channel

    def _tag(self, role: str, handshake: bytes) -> bytes:
        return keyed(self._key, encode([_DOMAIN, role, handshake]))


class Refusals:
    """Tells the log of peers that were refused, not more often than a person can read."""

    def __init__(self) -> None:
        self.count = 0
        self._told_at = float("-inf")

    def note(self, text: str) -> None:
        self.count += 1
        now = trio.current_time()
        if now - self._told_at >= _QUIET_SECONDS:
            self._told_at = now
            _log.error("%s (%d refused so far)", text, self.count)
