"""Yamux over a noise channel for trio, behind libp2p's interfaces: `yamux.py` decides, this moves bytes and wakes.

One task of a connection reads and hands out, one sends on what the kernel did not take, one keeps the connection alive.
Writers send by themselves: a small message is on its way when `write` returns, with no task in between. Whatever ends
a connection, every task that waits on it is woken and told.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)
from multiaddr import Multiaddr

from hyperlog.errors import PeerMisbehaved
from swarm.errors import PeerTooSlow
from swarm.limits import CLOSE_SECONDS, KEEP_ALIVE_SECONDS
from swarm.net.channel import Channel
from swarm.net.yamux import Code, Flow, Memory, Yamux

_log: Final = logging.getLogger(__name__)
_READ_BYTES: Final = 1 << 20
_memory: Final = Memory()


class MuxedStream(IMuxedStream):
    """One stream. One task may read and one may write."""

    def __init__(self, connection: Muxer, flow: Flow) -> None:
        self.muxed_conn = connection
        self.flow = flow
        self.connection = connection
        self._news = trio.lowlevel.ParkingLot()
        self._deadline = math.inf

    def wake(self) -> None:
        """Something changed: bytes, a window, an end."""
        self._news.unpark_all()

    async def read(self, n: int | None = None) -> bytes:
        """Some bytes, at most `n`. Raises `MuxedStreamEOF` at the peer's end, `MuxedStreamReset` at any other."""
        await self._wait_unread()
        return self.connection.take(self.flow, _READ_BYTES if n is None or n < 0 else n)

    async def read_pieces(self, enough: int) -> list[memoryview]:
        """Some bytes as they came, until they are `enough`. Raises as `read`."""
        await self._wait_unread()
        return self.connection.take_pieces(self.flow, enough)

    async def _wait_unread(self) -> None:
        flow = self.flow
        while not flow.unread:
            if flow.is_reset:
                raise MuxedStreamReset("the stream was reset")
            if flow.is_finished:
                raise MuxedStreamEOF("the peer has finished")
            await self._wait()

    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting for the peer's window. Cancelled: a part of it may be on its way."""
        view = memoryview(data)
        while True:
            if self.flow.is_reset:
                raise MuxedStreamReset("the stream was reset")
            if self.flow.is_sent:
                raise MuxedStreamClosed("the stream is closed for writing")
            view = view[self.connection.send(self.flow, view) :]
            if not view:
                break
            if self.flow.may_send:
                await self.connection.wait_room()
            else:
                await self._wait()
        if not self.connection.has_room:
            await self.connection.wait_room()

    async def _wait(self) -> None:
        if self._deadline == math.inf:  # a scope costs as much as the rest of a turn
            await self._news.park()
            return
        with trio.move_on_at(self._deadline):
            await self._news.park()
            return
        raise MuxedStreamError("the stream's deadline has passed")

    async def close(self) -> None:
        """Finish our direction; the peer's stays open."""
        self.connection.finish(self.flow)
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        self.connection.reset(self.flow)
        self.wake()
        await trio.lowlevel.checkpoint()

    def set_deadline(self, ttl: int) -> None:
        """Waiting reads and writes end with `MuxedStreamError` in `ttl` seconds. Raises `ValueError` if negative."""
        if ttl < 0:
            raise ValueError("a deadline in the past")
        self._deadline = trio.current_time() + ttl

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.connection.get_remote_address()

    async def __aenter__(self) -> MuxedStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self.close()


