"""Fences around defects of py-libp2p 0.8.1 that touch us. All of them, and the tests that show them: docs/UPSTREAM.md.

D1  An inbound slot and a task are kept until the host ends: after 250 peers, nobody gets in. `FencedSwarm` waits for
    the connection's close instead.
D2  Every connect waits 250 ms, and dials a peer's second address as well. `FencedSwarm.dial`: one address, directly.
D3  A stream handler, or any task of a connection, that raises ends the host. `contained_handler`, `_ContainedTasks`.
D5  The muxer class that is configured is ignored. `OwnMuxers`.
D8  A silent peer holds a dial for over 70 s and is then blocked for 60 s. No retries, the caller's deadline.
D11 A message that arrives in more than 100 pieces breaks its connection. `read_exactly`.
D15 Connection limits stand in three places with three defaults. One `ConnectionConfig`, no resource manager, and
    `Admission` by address.
D16 Loopback addresses are skipped at times. `FencedSwarm.dial`.
D17 Known peers are dialled behind our back, whatever the watermarks. `_NoConnector`.
D18 Sockets and system tasks outlive a host that is cancelled. `FencedSwarm.close_all`, shielded.
D21 Identify runs by itself, in system tasks, where an error ends the process. `without_identify_tasks`.
D22 Calls on the root logger configure the application's logging. `quiet_logging`.
D24 A negotiation reads messages of any length, before anybody is authenticated, and takes any number of them.
    `read_proposal`.
D25 identify/push lets any stranger fill the peer store, and ping answers as fast as it is asked. `answer_only`.
D26 Its first module imports all of it, and twice as much beside. `swarm/left_out.py`.

The defects of its noise reader and of its yamux went with them (channel.py, muxer.py): a writer that gives up after 5 s
of closed window (D4), the 257th stream that waits for ever (D6), errors swallowed inside a frame (D7), windows that
are not enforced (D10), half a message on the wire after a cancel (D20), a lost connection that reads like an end (D23).
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import libp2p.io.msgio
import libp2p.network.connection.swarm_connection
import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, IRawConnection, ISecureConn
from libp2p.exceptions import ParseError
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING
from libp2p.host.ping import PING_LENGTH
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.abc import Reader, ReadWriteCloser
from libp2p.io.exceptions import IncompleteReadError, IOException
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from multiaddr import Multiaddr

from swarm.limits import (
    CLOSE_SECONDS,
    CONNECTIONS_MAX,
    CONNECTIONS_PER_PEER_MAX,
    DESCRIPTORS_RESERVED,
    ECHO_PAUSE_SECONDS,
    ECHO_SECONDS,
    HANDSHAKE_SECONDS,
    IDLE_CONNECTION_SECONDS,
    NEGOTIATION_BYTES_MAX,
    NEGOTIATION_ROUNDS_MAX,
    STREAM_SECONDS,
    STREAMS_PER_PEER_MAX,
    UPGRADE_SECONDS,
    UPGRADES_MAX,
)
from swarm.net.admission import Admission, Slot, Stage
from swarm.net.channel import Channel
from swarm.net.muxer import Muxer

_log: Final = logging.getLogger(__name__)

_UNKNOWN_ADDRESS: Final = "?"
_VOUCH_LOOKS: Final = 50

CONNECTION_CONFIG: Final = ConnectionConfig(
    # `Admission` counts; these two only have to be more than it lets in, with our own dials.
    max_connections=4 * CONNECTIONS_MAX,
    high_watermark=4 * CONNECTIONS_MAX,
    low_watermark=0,
    min_connections=0,
    max_connections_per_peer=CONNECTIONS_PER_PEER_MAX,
    inbound_upgrade_timeout=UPGRADE_SECONDS,
    outbound_upgrade_timeout=UPGRADE_SECONDS,
    inbound_stream_protocol_negotiation_timeout=STREAM_SECONDS,
    outbound_stream_protocol_negotiation_timeout=STREAM_SECONDS,
)
RETRY_CONFIG: Final = RetryConfig(max_retries=0)


# ------------------------------------------------------------------------------------------------------ the process


def quiet_logging() -> None:
    """Keep libp2p's log to itself (unless LIBP2P_DEBUG is set), and its hands off the root logger."""
    module = vars(libp2p.network.connection.swarm_connection)
    module["logging"] = logging.getLogger("libp2p.network.connection")
    logger = logging.getLogger("libp2p")
    if not logger.handlers and not os.environ.get("LIBP2P_DEBUG"):
        logger.addHandler(logging.NullHandler())


