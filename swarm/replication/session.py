"""One log with one peer over one stream: which message may come when, what is owed, what is said next.

Pure: bytes come in through `receive`, events come out of it, and what is to be sent piles up for `take_output`. The
driver (swarm/connection.py) moves the bytes, keeps the clock and loads blocks. What may come when is the table
`MAY_COME`; a known message in the wrong state is misbehaviour, a message of an unknown type is skipped once the session
is open.

Laws: every request gets exactly one answer (block or absent, also after a cancel), so both ends agree on what is in
flight; a block is delivered only if its hash is its name; at most `REQUESTS_IN_FLIGHT_MAX` requests wait to be served;
unsent control bytes are bounded. After `PeerMisbehaved` the session is closed and must be dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from hyperlog.errors import PeerMisbehaved
from hyperlog.ids import BlockId, DiscoveryKey, LogKey, block_id, discovery_key
from hyperlog.lanes import Lane
from swarm.addresses import PeerId
from swarm.discovery.peer_lists import Peers
from swarm.errors import PeerTooSlow
from swarm.limits import CONTROL_BYTES_MAX, GAINED_MAX, REQUESTS_IN_FLIGHT_MAX, SPAN_BYTES_MAX, UNREQUESTED_MAX
from swarm.replication.asked import Asked, TableTalk
from swarm.replication.framing import FrameReader
from swarm.replication.handshake import Capability, Role
from swarm.replication.messages import (
    BODY_BYTES_MAX,
    HANDSHAKE_BYTES_MAX,
    VERSION,
    Absent,
    Block,
    Bye,
    Cancel,
    Challenge,
    Exchange,
    Hello,
    Message,
    Ping,
    Pong,
    Proof,
    Reason,
    Request,
    Type,
    Wanted,
    Why,
    decode_block,
    decode_message,
    encode_block,
    encode_message,
)
from swarm.replication.session_events import (
    BlockCame,
    BlockRefused,
    BlocksAsked,
    Ended,
    Event,
    ExchangeCame,
    HoldsTold,
    Opened,
    TableTold,
)
from swarm.replication.session_states import MAY_COME, State
from swarm.replication.table_messages import Gained, Have, Hurry, KnowTable, Run
from swarm.replication.tables import Bits, Table, TableId, numbers_of

NUMBERS: Final = 1 << 32
_BLOCK: Final = int(Type.BLOCK)


class Session:
    """Made by `initiate` or `respond`."""

    def __init__(self, role: Role, local: PeerId, remote: PeerId, nonce: bytes, decoy: bytes) -> None:
        self.role = role
        self.state = State.HELLO_AWAITED
        self.log: LogKey | None = None
        self._find_log: Callable[[DiscoveryKey], LogKey | None] = lambda _: None
        self.initiator, self._responder = (local, remote) if role is Role.INITIATOR else (remote, local)
        self._nonce = nonce
        self._decoy = decoy
        self._capability: Capability | None = None
        self._frames = FrameReader(HANDSHAKE_BYTES_MAX, unknown_cap=0)
        self._output: list[bytes] = []
        self._output_bytes = 0
        self._events: list[Event] = []
        self._next_number = 0
        self._owed: dict[int, Wanted] = {}
        self._asked = Asked()
        self._tables = TableTalk()
        self._unrequested = 0

    @classmethod
    def initiate(cls, log: LogKey, *, local: PeerId, remote: PeerId, nonce: bytes) -> Session:
        """The end that opened the stream, for `log`. `nonce`: 32 fresh bytes."""
        session = cls(Role.INITIATOR, local, remote, nonce, nonce)
        session.log = log
        session.state = State.CHALLENGE_AWAITED
        return session

    @classmethod
    def respond(
        cls,
        find_log: Callable[[DiscoveryKey], LogKey | None],
        *,
        local: PeerId,
        remote: PeerId,
        nonce: bytes,
        decoy: bytes,
    ) -> Session:
        """The end that accepted the stream. `decoy`: 32 random bytes that stand in for the key of an unknown log."""
        session = cls(Role.RESPONDER, local, remote, nonce, decoy)
        session._find_log = find_log
        session._send(Challenge(nonce))
        return session

    # ------------------------------------------------------------------------------------------------ in and out

    @property
    def owed_count(self) -> int:
        """Requests of ours without an answer."""
        return len(self._owed)

    @property
    def asked_count(self) -> int:
        """Requests of the peer that wait to be served."""
        return len(self._asked)

    @property
    def asked_lane(self) -> Lane | None:
        """The most urgent lane in which a request of the peer waits."""
        return self._asked.first_lane()

    @property
    def bytes_held(self) -> int:
        """What the peer makes this end keep: part of a frame, and answers it has not taken."""
        return self._frames.bytes_held + self._output_bytes

    @property
    def has_output(self) -> bool:
        return bool(self._output)

    @property
    def is_between_frames(self) -> bool:
        return self._frames.is_between_frames

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """What `data` means, in order. Raises `PeerMisbehaved`, or `PeerTooSlow` when it does not read its answers."""
        try:
            for frame in self._frames.feed(data):
                if self.state is State.CLOSED:
                    continue  # to the end of `data`, or what comes next would be read from the middle of a frame
                if frame.type == _BLOCK and self.state is State.OPEN:
                    self._on_block(*decode_block(frame.body))  # what comes most often, without a detour
                    continue
                message = decode_message(frame)
                if message is not None:
                    self._accept(message)
                elif self.state is not State.OPEN:
                    raise PeerMisbehaved(f"frame of unknown type {frame.type} while {self.state}")
        except (PeerMisbehaved, PeerTooSlow):
            self.state = State.CLOSED
            raise
        events, self._events = self._events, []
        return events

    def take_output(self) -> bytes:
        """All frames that wait to be sent; empty when there are none."""
        data = b"".join(self._output)
        self._output.clear()
        self._output_bytes = 0
        return data

    # ----------------------------------------------------------------------------------------------- things to say

    def request(
        self, blocks: Sequence[tuple[BlockId, int]], lane: Lane = Lane.MISS, *, is_patient: bool = False
    ) -> list[int]:
        """Ask for blocks of at most so many bytes each; the numbers of the requests. The caller keeps to the window."""
        wanted = tuple([self._owe(block, bytes_max, lane, is_patient) for block, bytes_max in blocks])
        self._send(Request(wanted))
        return [one.number for one in wanted]

    def request_run(self, table: Table, first: int, count: int, lane: Lane, *, is_patient: bool = False) -> list[int]:
        """Ask for consecutive blocks of a table that both ends have told of; the numbers of the requests."""
        slot = self._tables.slot(table.id)
        assert slot is not None
        if self._next_number + count > NUMBERS:
            self._next_number = 0
        places = range(first, first + count)
        numbers = [self._owe(table.block(at), table.size(at), lane, is_patient).number for at in places]
        self._send(Run(lane, is_patient, slot, ((numbers[0], first, count),)))
        return numbers

    def _owe(self, block: BlockId, bytes_max: int, lane: Lane, is_patient: bool) -> Wanted:
        assert len(self._owed) < REQUESTS_IN_FLIGHT_MAX
        number = self._next_number
        self._next_number = (number + 1) % NUMBERS
        wanted = self._owed[number] = Wanted(number, block, bytes_max, lane, is_patient)
        return wanted

    def numbers_of(self, block: BlockId) -> list[int]:
        """The requests for a block without an answer: looked for, as they are needed once in a thousand times."""
        return [number for number, wanted in self._owed.items() if wanted.block == block]

    def hurry(self, number: int, lane: Lane) -> None:
        """A request is more urgent now."""
        if self.state is State.OPEN and number in self._owed:
            self._send(Hurry(lane, (number,)))

    def tell_table(self, table: Table) -> bool:
        """Say that we know a table, once. False when the session has no room for another."""
        if self.state is not State.OPEN or self._tables.slot(table.id) is not None:
            return self.state is State.OPEN
        if not self._tables.has_room:
            return False
        self._tables.tell(table)
        self._send(KnowTable(table.id, len(table)))
        return True

    def shares_table(self, table: TableId) -> bool:
        """Whether both ends have told of the table."""
        return self._tables.slot(table) is not None and self._tables.has_told(table)

    def tell_holds(self, table: TableId, bits: Bits) -> None:
        """Say all that we hold of a table that both ends have told of."""
        slot = self._tables.slot(table)
        assert slot is not None
        if self.state is State.OPEN:
            for first, piece in bits.spans(SPAN_BYTES_MAX):
                self._send(Have(slot, first, piece))

    def tell_gained(self, table: TableId, numbers: Sequence[int]) -> None:
        """Say what we hold of a table since we told it last."""
        slot = self._tables.slot(table)
        assert slot is not None
        if self.state is State.OPEN:
            for start in range(0, len(numbers), GAINED_MAX):
                self._send(Gained(slot, tuple(numbers[start : start + GAINED_MAX])))

    def cancel(self, number: int) -> None:
        """No longer wanted. It stays in flight until the peer answers, one way or the other."""
        if self.state is State.OPEN and number in self._owed:
            self._send(Cancel((number,)))

    def send_exchange(self, frame: bytes) -> None:
        if self.state is State.OPEN:
            self._send(Exchange(frame))

    def send_peers(self, peers: Peers) -> None:
        if self.state is State.OPEN:
            self._send(peers)

    def ping(self, token: int) -> None:
        if self.state is State.OPEN:
            self._send(Ping(token))

    def say_bye(self, reason: Reason) -> None:
        """Say why, and close: nothing that comes afterwards is looked at."""
        if self.state is not State.CLOSED:
            self._send(Bye(reason))
            self.close()

    def close(self) -> None:
        """Look at nothing that comes afterwards, and say nothing."""
        self.state = State.CLOSED

    def next_asked(self, lane: Lane | None = None) -> Wanted | None:
        """The oldest of the peer's most urgent requests, or of a lane. To be answered: `serve` or `refuse`."""
        return self._asked.pop(lane) if self.state is State.OPEN else None

    def serve(self, wanted: Wanted, payload: bytes) -> None:
        """Answer a request with the block's stored bytes."""
        self._asked.unanswered.discard(wanted.number)
        if self.state is not State.OPEN:
            return
        if len(payload) > wanted.bytes_max:
            self._send(Absent(((wanted.number, Why.TOO_LARGE),)))
        else:
            self._put(*encode_block(wanted.number, payload))

    def refuse(self, wanted: Wanted, why: Why) -> None:
        """Answer a request without its block."""
        self._asked.unanswered.discard(wanted.number)
        if self.state is State.OPEN:
            self._send(Absent(((wanted.number, why),)))

    # ------------------------------------------------------------------------------------------ messages from the peer

    def _send(self, message: Message) -> None:
        if self.state is State.CLOSED:
            return  # the swarm learns a moment later that the session is over, and then asks elsewhere
        self._put(encode_message(message))

    def _put(self, *parts: bytes) -> None:
        self._output += parts
        for part in parts:
            self._output_bytes += len(part)

    def _accept(self, message: Message) -> None:
        if not isinstance(message, MAY_COME[self.state]):
            raise PeerMisbehaved(f"{type(message).__name__} while {self.state}")
        match message:
            case Hello():
                self._on_hello(message)
            case Challenge(nonce):
                self._on_challenge(nonce)
            case Proof(tag):
                self._on_proof(tag)
            case Bye(reason):
                self._end(reason)
            case Ping(token):
                self._send(Pong(token))
                self._check_output()
            case Exchange(frame):
                self._events.append(ExchangeCame(frame))
            case Request(wanted):
                self._on_request(wanted)
            case Run():
                self._on_request(self._tables.expand(message))
            case Hurry(lane, numbers):
                self._asked.hurry(numbers, lane)
            case Cancel(numbers):
                self._on_cancel(numbers)
            case Peers():
                self._events.append(message)
            case KnowTable(table):
                self._tables.hear(message)
                self._events.append(TableTold(table))
            case Have(slot, first, bits):
                self._on_holds(slot, tuple(numbers_of(first, bits)))
            case Gained(slot, numbers):
                self._on_holds(slot, numbers)
            case Block():
                self._on_block(*message)
            case Absent(answers):
                for number, why in answers:
                    self._on_absent(number, why)

    def _end(self, reason: Reason) -> None:
        self.state = State.CLOSED
        self._events.append(Ended(reason))

    def _on_hello(self, hello: Hello) -> None:
        if hello.version != VERSION:
            self.say_bye(Reason.VERSION)
            self._events.append(Ended(Reason.VERSION))
            return
        if hello.nonce == self._nonce:
            raise PeerMisbehaved("our own nonce came back")
        self.log = self._find_log(hello.log)
        self._capability = self._agree(self.log, hello.log, hello.nonce, self._nonce)
        self.state = State.PROOF_AWAITED

    def _on_challenge(self, nonce: bytes) -> None:
        assert self.log is not None
        self._capability = self._agree(self.log, discovery_key(self.log), self._nonce, nonce)
        self._send(Hello(VERSION, discovery_key(self.log), self._nonce))
        self._send(Proof(self._capability.tag(Role.INITIATOR)))
        self.state = State.PROOF_AWAITED

    def _agree(self, key: LogKey | None, log: DiscoveryKey, initiator: bytes, responder: bytes) -> Capability:
        return Capability(
            key,
            log,
            initiator=self.initiator,
            responder=self._responder,
            initiator_nonce=initiator,
            responder_nonce=responder,
            decoy=self._decoy,
        )

    def _on_proof(self, tag: bytes) -> None:
        assert self._capability is not None
        if self.role is Role.INITIATOR:
            if not self._capability.accepts(Role.RESPONDER, tag):
                raise PeerMisbehaved("a proof that does not fit")
        elif not self._capability.accepts(Role.INITIATOR, tag):
            self.say_bye(Reason.REFUSED)
            self._events.append(Ended(Reason.REFUSED))
            return
        else:
            self._send(Proof(self._capability.tag(Role.RESPONDER)))
        assert self.log is not None
        self.state = State.OPEN
        self._frames.allow(BODY_BYTES_MAX)
        self._events.append(Opened(self.log))

    def _on_request(self, wanted: Iterable[Wanted | int]) -> None:
        for one in wanted:
            number = one if isinstance(one, int) else one.number
            if number in self._asked.unanswered:
                raise PeerMisbehaved(f"request {number} twice")
            if isinstance(one, int):
                self._send(Absent(((number, Why.NOT_HELD),)))
            elif len(self._asked.unanswered) >= REQUESTS_IN_FLIGHT_MAX:
                self._send(Absent(((number, Why.BUSY),)))
            else:
                self._asked.add(one)
                continue
            self._check_output()
        self._events.append(BlocksAsked())

    def _on_cancel(self, numbers: Sequence[int]) -> None:
        for one in self._asked.cancel(numbers):
            self.refuse(one, Why.CANCELLED)
        self._check_output()

    def _on_holds(self, slot: int, numbers: Sequence[int]) -> None:
        table = self._tables.ours(self._tables.heard(slot).table)
        if table is None:
            raise PeerMisbehaved("what is held of a table that we did not tell of")
        if numbers and max(numbers) >= len(table):
            raise PeerMisbehaved("a block beyond its table")
        self._events.append(HoldsTold(table.id, numbers))

    def _on_block(self, number: int, payload: bytes) -> None:
        wanted = self._owed.pop(number, None)
        if wanted is None:
            self._count_unrequested()
            return
        if len(payload) > wanted.bytes_max:
            raise PeerMisbehaved("a block longer than was asked for")
        if block_id(payload) != wanted.block:
            raise PeerMisbehaved("a block that is not what its name says")
        self._events.append(BlockCame(number, wanted.block, payload))

    def _on_absent(self, number: int, why: Why) -> None:
        wanted = self._owed.pop(number, None)
        if wanted is None:
            self._count_unrequested()
        else:
            self._events.append(BlockRefused(number, wanted.block, why))

    def _count_unrequested(self) -> None:
        self._unrequested += 1
        if self._unrequested >= UNREQUESTED_MAX:
            raise PeerMisbehaved("answers that nobody asked for")

    def _check_output(self) -> None:
        if self._output_bytes > CONTROL_BYTES_MAX:
            raise PeerTooSlow("the peer sends requests but does not read the answers")
