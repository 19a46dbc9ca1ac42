"""Laws that show on the wire: what each honest node reads and writes is followed by a second reader of the protocol.

It knows messages and limits and nothing of the code that obeys them. A breach is noted and the world goes on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import trio

from hyperlog import messages as exchange
from hyperlog.errors import PeerMisbehaved
from hyperlog.hashing import blake3_256
from hyperlog.ids import BlockId, block_id
from hyperlog.lanes import Lane
from hyperlog.limits import BLOCK_BYTES_MAX
from swarm.addresses import PeerAddress, PeerId
from swarm.discovery.limits import TRIALS_MAX
from swarm.limits import (
    ASKED_PEERS_MAX,
    CONTROL_BYTES_MAX,
    DIALS_MAX,
    REQUEST_BYTES_IN_FLIGHT_MAX,
    REQUESTS_IN_FLIGHT_MAX,
    STREAMS_PER_PEER_MAX,
)
from swarm.network import SESSIONS, NetworkSetup
from swarm.replication.framing import FrameReader
from swarm.replication.messages import (
    BODY_BYTES_MAX,
    Absent,
    Block,
    Exchange,
    Message,
    Ping,
    Pong,
    Request,
    Wanted,
    decode_message,
)
from swarm.replication.table_messages import KnowTable, Run
from swarm.replication.tables import Table, TableId
from swarm.testing import MemoryInternet, MemoryNetwork, MemoryStream, Pipe

_BREACHES_MAX: Final = 20
_SHOWN: Final = 160
_CONTROL_FRAME_BYTES: Final = 7
"""The shortest answer there is (pong); a node may owe as many of them as fit into its bound."""


@dataclass
class Watch:
    """What was seen so far. `truth`: every block there is; `names`: of honest nodes, by peer."""

    truth: set[BlockId] = field(default_factory=set)
    tables: dict[TableId, Table] = field(default_factory=dict)
    names: dict[PeerId, int] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    trace: Callable[[str], None] | None = None
    _digest: bytes = b""
    open_streams: set[WatchedStream] = field(default_factory=set)
    lied: dict[tuple[int, int, PeerId], float] = field(default_factory=dict)
    """When (node, its how manyth life) first read a wrong block of a peer."""

    def breach(self, law: str, what: str) -> None:
        """Note that `law` was broken."""
        line = f"{law}: at {trio.current_time():.3f} s {what}"
        self.note(f"BREACH {line}")
        if len(self.breaches) < _BREACHES_MAX:
            self.breaches.append(line)

    def note(self, what: str) -> None:
        """Something that must be the same whenever the world runs again."""
        line = f"{trio.current_time():10.4f} {what}"
        self._digest = blake3_256(self._digest + line.encode())
        self.counts["notes"] += 1
        if self.trace is not None:
            self.trace(line)

    @property
    def digest(self) -> str:
        return self._digest.hex()


class WatchedStream(MemoryStream):
    """A stream of an honest node; what arrives may come in other pieces than it was sent in."""

    def __init__(
        self, remote: PeerId, incoming: Pipe, outgoing: Pipe, network: WatchedNetwork, *, is_inbound: bool
    ) -> None:
        super().__init__(remote, incoming, outgoing)
        self._network = network
        self._watch = network.watch
        self._name = f"{network.name}.{network.next_stream()}"
        self._said = FrameReader(BODY_BYTES_MAX)
        self._heard = FrameReader(BODY_BYTES_MAX)
        self._rest = b""
        self._is_broken = False
        self._asked: dict[int, Wanted] = {}
        self._asked_bytes: Counter[Lane] = Counter()
        self._tables: list[TableId] = []
        self._answers_owed = 0
        self._is_inbound = is_inbound
        self._is_served = False
        self._watch.open_streams.add(self)

    async def receive_some(self) -> bytes:
        data = self._rest or await super().receive_some()
        if len(data) > 1 and self._network.chance.random() < 0.1:
            cut = self._network.chance.randrange(1, len(data))
            data, self._rest = data[:cut], data[cut:]
        else:
            self._rest = b""
        self._watch.note(f"{self._name} ◀ {self._peer} {len(data)}")
        if not self._is_broken:
            try:
                for frame in self._heard.feed(data):
                    message = decode_message(frame)
                    self._show("◀", message)
                    self._hear(message)
            except PeerMisbehaved:
                self._is_broken = True  # the node sees the same and drops the peer
        return data

    async def send_all(self, data: bytes) -> None:
        self._watch.note(f"{self._name} ▶ {self._peer} {len(data)}")
        if self._is_inbound and not self._is_served:
            self._is_served = True
            self._network.count_served(self.remote, 1)
        for frame in self._said.feed(data):
            message = decode_message(frame)
            self._show("▶", message)
            self._say(message)
        await super().send_all(data)

    async def close(self) -> None:
        self._watch.open_streams.discard(self)
        if self._is_served:
            self._is_inbound = self._is_served = False
            self._network.count_served(self.remote, -1)
        for wanted in self._asked.values():
            self._network.asked[wanted.block] -= 1
        self._asked.clear()
        await super().close()

    @property
    def _peer(self) -> str:
        return str(self._watch.names.get(self.remote, self.remote[-4:]))

    def _show(self, way: str, message: Message | None) -> None:
        if self._watch.trace is not None:
            what = exchange.decode_message(message.frame) if isinstance(message, Exchange) else message
            self._watch.trace(f"{'':10} {self._name} {way} {self._peer} {str(what)[:_SHOWN]}")

    def _say(self, message: Message | None) -> None:
        watch = self._watch
        match message:
            case Request(wanted):
                self._ask(wanted)
            case KnowTable(table):
                self._tables.append(table)
            case Run(lane, is_patient, slot, runs):
                known = watch.tables[self._tables[slot]]
                for number, first, count in runs:
                    self._ask(
                        Wanted(number + at, known.block(first + at), known.size(first + at), lane, is_patient)
                        for at in range(count)
                    )
            case Block(_, payload):
                self._answers_owed -= 1
                watch.counts["blocks"] += 1
                if block_id(payload) not in watch.truth:
                    watch.breach("truth", f"{self._name} sends a wrong block")
            case Absent(answers):
                self._answers_owed -= len(answers)
            case Pong():
                self._answers_owed -= 1
            case _:
                pass

    def _ask(self, wanted: Iterable[Wanted]) -> None:
        watch = self._watch
        for one in wanted:
            self._asked[one.number] = one
            self._asked_bytes[one.lane] += one.bytes_max
            self._network.asked[one.block] += 1
            if self._network.asked[one.block] > ASKED_PEERS_MAX:
                watch.breach("limits", f"{self._name} asks too many for one block")
            if self._asked_bytes[one.lane] >= REQUEST_BYTES_IN_FLIGHT_MAX + BLOCK_BYTES_MAX:
                watch.breach("limits", f"{self._name} has {self._asked_bytes[one.lane]} bytes in flight")
        if len(self._asked) > REQUESTS_IN_FLIGHT_MAX:
            watch.breach("limits", f"{self._name} has {len(self._asked)} requests in flight")

    def _hear(self, message: Message | None) -> None:
        match message:
            case Request(wanted):
                self._owe(len(wanted))
            case Run(runs=runs):
                self._owe(sum(count for _, _, count in runs))
            case Ping():
                self._owe(1)
            case Block(number, payload):
                wanted_one = self._answered(number)
                if wanted_one is not None and block_id(payload) != wanted_one.block:
                    self._waste()
            case Absent(answers):
                for number, _ in answers:
                    self._answered(number)
            case _:
                pass

    def _owe(self, count: int) -> None:
        self._answers_owed += count
        if self._answers_owed > REQUESTS_IN_FLIGHT_MAX + CONTROL_BYTES_MAX // _CONTROL_FRAME_BYTES:
            self._watch.breach("limits", f"{self._name} owes {self._answers_owed} answers")

    def _answered(self, number: int) -> Wanted | None:
        wanted = self._asked.pop(number, None)
        if wanted is not None:
            self._asked_bytes[wanted.lane] -= wanted.bytes_max
            self._network.asked[wanted.block] -= 1
        return wanted

    def _waste(self) -> None:
        watch, network = self._watch, self._network
        watch.counts["wrong blocks"] += 1
        first = watch.lied.setdefault((network.name, network.life, self.remote), trio.current_time())
        # What another session with the liar has taken off its stream at that very moment is not looked at.
        if trio.current_time() > first:
            watch.breach("waste", f"{self._name} reads another wrong block of {self._peer}")


class WatchedNetwork(MemoryNetwork):
    """The network of an honest node, in one of its lives."""

    def __init__(
        self, internet: MemoryInternet, setup: NetworkSetup, watch: Watch, name: int, life: int, chance: random.Random
    ) -> None:
        super().__init__(internet, setup)
        self.watch = watch
        self.name = name
        self.life = life
        self.chance = chance
        self.asked: Counter[BlockId] = Counter()
        self._served: Counter[PeerId] = Counter()
        self._dials = 0
        self._streams = 0

    def count_served(self, peer: PeerId, change: int) -> None:
        """One more or one less inbound stream of `peer` has been answered and is open."""
        self._served[peer] += change
        if self._served[peer] > STREAMS_PER_PEER_MAX:
            self.watch.breach("limits", f"{self.name} serves {self._served[peer]} streams of one peer")

    def next_stream(self) -> int:
        self._streams += 1
        return self._streams

    async def open_stream(self, address: PeerAddress, protocol: str = SESSIONS) -> MemoryStream:
        if protocol != SESSIONS:
            return await super().open_stream(address, protocol)
        self._dials += 1
        self.watch.counts["dials"] += 1
        if self._dials > DIALS_MAX + TRIALS_MAX:
            self.watch.breach("limits", f"{self.name} dials {self._dials} peers at once")
        try:
            return await super().open_stream(address, protocol)
        finally:
            self._dials -= 1

    def make_stream(
        self, remote: PeerId, incoming: Pipe, outgoing: Pipe, protocol: str, *, is_inbound: bool
    ) -> MemoryStream:
        if protocol != SESSIONS:
            return super().make_stream(remote, incoming, outgoing, protocol, is_inbound=is_inbound)
        return WatchedStream(remote, incoming, outgoing, self, is_inbound=is_inbound)
