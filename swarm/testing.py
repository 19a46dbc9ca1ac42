"""A network in memory, and peers that misbehave. Only tests import this.

`MemoryInternet` connects `MemoryNetwork`s that pass the same suite as the real one. Delays follow trio's clock, so a
jumping clock makes hours instant. Faults are switched on it: cut a link, silence a peer, refuse dials.

The evil peers speak the protocol through the same pure `Session`, over any `Network`, and then lie.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Final

import trio

from hyperlog.errors import BlockMissing, HyperError
from hyperlog.hashing import blake3_256
from hyperlog.ids import BlockId, LogKey, block_id, discovery_key
from swarm.addresses import PeerAddress, PeerId
from swarm.block_server import BlockBook
from swarm.errors import ConnectionLost, ListenFailed, PeerUnreachable
from swarm.network import SESSIONS, Network, NetworkSetup, NetworkStats, Serving, Stream
from swarm.reach import Reach
from swarm.replication.messages import NONCE_BYTES, Wanted, Why
from swarm.replication.session import Session
from swarm.replication.session_events import BlocksAsked

_PIPE_BYTES: Final = 256 << 10
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Pipe:
    """One direction of a stream: bounded, delayed, breakable. `delay`: seconds that what is sent now takes."""

    def __init__(self, delay: Callable[[], float]) -> None:
        self._delay = delay
        self._due = 0.0
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._changed = trio.Event()
        self._is_broken = False
        self._is_ended = False
        self._is_held = False
        self.is_silent = False

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def hold(self, is_held: bool) -> None:
        """Let nothing arrive meanwhile; nothing is lost."""
        self._is_held = is_held
        self._notify()

    def end(self) -> None:
        self._is_ended = True
        self._notify()

    def break_(self) -> None:
        self._is_broken = True
        self._notify()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while self._bytes >= _PIPE_BYTES and not self._is_broken and not self.is_silent:
            await self._changed.wait()
        if self._is_broken or self._is_ended:
            raise ConnectionLost("the stream broke")
        if data and not self.is_silent:
            # What was sent before does not arrive later.
            self._due = max(self._due, trio.current_time() + self._delay())
            self._pieces.append((self._due, data))
            self._bytes += len(data)
            self._notify()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._pieces and not self.is_silent and not self._is_held:
                due, data = self._pieces[0]
                if due <= trio.current_time():
                    self._pieces.popleft()
                    self._bytes -= len(data)
                    self._notify()
                    return data
                await trio.sleep_until(due)
            elif self._is_broken:
                raise ConnectionLost("the stream broke")
            elif self._is_ended and not self.is_silent and not self._is_held:
                return b""
            else:
                await self._changed.wait()


class MemoryStream:
    """One end of a stream in memory."""

    def __init__(self, remote: PeerId, incoming: Pipe, outgoing: Pipe) -> None:
        self._remote = remote
        self._incoming = incoming
        self._outgoing = outgoing

    @property
    def remote(self) -> PeerId:
        return self._remote

    @property
    def address(self) -> str:
        return f"/ip4/192.0.2.1/tcp/1/p2p/{self._remote}"

    async def receive_some(self) -> bytes:
        return await self._incoming.receive()

    async def receive_pieces(self) -> list[bytes]:
        data = await self.receive_some()
        return [data] if data else []

    async def send_all(self, data: bytes) -> None:
        await self._outgoing.send(data)

    async def close(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        self.close_nowait()

    def vouch(self) -> None:
        """There is always room."""

    def close_nowait(self) -> None:
        self._outgoing.end()
        # Whoever still writes to a closed end learns that nobody reads.
        self._incoming.break_()

    def break_(self) -> None:
        self._incoming.break_()
        self._outgoing.break_()

    def hold(self, is_held: bool) -> None:
        """Let nothing pass, either way, until it may again."""
        self._incoming.hold(is_held)
        self._outgoing.hold(is_held)

    def silence(self) -> None:
        self._incoming.is_silent = True
        self._outgoing.is_silent = True


class MemoryInternet:
    """All `MemoryNetwork`s of one test. `delay`: seconds one way; a subclass may tell one by the pair, or cut pairs."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self._servers: dict[PeerId, MemoryNetwork] = {}
        self._silent: set[PeerId] = set()
        self._ports = count(1)

    def network(self, setup: NetworkSetup) -> MemoryNetwork:
        """A network of this internet; fits `swarm.network.MakeNetwork`."""
        return MemoryNetwork(self, setup)

    async def open_network(self, setup: NetworkSetup) -> MemoryNetwork:
        """The same as `swarm.network.OpenNetwork`: at once, without a thread."""
        await trio.lowlevel.checkpoint()
        return self.network(setup)

    def delay_between(self, one: PeerId, other: PeerId) -> float:
        """Seconds that what `one` sends now takes to `other`."""
        return self.delay

    def is_cut(self, one: PeerId, other: PeerId) -> bool:
        """Whether a dial hangs for ever."""
        return not self._silent.isdisjoint((one, other))

    def kill(self, peer: PeerId) -> None:
        """As `kill -9`: all its streams break."""
        for stream in self._servers[peer].take_streams():
            stream.break_()

    def silence(self, peer: PeerId) -> None:
        """As a pulled cable: nothing arrives, nobody is told."""
        self._silent.add(peer)
        for stream in self._servers[peer].streams:
            stream.silence()

    def introduce(self, peer: PeerId, neighbour: PeerAddress) -> None:
        """`peer` sees `neighbour` on its local network."""
        self._servers[peer].find(neighbour)

    def register(self, network: MemoryNetwork) -> int:
        self._servers[network.peer_id] = network
        return next(self._ports)

    def unregister(self, network: MemoryNetwork) -> None:
        self._servers.pop(network.peer_id, None)

    def find(self, peer: PeerId) -> MemoryNetwork | None:
        return self._servers.get(peer)


