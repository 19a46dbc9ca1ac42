"""Hostile peers against a whole swarm in another process: what they cost it, and that others are served meanwhile."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.exceptions import MuxedStreamError

from hyperlog.ids import block_id
from swarm.addresses import PeerAddress
from swarm.limits import NEGOTIATION_BYTES_MAX, STREAM_SECONDS, UPGRADE_SECONDS
from swarm.net.yamux import HEADER, SYN, Kind
from swarm.replication.session_events import BlockCame
from tests.swarm.attacks import BLOCK_BYTES, KEY, attackers, block_ids
from tests.swarm.raw_peer import RawSession, connect_tcp, port_of, raw_peer, read_end
from tests.swarm.target import Target, target

MIB = 1 << 20
HONEST = "127.0.0.9"


@pytest.fixture(scope="module")
def victim() -> Iterator[Target]:
    """One target for all tests that leave it as it was."""
    with target(KEY) as running:
        yield running


async def get_block(session: RawSession, number: int) -> None:
    """Ask for a block and wait until it is here."""
    wanted = block_ids()[number % 100]
    session.session.request([(wanted, BLOCK_BYTES)])
    await session.flush()
    with trio.fail_after(20):
        while True:
            for event in session.session.receive(await session.stream.read()):
                if isinstance(event, BlockCame):
                    assert block_id(event.payload) == wanted
                    return


async def is_served(address: PeerAddress, blocks: int = 5) -> bool:
    """Whether an honest newcomer is let in and gets blocks. Raises what keeps it out."""
    async with raw_peer(address, HONEST) as peer:
        session = await peer.open_session(KEY)
        for number in range(blocks):
            await get_block(session, number)
    return True


async def most_memory(victim: Target, seconds: float) -> int:
    most = 0
    for _ in range(int(seconds * 20)):
        most = max(most, victim.resident)
        await trio.sleep(0.05)
    return most


# ------------------------------------------------------------------------------------------------------------ memory


@pytest.mark.slow
async def test_memory_under_one_hostile_peer_is_bounded(victim: Target) -> None:
    assert await is_served(victim.address)
    before = victim.resident
    async with attackers("unread,part,waiting,deaf", victim.address, 4):
        assert await most_memory(victim, 1) - before <= 64 * MIB
        assert await is_served(victim.address)


@pytest.mark.slow
async def test_memory_under_a_hundred_hostile_peers_is_bounded() -> None:
    with target(KEY) as victim:
        async with attackers("unread_some,part,waiting,deaf", victim.address, 100):
            assert await is_served(victim.address)
            assert await most_memory(victim, 1) <= 512 * MIB
            assert victim.ask()["sessions_crowded_out"] > 0
        assert await is_served(victim.address)


async def test_before_anybody_is_known_no_long_message_is_kept(victim: Target) -> None:
    before = victim.resident
    for start in (b"", b"\x13/multistream/1.0.0\n"):
        stream = await connect_tcp(victim.address)
        with suppress(trio.BrokenResourceError), trio.move_on_after(UPGRADE_SECONDS):
            await stream.send_all(start + b"\xff\xff\xff\xff\x0f")  # 4 GiB
            while True:
                await stream.send_all(bytes(MIB))
        await stream.aclose()
    assert victim.resident - before < 8 * MIB


# --------------------------------------------------------------------------------------------------------- processor


@pytest.mark.slow
@pytest.mark.parametrize("attacks", ["pings,proofs,unknown,resets", "stale"])
async def test_w10_peers_that_take_the_processor_for_nothing_are_held_up(victim: Target, attacks: str) -> None:
    before = victim.ask()
    async with attackers(attacks, victim.address, 5):
        for _ in range(3600):  # until they have used up what everybody may take for nothing
            if victim.ask()["held_up"] > before["held_up"]:
                break
            await trio.sleep(0.05)
        assert await is_served(victim.address, 50)
    after = victim.ask()
    assert after["held_up"] > before["held_up"]
    if attacks != "stale":  # slow is not wrong; entries that may not be kept, again and again, are in the end
        assert after["peers_banned"] == before["peers_banned"]


# ------------------------------------------------------------------------------------------------------- connections


@pytest.mark.slow
@pytest.mark.parametrize("addresses", [1, 50])
async def test_n6_two_thousand_idle_sockets_do_not_keep_an_honest_peer_out(victim: Target, addresses: int) -> None:
    idle: list[socket.socket] = []
    try:
        for number in range(2000):
            one = socket.socket()
            idle.append(one)
            one.setblocking(False)
            one.bind((f"127.2.{addresses}.{1 + number % addresses}", 0))
            one.connect_ex(("127.0.0.1", port_of(victim.address)))
            if number % 500 == 499:
                assert await is_served(victim.address, 1)
        said = victim.ask()
        assert said["refused_rate"] + said["evicted"] > 0
    finally:
        for one in idle:
            one.close()


@pytest.mark.slow
async def test_g10_three_hundred_connections_are_held_and_another_is_served() -> None:
    with target(KEY) as victim:
        before = victim.resident
        async with attackers("idle", victim.address, 300):
            said = victim.ask()
            assert said["members"] == 300
            assert await is_served(victim.address, 50)
            assert (victim.resident - before) / 300 < 256 << 10


@pytest.mark.slow
async def test_n8_connections_that_come_and_go_leave_nothing(victim: Target) -> None:
    async def come_and_go(number: int) -> None:
        async with raw_peer(victim.address, f"127.4.0.{1 + number % 20}") as peer:
            await peer.open_session(KEY)

    before = victim.descriptors
    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(come_and_go, number)
    with trio.fail_after(10):
        while victim.descriptors > before:  # noqa: ASYNC110
            await trio.sleep(0.05)
    assert victim.ask()["members"] == 0


# ---------------------------------------------------------------------------------------------------- single faults


@pytest.mark.slow
async def test_w9_a_stream_without_a_protocol_is_reset(victim: Target) -> None:
    async with raw_peer(victim.address) as peer:
        stream = await peer.muxer.open_stream()
        began = trio.current_time()
        await read_end(stream)
        assert trio.current_time() - began < STREAM_SECONDS + 2
        assert not peer.is_lost


async def test_w11_an_unknown_protocol_is_declined_and_a_long_name_resets_the_stream(victim: Target) -> None:
    async with raw_peer(victim.address) as peer:
        with pytest.raises(MultiselectClientError):
            await peer.open("/unknown/1")
        stream = await peer.muxer.open_stream()
        await stream.write(b"\x13/multistream/1.0.0\n" + b"\xff\x7f" + bytes(2 * NEGOTIATION_BYTES_MAX))
        await read_end(stream)
        assert not peer.is_lost


async def test_w11_a_negotiation_without_end_is_ended(victim: Target) -> None:
    async with raw_peer(victim.address) as peer:
        stream = await peer.muxer.open_stream()
        with suppress(BaseLibp2pError):
            await stream.write(b"\x13/multistream/1.0.0\n" + b"\x03ls\n" * 1000)
        await read_end(stream)
        stream = await peer.muxer.open_stream()
        communicator = MultiselectCommunicator(stream)
        with pytest.raises((MultiselectClientError, MuxedStreamError)):
            await MultiselectClient().select_one_of([TProtocol(f"/{n}") for n in range(100)], communicator, 5)
        assert not peer.is_lost


async def test_a_flood_bans_the_peer_and_it_is_not_let_in_again() -> None:
    with target(KEY) as victim:
        seed = os.urandom(32)
        async with raw_peer(victim.address, seed=seed) as peer:
            await peer.open_session(KEY)
            channel = peer.muxer.secured_conn
            for _ in range(100):
                channel.put(HEADER.pack(0, Kind.PING, SYN, 0, 1) * 1000)
                with suppress(BaseLibp2pError):
                    channel.send_now()
                    await channel.wait_room()
            await peer.wait_lost()
        with suppress(BaseLibp2pError, trio.BrokenResourceError):
            async with raw_peer(victim.address, seed=seed) as peer:
                await peer.wait_lost()
        said = victim.ask()
        assert (said["misbehaved"], said["bans"], said["peers_banned"]) == (1, 1, 1)
        assert said["refused_banned"] >= 1
        assert await is_served(victim.address)