async def read_exactly(reader: Reader, n: int, retry_count: int = 0) -> bytes:
    """Exactly `n` bytes in however many pieces; `IncompleteReadError` at the end of the stream."""
    pieces = bytearray()
    while len(pieces) < n:
        piece = await reader.read(n - len(pieces))
        if not piece:
            raise IncompleteReadError("the connection ended", expected_bytes=n, received_bytes=len(pieces))
        pieces += piece
    return bytes(pieces)


async def read_proposal(self: MultiselectCommunicator) -> str:
    """One message of a negotiation. Raises `MultiselectCommunicatorError`, for one that is too long or too many too."""
    rounds = vars(self)["rounds"] = vars(self).get("rounds", 0) + 1
    try:
        if rounds > NEGOTIATION_ROUNDS_MAX:
            raise ParseError("a negotiation without end")
        length = (await read_exactly(self.read_writer, 1))[0]
        if length >= 0x80:
            length += ((await read_exactly(self.read_writer, 1))[0] - 1) << 7
        if not 0 < length <= NEGOTIATION_BYTES_MAX:
            raise ParseError(f"a proposal of {length} bytes")
        proposal = (await read_exactly(self.read_writer, length)).decode()
        if not proposal.endswith("\n"):
            raise ParseError("a proposal without an end")
    except (ParseError, IOException, UnicodeDecodeError) as error:
        raise MultiselectCommunicatorError("no proposal came") from error
    return proposal[:-1]


def install() -> None:
    """Fences that replace a function of the library. Safe to call again."""
    quiet_logging()
    vars(libp2p.io.msgio)["read_exactly"] = read_exactly
    MultiselectCommunicator.read = read_proposal  # type: ignore[method-assign]


# ------------------------------------------------------------------------------------------------------- the muxer


class OwnMuxers(MuxerMultistream):
    """Our yamux, proposed without a wait. `misbehaved` is told of peers whose connection ended for that."""

    misbehaved: Callable[[ID, str], None]

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        assert isinstance(conn, Channel)
        if conn.is_initiator:
            (protocol,) = self.transports
            conn.propose(protocol)
            await trio.lowlevel.checkpoint()
        else:
            protocol, _ = await self._selector.select(
                conn, is_initiator=False, negotiate_timeout=self.negotiate_timeout
            )
        return self._annotate_connection(Muxer(conn, peer_id, self.misbehaved), conn, protocol)


# ------------------------------------------------------------------------------------------------------- the swarm