class MemoryNetwork:
    """`swarm.network.Network` in memory."""

    def __init__(self, internet: MemoryInternet, setup: NetworkSetup) -> None:
        self._internet = internet
        self._peer_id = peer_id_for(setup.identity_seed)
        self.swarm_key = setup.swarm_key
        self._serving: Serving | None = None
        self._nursery: trio.Nursery | None = None
        self.streams: list[MemoryStream] = []

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    async def serve(self, listen: Sequence[str], serving: Serving, *, task_status: trio.TaskStatus[list[str]]) -> None:
        if self._internet.find(self._peer_id) is not None:
            raise ListenFailed("this identity is in use already")
        async with trio.open_nursery() as nursery:
            self._nursery, self._serving = nursery, serving
            port = self._internet.register(self)
            try:
                task_status.started([f"/ip4/192.0.2.1/tcp/{port}/p2p/{self._peer_id}"] if listen else [])
                await trio.sleep_forever()
            finally:
                self._serving = None
                self._internet.unregister(self)
                for stream in self.take_streams():
                    stream.close_nowait()

    def make_stream(
        self, remote: PeerId, incoming: Pipe, outgoing: Pipe, protocol: str, *, is_inbound: bool
    ) -> MemoryStream:
        """This end of a new stream; a subclass may make one that watches or changes what passes."""
        return MemoryStream(remote, incoming, outgoing)

    async def open_stream(self, address: PeerAddress, protocol: str = SESSIONS) -> MemoryStream:
        there_seconds = partial(self._internet.delay_between, self._peer_id, address.peer)
        here_seconds = partial(self._internet.delay_between, address.peer, self._peer_id)
        await trio.sleep(there_seconds() + here_seconds())
        if self._serving is None:
            raise PeerUnreachable("the network is not running")
        if (found := self._internet.find(address.peer)) is not None and found.swarm_key != self.swarm_key:
            raise PeerUnreachable(f"cannot reach {address.text}: it is not in our swarm")
        if self._internet.is_cut(self._peer_id, address.peer):
            await trio.sleep_forever()
        server = self._internet.find(address.peer)
        if server is None:
            raise PeerUnreachable(f"cannot reach {address.text}: connection refused")
        there, here = Pipe(there_seconds), Pipe(here_seconds)
        server.accept(self._peer_id, there, here, protocol)
        stream = self.make_stream(server.peer_id, here, there, protocol, is_inbound=False)
        self.streams.append(stream)
        return stream

    def statistics(self) -> NetworkStats:
        return NetworkStats()

    def reach(self) -> Reach:
        return Reach()

    async def look(self) -> None:
        await trio.lowlevel.checkpoint()

    async def hang_up(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        for stream in [stream for stream in self.streams if stream.remote == peer]:
            self.streams.remove(stream)
            stream.break_()

    def accept(self, remote: PeerId, incoming: Pipe, outgoing: Pipe, protocol: str) -> None:
        """Raises `PeerUnreachable` for a protocol that is not spoken here."""
        assert self._nursery is not None
        assert self._serving is not None
        accept = self._serving.accept if protocol == SESSIONS else self._serving.others.get(protocol)
        if accept is None:
            raise PeerUnreachable(f"the peer does not speak {protocol}")
        stream = self.make_stream(remote, incoming, outgoing, protocol, is_inbound=True)
        self.streams.append(stream)
        self._nursery.start_soon(accept, stream)

    def find(self, neighbour: PeerAddress) -> None:
        assert self._serving is not None
        self._serving.found(neighbour)

    def take_streams(self) -> list[MemoryStream]:
        streams, self.streams = self.streams, []
        return streams


def peer_id_for(seed: bytes) -> PeerId:
    """A text shaped like a peer id, determined by `seed`. The real network has its own."""
    number = int.from_bytes(blake3_256(seed), "big")
    digits = ""
    for _ in range(44):
        number, digit = divmod(number, 58)
        digits += _BASE58[digit]
    return PeerId("12D3KooW" + digits)


class MemoryBlocks:
    """A `BlockBook` in memory."""

    def __init__(self, payloads: Sequence[bytes] = ()) -> None:
        self._blocks = {block_id(payload): payload for payload in payloads}

    def get(self, block: BlockId, /) -> bytes:
        payload = self._blocks.get(block)
        if payload is None:
            raise BlockMissing("no such block")
        return payload

    def get_cached(self, block: BlockId, /) -> bytes | None:
        return self._blocks.get(block)

    def has(self, block: BlockId, /) -> bool:
        return block in self._blocks

    def put(self, payload: bytes) -> BlockId:
        block = block_id(payload)
        self._blocks[block] = payload
        return block


# ------------------------------------------------------------------------------------------------------- evil peers

Misdeed = Callable[["EvilPeer", Stream, Session, Wanted], Awaitable[None]]


class EvilPeer:
    """A seeder that goes through the handshake for `logs` and treats each request as `misdeed` says."""

    def __init__(self, logs: Sequence[LogKey], blocks: BlockBook, misdeed: Misdeed) -> None:
        self._logs = {discovery_key(key): key for key in logs}
        self.blocks = blocks
        self.asked = 0
        self._misdeed = misdeed

    async def serve(self, local: PeerId, stream: Stream) -> None:
        """Run one session until either side ends it."""
        session = Session.respond(
            self._logs.get,
            local=local,
            remote=stream.remote,
            nonce=os.urandom(NONCE_BYTES),
            decoy=os.urandom(NONCE_BYTES),
        )
        with suppress(HyperError):
            await stream.send_all(session.take_output())
            while data := await stream.receive_some():
                for event in session.receive(data):
                    if isinstance(event, BlocksAsked):
                        await self._mistreat(stream, session)
                await stream.send_all(session.take_output())
        await stream.close()

    async def _mistreat(self, stream: Stream, session: Session) -> None:
        while (wanted := session.next_asked()) is not None:
            self.asked += 1
            await self._misdeed(self, stream, session, wanted)


async def run_evil_peer(
    evil: EvilPeer, network: Network, listen: Sequence[str], *, task_status: trio.TaskStatus[list[str]]
) -> None:
    """Serve `evil` on `network` until cancelled; starts with its addresses."""

    async def accept(stream: Stream) -> None:
        await evil.serve(network.peer_id, stream)

    serving = Serving(accept=accept, found=lambda _: None)
    async with trio.open_nursery() as nursery:
        task_status.started(await nursery.start(network.serve, listen, serving))


async def corrupt_block(evil: EvilPeer, stream: Stream, session: Session, wanted: Wanted) -> None:
    """Answer with the right block but for one bit."""
    payload = bytearray(evil.blocks.get(wanted.block))
    payload[len(payload) // 2] ^= 1
    session.serve(wanted, bytes(payload))
    await stream.send_all(session.take_output())


async def other_block(evil: EvilPeer, stream: Stream, session: Session, wanted: Wanted) -> None:
    """Answer with a block that is fine, but not this one."""
    session.serve(wanted, b"another block")
    await stream.send_all(session.take_output())


async def stall(evil: EvilPeer, stream: Stream, session: Session, wanted: Wanted) -> None:
    """Never answer, but go on reading."""
    await trio.lowlevel.checkpoint()


async def close_early(evil: EvilPeer, stream: Stream, session: Session, wanted: Wanted) -> None:
    """Send half of the answer, then end the stream."""
    session.serve(wanted, evil.blocks.get(wanted.block))
    data = session.take_output()
    await stream.send_all(data[: len(data) // 2])
    await stream.close()


async def deny(evil: EvilPeer, stream: Stream, session: Session, wanted: Wanted) -> None:
    """Say that the block is not held."""
    session.refuse(wanted, Why.NOT_HELD)
    await stream.send_all(session.take_output())


async def trickle(evil: EvilPeer, stream: Stream, session: Session, wanted: Wanted) -> None:
    """Answer rightly at a byte a second: never silent, never done."""
    session.serve(wanted, evil.blocks.get(wanted.block))
    for byte in session.take_output():
        await stream.send_all(bytes((byte,)))
        await trio.sleep(1)


async def serve_rightly(evil: EvilPeer, stream: Stream, session: Session, wanted: Wanted) -> None:
    """No misdeed: for comparison."""
    session.serve(wanted, evil.blocks.get(wanted.block))
    await stream.send_all(session.take_output())


MISDEEDS: Final[dict[str, Misdeed]] = {
    "corrupt": corrupt_block,
    "other": other_block,
    "stall": stall,
    "close": close_early,
    "deny": deny,
    "trickle": trickle,
}
