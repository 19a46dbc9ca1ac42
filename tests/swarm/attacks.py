"""Hostile peers on real connections, some or hundreds in one process.

    python -m tests.swarm.attacks ATTACK[,ATTACK…] MULTIADDR PEERS

Each peer has an address of its own (127.1.x.y) and a peer id of its own, knows the log `KEY`, does its attack and goes
on until it is killed or thrown out. Prints `ready` once all have begun.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio
from libp2p.exceptions import BaseLibp2pError

from hyperlog import messages as exchange
from hyperlog.errors import HyperError
from hyperlog.forks import ForkProof
from hyperlog.ids import BlockId, EntryId, LogKey, block_id
from hyperlog.keys import KeyPair
from hyperlog.limits import FRAME_BYTES_MAX
from hyperlog.run import Run, encode_run
from swarm.addresses import PeerAddress, parse_address
from swarm.limits import STREAMS_PER_PEER_MAX
from swarm.net.yamux import HEADER, RST, SYN, Kind
from swarm.replication.framing import HEAD
from swarm.replication.messages import Exchange, Ping, Type, encode_message
from tests.hyperlog.replicas import forge, forge_feed
from tests.swarm.evil_seeder import made_payloads
from tests.swarm.raw_peer import RawPeer, RawSession, raw_peer
from tests.swarm.support import memory_logs

PAIR: Final = KeyPair.from_seed(b"an author in the tests, 32 bytes")
KEY: Final = LogKey(bytes(PAIR.public))
BLOCKS: Final = 100
BLOCK_BYTES: Final = 1 << 16
LARGE: Final = 1_000_000


@functools.cache
def block_ids() -> tuple[BlockId, ...]:
    """Of the blocks that a target serves."""
    return tuple(block_id(payload) for payload in made_payloads("seed", BLOCKS, BLOCK_BYTES))


def exchange_frame(message: exchange.Message) -> bytes:
    return encode_message(Exchange(exchange.encode_message(message)))


GREETING: Final = exchange_frame(exchange.Hello(exchange.VERSION, pulls=True, pushes=True, live=True))


async def idle(peer: RawPeer) -> RawSession:
    """No attack: a session, which answers what it is asked."""
    session = await peer.open_session(KEY)
    await session.stream.write(GREETING)
    return session


async def unread(peer: RawPeer, streams: int = STREAMS_PER_PEER_MAX - 4) -> None:
    """Fill the window of every stream that may be open with bytes that are read slowly, if at all."""
    for _ in range(streams):
        stream = await peer.open("/ipfs/ping/1.0.0")
        await stream.write(bytes(stream.flow.may_send))


async def unread_some(peer: RawPeer) -> None:
    """The same with a quarter as many: a hundred such peers begin sooner, and it is more than may be unread."""
    await unread(peer, STREAMS_PER_PEER_MAX // 4)


async def part(peer: RawPeer) -> None:
    """All of the longest frame but its last byte."""
    session = await peer.open_session(KEY)
    await session.stream.write(HEAD.pack(FRAME_BYTES_MAX, Type.EXCHANGE) + bytes(FRAME_BYTES_MAX - 1))


@functools.cache
def large_entries() -> Run:
    return forge_feed(PAIR, KEY, [os.urandom(LARGE) for _ in range(6)])[0]


async def waiting(peer: RawPeer) -> None:
    """Entries that come before others, which never come."""
    session = await peer.open_session(KEY)
    whole = large_entries()
    await session.stream.write(GREETING)
    for number in range(1, 6):
        run = Run(
            KEY, PAIR.public, number, EntryId(bytes(32)), 6, whole.signature, (), whole.items[number : number + 1]
        )
        await session.stream.write(exchange_frame(exchange.Runs((encode_run(run),))))


async def deaf(peer: RawPeer) -> None:
    """Ask for as much as may be asked for, and read none of it."""
    session = await peer.open_session(KEY)
    for number in range(10_000):
        session.session.ping(number)
    session.session.request([(block, BLOCK_BYTES) for block in block_ids()[:64]])
    await session.flush()


async def pings(peer: RawPeer) -> None:
    """Small frames of the block protocol as fast as they go."""
    session = await peer.open_session(KEY)
    await _forever(peer, session, encode_message(Ping(7)) * 8192)


async def stale(peer: RawPeer) -> None:
    """Entries that are held already, again and again."""
    session = await peer.open_session(KEY)
    run = forge(PAIR, KEY, [b"%d" % number for number in range(1000)])
    await _forever(peer, session, exchange_frame(exchange.Runs((run,))) * 4, GREETING)


async def proofs(peer: RawPeer) -> None:
    """A proof of a fork that is known already: two signatures to be checked each time."""
    session = await peer.open_session(KEY)
    claims = []
    for other in (b"one", b"other"):
        log = memory_logs().add_remote(KEY)
        log.add_run(forge(PAIR, KEY, [b"first", other]))
        claims.append(log.claim(PAIR.public, 1))
    proof = exchange_frame(exchange.Fork(ForkProof.of(*claims).encode()))
    await _forever(peer, session, proof * 100, GREETING)


async def unknown(peer: RawPeer) -> None:
    """Frames of types to come, which are skipped, at full speed."""
    session = await peer.open_session(KEY)
    await _forever(peer, session, (HEAD.pack(1 << 16, 250) + bytes(1 << 16)) * 4)


async def resets(peer: RawPeer) -> None:
    """New streams that are reset at once, as fast as is tolerated."""
    number = 100_001
    while not peer.is_lost:
        frames = b"".join(
            HEADER.pack(0, Kind.WINDOW, flag, number + 2 * each, 0) for each in range(9) for flag in (SYN, RST)
        )
        number += 18
        channel = peer.muxer.secured_conn
        channel.put(frames)
        channel.send_now()
        await trio.sleep(0.1)


async def _forever(peer: RawPeer, session: RawSession, data: bytes, first: bytes = b"") -> None:
    async def read() -> None:
        while True:
            await session.stream.read()

    await session.stream.write(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        while not peer.is_lost:
            await session.stream.write(data)


Attack = Callable[[RawPeer], Awaitable[RawSession | None]]
ATTACKS: Final[dict[str, Attack]] = {
    each.__name__: each
    for each in (idle, unread, unread_some, part, waiting, deaf, pings, stale, proofs, unknown, resets)
}
ENDLESS: Final = ("pings", "stale", "proofs", "unknown", "resets")


async def attack(kind: str, address: PeerAddress, source: str, *, task_status: trio.TaskStatus[None]) -> None:
    """One peer; it has begun when its attack is in full force, or when it was thrown out before."""
    with suppress(BaseLibp2pError, HyperError, OSError, trio.TooSlowError):
        async with raw_peer(address, source) as peer:
            if kind in ENDLESS:
                task_status.started()
                with suppress(BaseExceptionGroup):
                    await ATTACKS[kind](peer)
            else:
                session = None
                with suppress(BaseLibp2pError):
                    session = await ATTACKS[kind](peer)
                task_status.started()
                while session is not None:
                    session.session.receive(await session.stream.read())
                    await session.flush()
            await trio.sleep_forever()
    with suppress(RuntimeError):
        task_status.started()


def _started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.swarm.attacks", *arguments], stdout=subprocess.PIPE, text=True
    )


@asynccontextmanager
async def attackers(kinds: str, address: PeerAddress, count: int) -> AsyncIterator[None]:
    """So many hostile peers at work in a process of their own."""
    with _started(kinds, address.text, str(count)) as process:
        try:
            assert process.stdout is not None
            with trio.fail_after(120):
                await trio.lowlevel.wait_readable(process.stdout)
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


async def main(kinds: str, address: str, count: str) -> None:
    names = kinds.split(",")
    beginners = trio.CapacityLimiter(16)

    async def begin(number: int) -> None:
        source = f"127.1.{number // 250}.{1 + number % 250}"
        async with beginners:
            await nursery.start(attack, names[number % len(names)], parse_address(address), source)

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as beginning:
            for number in range(int(count)):
                beginning.start_soon(begin, number)
        sys.stdout.write("ready\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