class Muxer(IMuxedConn):
    """One connection. `start` runs it until it ends."""

    def __init__(self, channel: Channel, peer_id: ID, misbehaved: Callable[[ID, str], None]) -> None:
        self.secured_conn = channel
        self.peer_id = peer_id
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.on_close: Callable[[], Awaitable[None]] | None = None
        self.is_kept = False
        self._channel = channel
        self._misbehaved = misbehaved
        self._yamux = Yamux(_memory, is_initiator=channel.is_initiator, now=trio.current_time())
        self._streams: dict[Flow, MuxedStream] = {}
        self._arrived_send, self._arrived = trio.open_memory_channel[MuxedStream](float("inf"))
        self._heard_at = trio.current_time()

    @property
    def is_initiator(self) -> bool:
        return self._channel.is_initiator

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self.is_closed

    @property
    def is_closed(self) -> bool:
        return self.event_closed.is_set()

    @property
    def local_port(self) -> int:
        """The TCP port at our end; 0 for a connection through a relay."""
        return self._channel.local_port

    @property
    def is_idle(self) -> bool:
        """Whether no stream is open and nobody wants the connection as it is."""
        return not self._yamux.flows and not self.is_kept

    # -------------------------------------------------------------------------------------------------- for streams

    @property
    def has_room(self) -> bool:
        return self._channel.has_room

    async def wait_room(self) -> None:
        try:
            await self._channel.wait_room()
        except ConnectionClosedError as error:
            raise MuxedStreamReset("the connection was lost") from error

    def take(self, flow: Flow, most: int) -> bytes:
        data = self._yamux.take(flow, most)
        if self._yamux.has_output:
            self._talk()
        return data

    def take_pieces(self, flow: Flow, enough: int) -> list[memoryview]:
        pieces = self._yamux.take_pieces(flow, enough)
        if self._yamux.has_output:
            self._talk()
        return pieces

    def send(self, flow: Flow, view: memoryview) -> int:
        """Send what the window and the queue have room for; returns how many bytes that was."""
        channel, sent = self._channel, 0
        while sent < len(view) and channel.has_room:
            header, length = self._yamux.data(flow, len(view) - sent)
            if not length:
                break
            channel.put(header, view[sent : sent + length])
            sent += length
        if sent:
            self._talk()
        return sent

    def finish(self, flow: Flow) -> None:
        self._yamux.finish(flow)
        self._talk()

    def reset(self, flow: Flow) -> None:
        self._yamux.reset(flow)
        self._talk()

    def _talk(self) -> None:
        """Send what is to be sent. A connection that does not take it is closed: its reader notices."""
        if self._yamux.has_output:
            self._channel.put(self._yamux.take_output())
        try:
            self._channel.send_now()
        except (ConnectionClosedError, PeerMisbehaved) as error:
            _log.debug("connection with %s broke: %s", self.peer_id, error)
            self._channel.socket.close()
        self._forget_ended()

    def _forget_ended(self) -> None:
        if len(self._streams) > len(self._yamux.flows):
            for flow in [flow for flow in self._streams if flow.id not in self._yamux.flows]:
                self._streams.pop(flow).wake()

    async def open_stream(self) -> MuxedStream:
        if self.is_closed or not self._yamux.may_open:
            raise MuxedConnUnavailable("the connection takes no more streams")
        flow = self._yamux.open()
        stream = self._streams[flow] = MuxedStream(self, flow)
        self._talk()
        await trio.lowlevel.checkpoint()
        return stream

    async def accept_stream(self) -> MuxedStream:
        try:
            return await self._arrived.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise MuxedConnUnavailable("the connection is closed") from error

    # --------------------------------------------------------------------------------------------------------- tasks

    async def start(self) -> None:
        """Run the connection until it ends. An error ends this connection and nothing else."""
        self.event_started.set()
        try:
            async with trio.open_nursery() as nursery:
                for task in (self._channel.flush_forever, self._keep_alive, self._read):
                    nursery.start_soon(self._contain, task, nursery.cancel_scope)
        finally:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await self._end()

    async def _contain(self, task: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        try:
            await task()
        except ConnectionClosedError as error:
            _log.debug("connection with %s ended: %s", self.peer_id, error)
        except PeerMisbehaved as error:
            _log.debug("connection with %s ended: %s", self.peer_id, error.message)
            self._misbehaved(self.peer_id, error.message)
            self._yamux.goodbye(Code.PROTOCOL_ERROR)
            self._talk()
        except PeerTooSlow as error:
            _log.debug("connection with %s ended: %s", self.peer_id, error.message)
            self._yamux.goodbye(Code.INTERNAL_ERROR)
            self._talk()
        scope.cancel()

    async def _read(self) -> None:
        yamux = self._yamux
        while not (yamux.is_gone and not yamux.flows):
            messages = await self._channel.receive()
            now = self._heard_at = trio.current_time()
            try:
                for message in messages:
                    yamux.receive(message, now)
            finally:
                self._hand_out()
            if yamux.has_output:
                self._talk()
            await trio.lowlevel.checkpoint()

    def _hand_out(self) -> None:
        yamux = self._yamux
        for flow in yamux.arrived:
            stream = self._streams[flow] = MuxedStream(self, flow)
            self._arrived_send.send_nowait(stream)
        yamux.arrived.clear()
        for flow in yamux.touched:
            stream_of = self._streams.get(flow)
            if stream_of is not None:
                stream_of.wake()
        yamux.touched.clear()
        self._forget_ended()

    async def _keep_alive(self) -> None:
        token = 0
        while True:
            await trio.sleep(KEEP_ALIVE_SECONDS)
            silent = trio.current_time() - self._heard_at
            if silent >= 2 * KEEP_ALIVE_SECONDS:
                raise ConnectionClosedError("the peer has fallen silent")
            if silent >= KEEP_ALIVE_SECONDS:
                token += 1
                self._yamux.ping(token)
                self._talk()

    async def close(self) -> None:
        """Say goodbye and close, at once; raises nothing."""
        if not self.is_closed:
            self._yamux.goodbye(Code.NORMAL)
            self._talk()
        with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
            await self._end()

    async def _end(self) -> None:
        if self.is_closed:
            return
        self.event_closed.set()
        self._arrived_send.close()
        self._yamux.end()
        for stream in self._streams.values():
            stream.wake()
        self._streams.clear()
        _log.debug("%d bytes from %s, %d to it", self._channel.bytes_in, self.peer_id, self._channel.bytes_out)
        await self._channel.close()
        if self.on_close is not None:
            await self.on_close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._channel.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self._channel.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self._channel.get_connection_type()
