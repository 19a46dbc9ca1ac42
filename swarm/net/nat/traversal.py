"""What a node does about not being dialable, put together: look, map a port, reserve at relays, punch.

    a connection is made ─▶ look: how do peers see us, do they reach us (dialback.py)
                              ├ yes: the address that they reached is announced
                              └ no:  places at up to two relays, kept while they are needed (circuits.py)
    somebody dials us through a relay ─▶ punch; once there is a direct connection the relayed one ends (punching.py)

Direct connections are preferred: new streams take them, and a relayed one is only dialled when an address says so.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio
from libp2p.abc import INetConn
from libp2p.connection_types import ConnectionType
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from multiaddr import Multiaddr

from hyperlog.errors import HyperError
from swarm.addresses import CIRCUIT, PeerAddress, PeerId
from swarm.limits import CLOSE_SECONDS
from swarm.net import compat
from swarm.net.identity import libp2p_id, peer_id_text
from swarm.net.nat.circuits import Circuits, Reservation, reserve
from swarm.net.nat.dialback import DialBack, ask, observed_by
from swarm.net.nat.gateway import keep_mapped
from swarm.net.nat.limits import (
    ASKED_PEERS_MAX,
    DIAL_BACK_PAUSE_SECONDS,
    LOOK_FIRST_SECONDS,
    LOOK_SECONDS,
    MESSAGE_SECONDS,
    MOVE_SECONDS,
    PUNCH_SECONDS,
    RELAYS_WANTED,
    RETURN_SECONDS,
    WITNESS_SECONDS,
)
from swarm.net.nat.messages import AUTONAT, DCUTR, HOP, STOP
from swarm.net.nat.punching import connect_at_once, follow, invite, worth_punching
from swarm.net.nat.relay import Relay
from swarm.net.nat.sockets import ListeningPortTCP
from swarm.net.nat.verdict import candidates, verdict
from swarm.net.streams import LibP2PStream, is_relayed, local_port, unreachable
from swarm.reach import Reach, Reachable, ReachSetup, Witness

_log: Final = logging.getLogger(__name__)

Connect = Callable[[PeerAddress], Awaitable[INetConn]]


@dataclass(eq=False, slots=True)
class _Place:
    """A reservation and the connection that it lives on."""

    reservation: Reservation
    connection: INetConn
    until: float


class Traversal:
    """`connect` gives a connection with a peer, the one there is or a new one. `run` it while `swarm` runs."""

    def __init__(
        self,
        setup: ReachSetup,
        swarm: compat.FencedSwarm,
        transport: ListeningPortTCP,
        connect: Connect,
        improved: Callable[[PeerId], None],
        nursery: trio.Nursery,
    ) -> None:
        self._setup = setup
        self._swarm = swarm
        self._transport = transport
        self._connect = connect
        self._improved = improved
        self._nursery = nursery
        self._us = peer_id_text(swarm.get_peer_id())
        self._listening: tuple[str, ...] = ()
        self._relay = Relay(self, self._ways, setup.relay_bounds) if setup.offer_relay else None
        self._circuits = Circuits(nursery)
        self._dial_back = DialBack(self._dial_afresh)
        self._places: dict[PeerId, _Place] = {}
        self._lost: dict[PeerId, Reservation] = {}
        """Places that ended; their relays are tried again."""
        self._returns = 0
        self._no_relays: set[INetConn] = set()
        """Connections with peers that refused us a place."""
        self._looking = trio.Lock()
        self._witnesses: dict[PeerId, Witness] = {}
        self._asked_at: dict[PeerId, float] = {}
        self._observed: dict[INetConn, tuple[str, int]] = {}
        self._reachable = Reachable.UNKNOWN
        self._mapped: str | None = None
        self._mapping_failure: str | None = None
        self._relay_failure: str | None = None
        self._changed = trio.Event()
        self._connected = trio.Event()
        self._punched = 0
        self._punches_failed = 0
        swarm.on_connection = self._on_connection

    def handlers(self) -> dict[str, Callable[[LibP2PStream], Awaitable[None]]]:
        """Who answers which protocol."""
        found: dict[str, Callable[[LibP2PStream], Awaitable[None]]] = {AUTONAT: self._dial_back.serve}
        if self._relay is not None:
            found[HOP] = self._relay.serve
        if self._setup.use_relays:
            found[STOP] = self._accept_circuit
        if self._setup.punch:
            found[DCUTR] = self._follow
        return found

    # ------------------------------------------------------------------------------------------------ what is known

    def known(self) -> Reach:
        relay = self._relay
        return Reach(
            addresses=self.addresses,
            reachable=self._reachable,
            witnesses=tuple(self._witnesses.values()),
            mapped=self._mapped,
            mapping_failure=self._mapping_failure,
            relays=self._relayed(),
            relay_failure=self._relay_failure,
            is_relay=relay is not None,
            relayed_reservations=0 if relay is None else len(relay.book.reserved()),
            relayed_circuits=0 if relay is None else relay.book.open_circuits,
            relayed_bytes=0 if relay is None else relay.bytes_carried,
            relay_refused=0 if relay is None else relay.book.refused,
            punched=self._punched,
            punches_failed=self._punches_failed,
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where we can be dialled now, as far as we know."""
        reached = [one.reached for one in self._witnesses.values() if one.reached is not None]
        outside = [*([self._mapped] if self._mapped else []), *reached]
        ours = [f"{one}/p2p/{self._us}" for one in outside]
        return tuple(dict.fromkeys([*self._listening, *ours, *self._relayed()]))

    def _relayed(self) -> tuple[str, ...]:
        ways = (way for place in self._places.values() for way in place.reservation.ways[:1])
        return tuple(f"{way.text}{CIRCUIT}/p2p/{self._us}" for way in ways)

    def _ways(self) -> list[str]:
        """Where those for whom we relay can tell others to dial us."""
        return [one.partition("/p2p/")[0] for one in self.addresses if CIRCUIT not in one][:8]

    def direct(self, peer: PeerId) -> INetConn | None:
        """A connection with the peer that is no circuit."""
        for connection in self._swarm.get_connections(libp2p_id(peer)):
            if not connection.is_closed and not is_relayed(connection):
                return connection
        return None

    def keep(self, connection: INetConn) -> None:
        muxed: Any = connection.muxed_conn
        muxed.is_kept = True

    # --------------------------------------------------------------------------------------------------- connections

    async def dial(self, address: PeerAddress) -> INetConn:
        """A new connection, through a relay if the address says so. Raises `PeerUnreachable`."""
        identity = libp2p_id(address.peer)
        relay = address.relay
        if relay is None:
            with unreachable(address):
                return await self._swarm.dial(Multiaddr(address.text), identity)
        way = await self._connect(relay)
        end = await self._circuits.dial(way, address)
        with unreachable(address):
            return await self._swarm.secure(end.raw(initiator=True), identity)

    async def _dial_afresh(self, address: PeerAddress) -> INetConn:
        """A new direct connection, not from our listening port."""
        _, _, host, _, port, *_ = address.text.split("/")
        with unreachable(address):
            stream = TrioTCPStream(await trio.open_tcp_stream(host, int(port)))
            return await self._swarm.secure(RawConnection(stream, initiator=True), libp2p_id(address.peer))

    def _on_connection(self, connection: INetConn, is_inbound: bool) -> None:
        self._connected.set()
        self._connected = trio.Event()
        if not is_relayed(connection):
            self._wake()
        elif is_inbound and self._setup.punch:
            self._swarm.manager.run_task(self._invite, connection)

    async def _accept_circuit(self, stream: LibP2PStream) -> None:
        """A relay leads somebody to us."""
        is_expected = stream.remote in self._places
        accepted = None
        try:
            accepted = await self._circuits.accept(stream, is_expected=is_expected)
        except HyperError as error:
            _log.debug("a circuit was not accepted: %s", error.message)
        if accepted is None:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await stream.close()
            return
        self._circuits.accepted += 1
        try:
            _, end = accepted
            await self._swarm.take_inbound(end.raw(initiator=False))
        finally:
            self._circuits.accepted -= 1

    # ------------------------------------------------------------------------------------------------------- punching

    async def _invite(self, connection: INetConn) -> None:
        """Make a relayed connection a direct one; the relayed one ends when that worked."""
        peer = peer_id_text(connection.muxed_conn.peer_id)
        if not await self._swarm.wait_vouched(connection):
            return  # a stranger may not make us connect to what it names
        is_direct = await invite(connection, await self._candidates(), self._meet)
        self._count_punch(peer, is_direct)
        if is_direct:
            await trio.sleep(MOVE_SECONDS)
            await self._leave_circuits(peer)

    async def _follow(self, stream: LibP2PStream) -> None:
        """Only whom we dialled through a relay may invite us."""
        muxed = stream.muxed.connection
        try:
            if not (muxed.is_initiator and muxed.get_connection_type() == ConnectionType.RELAYED):
                return
            self._count_punch(stream.remote, await follow(stream, await self._candidates(), self._meet))
        except HyperError as error:
            _log.debug("hole punching failed: %s", error.message)
        finally:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await stream.close()

    def _count_punch(self, peer: PeerId, is_direct: bool) -> None:
        self._punched += is_direct
        self._punches_failed += not is_direct
        if is_direct:
            self._improved(peer)

    async def _meet(self, peer: PeerId, addresses: Sequence[PeerAddress], as_client: bool) -> bool:
        """Connect to `peer` at all addresses at once; whether there is a direct connection then, whoever made it."""
        with trio.move_on_after(2 * PUNCH_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._punch, peer, addresses, as_client)
                while self.direct(peer) is None:
                    await self._connected.wait()
                nursery.cancel_scope.cancel()
        return self.direct(peer) is not None

    async def _punch(self, peer: PeerId, addresses: Sequence[PeerAddress], as_client: bool) -> None:
        seen_at = {host for host, _ in self._observed.values()}
        stream = await connect_at_once(worth_punching(addresses, seen_at), self._transport.sources)
        if stream is None:
            return
        raw = RawConnection(TrioTCPStream(stream), initiator=as_client)
        if not as_client:
            self._swarm.manager.run_task(self._swarm.take_inbound, raw)
            return
        try:
            await self._swarm.secure(raw, libp2p_id(peer))
        except Exception as error:  # noqa: BLE001
            # Whatever answered there; stock code knows no narrower kind.
            _log.debug("what was punched was not our peer: %r", error)

    async def _leave_circuits(self, peer: PeerId) -> None:
        for connection in self._swarm.get_connections(libp2p_id(peer)):
            if is_relayed(connection):
                await compat.close_connection(connection)

    async def _candidates(self) -> list[str]:
        """Where a peer behind a NAT may find us: as relays see us, and on our own network."""
        for connection in list(self._swarm.get_connections()):
            if not is_relayed(connection):
                await self._observe(connection)
        port = self._port
        seen = [
            one
            for connection, (host, seen_port) in self._observed.items()
            for one in candidates(host, [seen_port, port] if local_port(connection) == port else [port])
        ]
        mapped = [self._mapped] if self._mapped else []
        own = [one.partition("/p2p/")[0] for one in self._listening if not one.startswith(("/ip4/127.", "/ip6/::1/"))]
        return list(dict.fromkeys([*mapped, *seen, *own]))

    # -------------------------------------------------------------------------------------------------------- looking

    async def run(self, listening: Sequence[str]) -> None:
        """Find out how we are reached, and see to it that we are, until cancelled."""
        self._listening = tuple(listening)
        if not listening:
            self._reachable = Reachable.NO
        elif self._setup.map_ports:
            self._nursery.start_soon(keep_mapped, self._port, listening, self._on_mapping)
        while True:
            self._changed = trio.Event()
            await self.look()
            with trio.move_on_after(
                min(RETURN_SECONDS * 2**self._returns, LOOK_SECONDS) if self._lost else LOOK_SECONDS
            ):
                await self._changed.wait()
                await trio.sleep(LOOK_FIRST_SECONDS)

    def _wake(self) -> None:
        self._changed.set()

    def _on_mapping(self, outside: str | None, failure: str | None) -> None:
        self._mapped, self._mapping_failure = outside, failure
        self._witnesses.clear()
        self._wake()

    @property
    def _port(self) -> int:
        """The TCP port that we listen on; 0 when we do not."""
        return next((port for _, port in self._transport.sources.values()), 0)

    async def look(self) -> None:
        """Ask peers that were not asked yet, then see to places at relays."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        self._forget_gone()
        asked = [one for one in self._direct_connections() if self._is_worth_asking(self._peer(one))]
        async with trio.open_nursery() as nursery:
            for connection in asked[: ASKED_PEERS_MAX if self._listening else 0]:
                nursery.start_soon(self._question, connection)
        if self._listening:
            own = {one.split("/")[2] for one in self._listening}
            self._reachable = verdict(list(self._witnesses.values()), own)
        if self._reachable is Reachable.NO and self._setup.use_relays:
            await self._see_to_places()

    def _is_worth_asking(self, peer: PeerId) -> bool:
        witness = self._witnesses.get(peer)
        if witness is None:
            return True
        pause = WITNESS_SECONDS if witness.has_tried else DIAL_BACK_PAUSE_SECONDS
        return trio.current_time() - self._asked_at.get(peer, 0.0) > pause

    def _direct_connections(self) -> list[INetConn]:
        """One for each peer."""
        found: dict[PeerId, INetConn] = {}
        for connection in self._swarm.get_connections():
            if not connection.is_closed and not is_relayed(connection):
                found.setdefault(self._peer(connection), connection)
        return list(found.values())

    def _peer(self, connection: INetConn) -> PeerId:
        return peer_id_text(connection.muxed_conn.peer_id)

    def _forget_gone(self) -> None:
        live = set(self._swarm.get_connections())
        self._no_relays &= live
        for connection in [one for one in self._observed if one not in live]:
            del self._observed[connection]
        while len(self._witnesses) > 4 * ASKED_PEERS_MAX:
            oldest = min(self._witnesses, key=lambda peer: self._asked_at.get(peer, 0.0))
            del self._witnesses[oldest]
        self._asked_at = {peer: at for peer, at in self._asked_at.items() if peer in self._witnesses}

    async def _observe(self, connection: INetConn) -> tuple[str, int] | None:
        if connection not in self._observed:
            try:
                seen = await observed_by(connection)
            except HyperError:
                return None
            if seen is not None:
                self._observed[connection] = seen
        return self._observed.get(connection)

    async def _question(self, connection: INetConn) -> None:
        seen = await self._observe(connection)
        if seen is None:
            return
        host, port = seen
        ports = [port] if local_port(connection) == self._port else []
        if self._mapped is not None:
            ports.append(int(self._mapped.split("/")[4]))
        self._asked_at[self._peer(connection)] = trio.current_time()
        try:
            answer = await ask(connection, self._us, candidates(host, [*ports, self._port]))
        except HyperError as error:
            self._witnesses[self._peer(connection)] = Witness(self._peer(connection), host, False, None, error.message)
        else:
            self._witnesses[answer.peer] = Witness(answer.peer, host, answer.is_verdict, answer.reached, answer.why)

    # --------------------------------------------------------------------------------------------------------- places

    async def _see_to_places(self) -> None:
        """Keep, renew and find places at relays, so that there are `RELAYS_WANTED` if there can be."""
        now = trio.current_time()
        for peer, place in list(self._places.items()):
            if place.connection.is_closed or now > place.until:
                self._lost[peer] = self._places.pop(peer).reservation
        for peer, lost in list(self._lost.items()):
            if len(self._places) >= RELAYS_WANTED or await self._return_to(lost):
                del self._lost[peer]
        self._returns = self._returns + 1 if self._lost else 0
        for connection in self._direct_connections():
            is_new = self._peer(connection) not in self._places and connection not in self._no_relays
            if is_new and len(self._places) < RELAYS_WANTED:
                await self._reserve(connection)

    async def _return_to(self, lost: Reservation) -> bool:
        with trio.move_on_after(MESSAGE_SECONDS):
            try:
                return await self._reserve(await self._connect(lost.ways[0]))
            except HyperError as error:
                self._relay_failure = error.message
        return False

    async def _reserve(self, connection: INetConn) -> bool:
        try:
            reservation = await reserve(connection)
        except HyperError as error:
            self._relay_failure = error.message
            self._no_relays.add(connection)
            return False
        if not reservation.ways:
            self._relay_failure = "the relay does not say where it can be dialled"
            self._no_relays.add(connection)
            return False
        self.keep(connection)
        self._places[reservation.relay] = _Place(reservation, connection, trio.current_time() + reservation.seconds / 2)
        self._relay_failure = None
        self._nursery.start_soon(self._wake_at_end, connection)
        return True

    async def _wake_at_end(self, connection: INetConn) -> None:
        muxed: Any = connection.muxed_conn
        await muxed.event_closed.wait()
        self._wake()
