"""Noise handshakes that are cut, replayed or signed by somebody else, against a whole swarm in another process.

The capability proof of a log, above the channel, is told in tests/swarm/test_session.py; here it crosses a real relay.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_pair
from libp2p.custom_types import TProtocol
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.messages import NoiseExtensions, NoiseHandshakePayload
from libp2p.security.noise.patterns import IPattern, PatternXX
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.transport.exceptions import SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from hyperlog.errors import PeerMisbehaved
from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.net.identity import key_pair_from_seed, libp2p_id
from swarm.replication.messages import NONCE_BYTES
from swarm.replication.session import Session
from swarm.replication.session_states import State
from tests.swarm.attacks import KEY
from tests.swarm.raw_peer import connect_tcp, port_of, raw_peer
from tests.swarm.target import Target, target


@pytest.fixture(scope="module")
def victim() -> Iterator[Target]:
    with target(KEY) as running:
        yield running


@asynccontextmanager
async def refused(victim: Target, failed: int) -> AsyncIterator[None]:
    """Within the block so many handshakes fail, and no connection stays."""
    before = await alone(victim)
    yield
    with trio.fail_after(30):
        while victim.ask()["handshakes_failed"] < before["handshakes_failed"] + failed:  # noqa: ASYNC110
            await trio.sleep(0.05)
    after = await alone(victim)
    assert after["handshakes_failed"] == before["handshakes_failed"] + failed


async def alone(victim: Target) -> dict[str, Any]:
    """What the victim says of itself once all that were connected have gone."""
    with trio.fail_after(30):
        while (said := victim.ask())["strangers"] or said["members"]:  # noqa: ASYNC110
            await trio.sleep(0.05)
    return said


async def recorded_handshake(victim: Target) -> bytes:
    """All that an honest initiator sends until its connection stands."""
    said = bytearray()

    async def relay(client: trio.SocketStream) -> None:
        server = await connect_tcp(victim.address)

        async def pump(source: trio.SocketStream, sink: trio.SocketStream, *, record: bool) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for data in source:
                    if record:
                        said.extend(data)
                    await sink.send_all(data)
                await sink.send_eof()

        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(lambda: pump(client, server, record=True))
            nursery.start_soon(lambda: pump(server, client, record=False))

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, relay, listeners)
        port = listeners[0].socket.getsockname()[1]
        text = victim.address.text.replace(f"/tcp/{port_of(victim.address)}/", f"/tcp/{port}/")
        async with raw_peer(parse_address(text)) as peer:
            await peer.open()  # by then the other end has it all
        nursery.cancel_scope.cancel()
    return bytes(said)


async def say(victim: Target, data: bytes) -> None:
    """Send `data` on a new connection, read until the other end has had enough, or finish."""
    stream = await connect_tcp(victim.address)
    with suppress(trio.BrokenResourceError):
        await stream.send_all(data)
        await stream.send_eof()
        with trio.fail_after(10):
            while await stream.receive_some():
                pass
    await stream.aclose()


async def test_w4_a_handshake_that_is_replayed_cut_or_changed_leads_nowhere(victim: Target) -> None:
    said = await recorded_handshake(victim)
    changed = bytearray(said)
    changed[-40] ^= 1
    attempts = [said, said[: len(said) // 2], said[:30], bytes(changed), said + said]
    async with refused(victim, len(attempts)):
        for data in attempts:
            await say(victim, data)


class Impostor(PatternXX):
    """Shows another peer's public key, and a signature of its own."""

    claimed: bytes = b""

    def make_handshake_payload(self, extensions: NoiseExtensions | None = None) -> NoiseHandshakePayload:
        honest = super().make_handshake_payload(extensions)
        return NoiseHandshakePayload(key_pair_from_seed(self.claimed).public_key, honest.id_sig, honest.extensions)


class ImpostorNoise(NoiseTransport):
    def get_pattern(self) -> IPattern:
        pattern = Impostor(self.local_peer, self.libp2p_privkey, self.noise_privkey)
        pattern.claimed = b"somebody else's seed of 32 bytes"
        return pattern


async def test_w5_who_shows_a_peer_id_without_its_key_is_refused(victim: Target) -> None:
    pair = key_pair_from_seed(os.urandom(32))
    noise = ImpostorNoise(pair, noise_privkey=create_x25519_pair().private_key)
    upgrader = TransportUpgrader({TProtocol(NOISE): noise}, {}, negotiate_timeout=5)
    async with refused(victim, 1):
        raw = RawConnection(TrioTCPStream(await connect_tcp(victim.address)), True)
        with suppress(SecurityUpgradeFailure):
            # An initiator's last message is on its way before anybody can object to it.
            await upgrader.upgrade_security(raw, True, libp2p_id(victim.address.peer))
            assert await raw.read(1) == b""
        await raw.close()


async def test_w5_who_answers_with_another_peer_id_than_was_dialled_is_hung_up_on(victim: Target) -> None:
    other = ID.from_pubkey(key_pair_from_seed(os.urandom(32)).public_key)
    wrong = PeerAddress(PeerId(str(other)), victim.address.text.replace(victim.address.peer, str(other)))
    async with refused(victim, 1):
        with pytest.raises(SecurityUpgradeFailure):
            async with raw_peer(wrong):
                pass


async def test_w16_a_proof_that_was_made_for_somebody_else_opens_nothing(victim: Target) -> None:
    """Eve stands between Ann, who knows the log, and the victim, and passes on what each says to the other."""
    async with raw_peer(victim.address) as eve:
        stream = await eve.open()
        session = Session.initiate(KEY, local=PeerId("ann"), remote=eve.peer_id, nonce=os.urandom(NONCE_BYTES))
        ended = False
        with trio.fail_after(10), suppress(PeerMisbehaved):
            while not ended:
                await stream.write(session.take_output())
                ended = bool(session.receive(await stream.read()))
        assert session.state is State.CLOSED  # the victim refused, and did not say why