class _ContainedTasks:
    """Stands in for the swarm's task manager: connections run in our nursery and cannot end the host."""

    def __init__(self, inner: Any, nursery: trio.Nursery) -> None:
        self._inner = inner
        self._nursery = nursery

    def run_task(self, task: Callable[..., Awaitable[None]], *arguments: object, **_: object) -> None:
        self._nursery.start_soon(self._contain, task, *arguments)

    async def _contain(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        try:
            await task(*arguments)
        except Exception as error:  # noqa: BLE001
            _log.debug("a task of a connection failed: %r", error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _NoConnector(AutoConnector):
    """Nobody is dialled but by us."""

    async def maybe_connect(self) -> None:
        pass


OnConnection = Callable[[INetConn, bool], None]
"""A connection, and whether it is inbound."""


class FencedSwarm(Swarm):
    """Stock swarm whose connections come and go without leaving anything behind."""

    admission: Admission
    is_near: Callable[[str], bool]
    """Whether to take connections from this IP address."""
    is_welcome: Callable[[ID], bool]
    """Whether to speak to this peer at all."""
    on_connection: OnConnection
    """Told of each new connection."""
    _nursery: trio.Nursery | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.slots: dict[IMuxedConn, Slot] = {}
        """Inbound connections after their handshake."""
        self.on_connection = lambda connection, is_inbound: None

    def contain_in(self, nursery: trio.Nursery) -> None:
        """Run connections in `nursery` from here on."""
        self._nursery = nursery

    @property
    def manager(self) -> Any:
        inner = super().manager
        return inner if self._nursery is None else _ContainedTasks(inner, self._nursery)

    async def dial(self, address: Multiaddr, peer: ID) -> INetConn:
        """One attempt at one address; the caller sets the deadline."""
        return await self.dial_addr(address, peer)

    async def secure(self, raw: IRawConnection, peer: ID) -> INetConn:
        """Make an outbound connection of a raw one, which is closed if that fails."""
        try:
            return await self.upgrade_outbound_raw_conn(raw, peer)
        except BaseException:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await raw.close()
            raise

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        connection = await super().add_conn(muxed_conn, direction)
        self.on_connection(connection, direction == "inbound")
        return connection

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        await self.take_inbound(RawConnection(read_write_closer, False))

    async def take_inbound(self, raw: RawConnection) -> None:
        """Serve a connection that somebody else began, until it ends."""
        remote = raw.get_remote_address()
        scope = trio.CancelScope()
        slot = None
        if remote is None or self.is_near(remote[0]):
            slot = self.admission.begin(remote[0] if remote else _UNKNOWN_ADDRESS, scope.cancel, trio.current_time())
        if slot is None:
            await raw.close()
            return
        muxed: Any = None
        try:
            with scope:
                muxed = await self._upgrade(raw)
                if muxed is not None and self.is_welcome(muxed.peer_id) and self.admission.establish(slot):
                    self.slots[muxed] = slot
                    await _until_idle(muxed)
        finally:
            self.slots.pop(muxed, None)
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await (raw if muxed is None else muxed).close()
            self.admission.end(slot, trio.current_time())

    async def wait_vouched(self, connection: INetConn) -> bool:
        """Whether the peer shows, within the time for handshakes, that it knows a log."""
        for _ in range(_VOUCH_LOOKS):
            slot = self.slots.get(connection.muxed_conn)
            if slot is not None and slot.stage is Stage.MEMBER:
                return True
            await trio.sleep(HANDSHAKE_SECONDS / _VOUCH_LOOKS)
        return False

    def vouch(self, muxed: IMuxedConn) -> None:
        """The peer at the other end of this connection has shown that it knows a log."""
        slot = self.slots.get(muxed)
        if slot is not None:
            self.admission.vouch(slot)

    async def _upgrade(self, raw: IRawConnection) -> IMuxedConn | None:
        try:
            return await self.upgrade_inbound_raw_conn(raw, Multiaddr("/ip4/0.0.0.0/tcp/0"))
        except Exception as error:  # noqa: BLE001
            # Anything a stranger can send may come out here; stock code knows no narrower kind.
            _log.debug("inbound connection refused: %r", error)
            await raw.close()
            return None

    def _init_connection_management(self) -> None:
        super()._init_connection_management()
        self.auto_connector = _NoConnector(self)

    async def close_all(self) -> None:
        """Close connections, all at once, then listeners."""
        async with trio.open_nursery() as nursery:
            for connection in self.get_connections():
                nursery.start_soon(close_connection, connection)
        await self.close()


async def _until_idle(muxed: Any) -> None:
    """Until the connection is closed, or had no stream at two looks in a row."""
    was_idle = False
    while not (was_idle and muxed.is_idle) and not muxed.is_closed:
        was_idle = muxed.is_idle
        with trio.move_on_after(IDLE_CONNECTION_SECONDS):
            await muxed.event_closed.wait()


def connections_max() -> int:
    """How many inbound connections the process has descriptors for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(min(CONNECTIONS_MAX, soft - UPGRADES_MAX - DESCRIPTORS_RESERVED), UPGRADES_MAX)


async def close_connection(connection: INetConn) -> None:
    """Close one connection within `CLOSE_SECONDS` or so; raises nothing."""
    with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
        try:
            await connection.close()
        except Exception as error:  # noqa: BLE001
            _log.debug("closing a connection failed: %r", error)


def contained_handler(handler: Callable[[INetStream], Awaitable[None]]) -> Callable[[INetStream], Awaitable[None]]:
    """`handler` for any inbound stream: it cannot end the host, and one peer cannot hold too many."""

    async def handle(stream: INetStream) -> None:
        connection = getattr(stream, "swarm_conn", None)
        try:
            if isinstance(connection, SwarmConn) and len(connection.streams) > STREAMS_PER_PEER_MAX:
                await stream.reset()
                return
            await handler(stream)
        except Exception as error:  # noqa: BLE001
            _log.debug("an inbound stream failed: %r", error)
            await stream.reset()

    return handle


async def answer_pings(stream: INetStream) -> None:
    """libp2p's ping: 32 bytes come back, not more often than twenty times a second."""
    with suppress(IOException, trio.TooSlowError):
        while True:
            with trio.fail_after(ECHO_SECONDS):
                await stream.write(await read_exactly(stream, PING_LENGTH))
            await trio.sleep(ECHO_PAUSE_SECONDS)
    await stream.close()


def answer_only(host: BasicHost) -> None:
    """Of the protocols that a host offers by itself, keep identify and a patient ping."""
    host.remove_stream_handler(ID_PUSH)
    host.set_stream_handler(PING, answer_pings)


def without_identify_tasks(host: BasicHost, swarm: Swarm) -> None:
    """Answer identify, but do not run it by ourselves in system tasks."""
    for notifee in list(swarm.notifees):
        if type(notifee).__module__ == BasicHost.__module__:
            swarm.remove_notifee(notifee)
    assert all(type(notifee).__module__ != BasicHost.__module__ for notifee in swarm.notifees)
    assert host.get_network() is swarm
