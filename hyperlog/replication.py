"""Two replicas of one log come to agree: one end of it, without any input or output of its own.

Whoever has the connection calls `receive` with each frame that came, sends what `next_frame` gives until it gives None,
and calls `close` at the end; `wake` tells it that `next_frame` has something again. Messages: messages.py.

Each end says how long its feeds are and which entry each ends with. Who pulls requests what it lacks, all at once, and
the other sends it in runs, in an order in which links come first: so who pulls waits one round trip and a half, however
many entries there are. Nothing is believed: entries prove themselves, and a claim to hold more only makes us wait for
that peer. Ends that differ at one length mean a fork; the two sides then halve the distance until one can show the
first entry that differs, and both keep the proof, which is passed on to every peer that is met. Proofs come before
entries, so two replicas that are done agree on what counts.

An exchange is *done* when each end has all that it wants of the state that the other last told. A live one goes on:
new entries are told as they come. What a peer can make us hold or do is bounded (limits.py, `PEER_…`, `WAITING_…`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hyperlog.comparing import Comparing
from hyperlog.entry import decode_claim
from hyperlog.errors import Corrupt, ForkDetected, ModesDiffer, NotWriter, OutOfOrder, PeerMisbehaved, StoreDamaged
from hyperlog.forks import ForkProof
from hyperlog.giving import Giving
from hyperlog.ids import EntryId, WriterKey
from hyperlog.limits import FRAME_ITEMS_MAX, LINK_ATTEMPTS_MAX, PEER_FEEDS_MAX, PEER_PROOFS_MAX, PEER_REFUSED_MAX
from hyperlog.messages import (
    VERSION,
    Absent,
    Branch,
    Compare,
    Done,
    Entries,
    Excuse,
    Fork,
    Hello,
    Message,
    Request,
    Runs,
    Sample,
    Sent,
    State,
    Want,
    decode_message,
    encode_message,
)
from hyperlog.own_feed import OwnFeedHold
from hyperlog.replica import Log
from hyperlog.selection import ALL, Fetching, Selection
from hyperlog.waiting import Waiting

_STOPPED = "the exchange was closed"


@dataclass(frozen=True, slots=True)
class ReplicationStats:
    """What went through one exchange."""

    frames_in: int
    frames_out: int
    bytes_in: int
    bytes_out: int
    entries_in: int
    entries_out: int
    entries_refused: int


class Replication:
    """One end of an exchange about `log`. Not for several threads; the log's commits on others only call `wake`."""

    def __init__(
        self,
        log: Log,
        *,
        pull: bool = True,
        push: bool = True,
        live: bool = False,
        selection: Selection = ALL,
        fetching: Fetching | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._log = log
        self._pull, self._push, self._live = pull, push, live
        self._selection = selection
        self._fetching = Fetching() if fetching is None else fetching
        self._wake = wake
        self._out: deque[Message] = deque([Hello(VERSION, pull, push, live)])
        self._giving = Giving(log)
        self._waiting = Waiting()
        self._comparing = Comparing(log)
        self._early_proofs: deque[bytes] = deque(maxlen=PEER_PROOFS_MAX)
        self._peer: Hello | None = None
        self._peer_feeds: dict[WriterKey, tuple[int, EntryId]] = {}
        self._peer_forks: dict[WriterKey, int] = {}
        self._peer_knows = False
        """Whether a whole state of the peer has come."""
        self._told: dict[WriterKey, tuple[int, EntryId]] = {}
        self._news_out = 0
        self._news_in = 0
        self._requests_out = 0
        self._requests_answered = 0
        self._asked: dict[WriterKey, int] = {}
        """Up to which seq each feed was requested and is still to come."""
        self._tries: dict[WriterKey, int] = {}
        self._sampled: dict[WriterKey, int] = {}
        self._wanted_ids = False
        self._policy = log.policy
        self._done_out = -1
        self._done_in = -1
        self._changed = False
        self._closed = False
        self._hold = OwnFeedHold(log)
        self._counts = [0] * 7
        self._fetching.join(self, self._look_again)
        self._ends = [log.subscribe(self._on_commit), log.events.on_fork(self._on_fork)]
        self._tell_state(full=True)

    # ------------------------------------------------------------------------------------------------ for the driver

    @property
    def is_waiting(self) -> bool:
        """Whether the peer owes an answer to a request."""
        return self._requests_answered < self._requests_out

    @property
    def has_all(self) -> bool:
        """Whether this end has all it wants of what the peer told, which is news since the last `ask`."""
        return self._done_out == self._news_in and not self.is_waiting and not self._changed

    @property
    def is_done(self) -> bool:
        """Whether both ends have all they want of what the other last told, and nothing is left to be sent."""
        return self.has_all and self._done_in == self._news_out and not self._out and not self._giving.is_busy

    @property
    def is_live(self) -> bool:
        """Whether the exchange goes on when it is done: both ends asked for that."""
        return self._live and (self._peer is None or self._peer.live)

    @property
    def bytes_held(self) -> int:
        """About what the peer makes this end keep: entries that wait for others, messages that were not sent yet."""
        return self._waiting.bytes_held + len(self._out) * 256

    def statistics(self) -> ReplicationStats:
        return ReplicationStats(*self._counts)

    def ask(self) -> None:
        """Ask a live peer for its news: requests are answered after these, so an empty one will do."""
        self._say(Request(()))
        self._requests_out += 1

    def close(self) -> None:
        """Give up what this exchange holds: its claims on feeds, its listeners, and the stop of appends."""
        if self._closed:
            return
        self._closed = True
        for end in self._ends:
            end()
        self._fetching.leave(self)
        self._waiting.drop()
        self._hold.doubt()

    def doubt(self) -> None:
        """The peer is late with what it claims: appends no longer wait for it."""
        self._hold.doubt()

    def receive(self, frame: bytes) -> None:
        """Take a frame that the peer sent. Blocks for the store where entries come.

        Raises `PeerMisbehaved` (drop the peer), `ModesDiffer`, and what our own store raises.
        """
        assert not self._closed, _STOPPED
        self._counts[0] += 1
        self._counts[2] += len(frame)
        message = decode_message(frame)
        if isinstance(message, Hello) != (self._peer is None):
            raise PeerMisbehaved("a greeting at the wrong time, or none")
        try:
            self._take(message)
        except StoreDamaged:
            raise
        except Corrupt as error:
            raise PeerMisbehaved(f"what a peer sent is not right: {error.message}") from error
        self._settle()

    def next_frame(self) -> bytes | None:
        """The next frame to send; None when there is nothing to send now."""
        assert not self._closed, _STOPPED
        # What changes before the peer's first state has come waits for that, so that it is told at all.
        if self._changed and self._peer_knows:
            self._changed = False
            if self._log.policy is not self._policy:
                # A limit that fell or rose changes what is lacking.
                self._policy, self._done_out = self._log.policy, -1
            if self.is_live or self._log.policy.limits:
                self._tell_state(full=False)
            self._settle()
        message = self._out.popleft() if self._out else self._giving.next_message()
        if message is None:
            return None
        frame = encode_message(message)
        self._counts[1] += 1
        self._counts[3] += len(frame)
        if isinstance(message, Runs):
            self._counts[5] += self._giving.entries_last
        return frame

    # -------------------------------------------------------------------------------------------------- what arrives

    def _take(self, message: Message) -> None:
        match message:
            case Hello():
                self._on_hello(message)
            case State():
                self._on_state(message)
            case Request(ranges):
                self._giving.ask_runs(ranges if self._push else ())
            case Sample(ranges):
                self._giving.ask_samples(ranges if self._push else ())
            case Want(ids):
                self._giving.ask_ids(ids if self._push else ())
            case Runs(runs):
                self._on_runs(runs)
            case Entries(entries):
                self._on_entries(entries)
            case Excuse(claim):
                if self._waiting.is_wanted(decode_claim(claim).id):
                    self._log.add_excuse(claim)
                    self._retry()
            case Absent(ids):
                self._waiting.gone(ids)
            case Fork(proof):
                self._news_in += 1
                self._on_proof(proof)
            case Compare(writer, ids):
                self._say(self._comparing.answer(writer, ids))
            case Branch(claim):
                made = self._comparing.conclude(claim)
                if made is not None:
                    self._log.add_fork(made)
            case Sent(requests):
                self._on_sent(requests)
            case Done(news):
                if news > self._news_out:
                    raise PeerMisbehaved("a peer is done with news that was not sent")
                self._done_in = news

    def _on_hello(self, hello: Hello) -> None:
        self._peer = hello
        if not (self._pull and hello.pushes) and not (self._push and hello.pulls):
            raise ModesDiffer("both ends only give, or both only take", "let one of them do the other, or both")
        self._pull = self._pull and hello.pushes

    def _on_state(self, state: State) -> None:
        for writer, length, last in state.feeds:
            self._tries.pop(writer, None)
            if length:
                self._peer_feeds[writer] = (length, last)
            else:
                self._peer_feeds.pop(writer, None)
        self._peer_forks.update(state.forks)
        if len(self._peer_feeds) + len(self._peer_forks) > PEER_FEEDS_MAX:
            raise PeerMisbehaved("a peer names more feeds than a log can have")
        self._news_in += 1
        if not state.last_page:
            return
        self._peer_knows = True
        for writer, proof in self._log.forks().items():
            if self._peer_forks.get(writer, proof.seq + 1) > proof.seq:
                self._tell_fork(proof)
        for writer, length, _ in state.feeds:
            self._compare(writer, length)

    def _compare(self, writer: WriterKey, length: int) -> None:
        """Start looking for the fork when the peer's end of a feed is another than the entry here."""
        held = self._log.vector().get(writer, 0)
        if 0 < length <= held and self._log.id_at(writer, length - 1) != self._peer_feeds[writer][1]:
            self._say(self._comparing.start(writer, length))

    def _on_runs(self, runs: Sequence[bytes]) -> None:
        if self._add(runs):
            self._retry()

    def _add(self, runs: Sequence[bytes]) -> bool:
        """Keep the entries of `runs`; whether any is new: they may have to wait, or not be for us."""
        own = self._hold.length
        try:
            count = self._log.add_runs(runs)
        except OutOfOrder as error:
            if len(runs) > 1:
                return max([self._add((run,)) for run in runs])
            missing = self._waiting.put(runs, error)
            if missing is not None:
                self._say(Want((missing,)))
                self._requests_out += 1
            return False
        except (ForkDetected, NotWriter):
            # Limits differ while proofs and revocations are on their way; where the histories differ, the ends tell.
            self._counts[6] += len(runs)
            if self._counts[6] > PEER_REFUSED_MAX:
                raise PeerMisbehaved("a peer sends entries again and again that may not be kept") from None
            return False
        self._counts[4] += count
        if self._hold.length > own:
            self._hold.entries_came()
        return count > 0

    def _on_proof(self, proof: bytes) -> None:
        """Keep a fork proof; one that came before its writer's admission waits for that."""
        try:
            self._log.add_fork(proof)
        except NotWriter:
            self._early_proofs.append(proof)

    def _retry(self) -> None:
        """Try again what waits, until nothing more fits."""
        for proof in [self._early_proofs.popleft() for _ in range(len(self._early_proofs))]:
            self._on_proof(proof)
        again = True
        while again:
            again = False
            for runs in self._waiting.take_all():
                again = self._add(runs) or again

    def _on_entries(self, entries: Sequence[tuple[bytes, ...]]) -> None:
        """Keep single entries; one that was wanted as a link comes with its feed."""
        for parts in () if self._selection.is_all else entries:
            try:
                self._log.add_sparse(parts)
            except NotWriter:
                self._counts[6] += 1
                continue
            self._counts[4] += 1

    def _on_sent(self, requests: int) -> None:
        if not self._requests_answered <= requests <= self._requests_out:
            raise PeerMisbehaved("a peer answered requests that were not made")
        self._requests_answered = requests
        if requests == self._requests_out:
            self._waiting.drop()
            held = self._log.vector()
            for writer, end in self._asked.items():
                # What was promised and did not come is asked for a few times, then when the peer tells a new state.
                if held.get(writer, 0) < end:
                    self._tries[writer] = self._tries.get(writer, 0) + 1
            self._asked.clear()
            self._fetching.release(self)

    # ------------------------------------------------------------------------------------------------- what is wanted

    def _settle(self) -> None:
        """Ask for what is lacking, and say when nothing is."""
        if not self._peer_knows:
            return
        lacking = self._plan() if self._pull and self._done_out != self._news_in else 0
        self._hold.update(self._asked if self.is_waiting else {})
        if (
            not lacking
            and not (self.is_waiting or self._comparing.is_busy or self._changed)
            and self._done_out != self._news_in
        ):
            self._done_out = self._news_in
            self._confirm_own_feed()
            self._say(Done(self._news_in))

    def _plan(self) -> int:
        """Request what is lacking; how many feeds are lacking still, requested here or by another exchange."""
        if not self._selection.is_all:
            self._plan_samples()
            return 0
        held, limit = self._log.vector(), self._log.policy.limit
        ranges: list[tuple[WriterKey, int, int]] = []
        lacking = 0
        for writer, (length, _) in self._peer_feeds.items():
            start, end = held.get(writer, 0), min(length, limit(writer))
            if start >= end or self._tries.get(writer, 0) >= LINK_ATTEMPTS_MAX:
                continue
            lacking += 1
            if writer not in self._asked and self._fetching.claim(writer, self):
                self._asked[writer] = end
                ranges.append((writer, start, end))
        for at in range(0, len(ranges), FRAME_ITEMS_MAX):
            self._say(Request(tuple(ranges[at : at + FRAME_ITEMS_MAX])))
            self._requests_out += 1
        return lacking

    def _plan_samples(self) -> None:
        lengths = {writer: length for writer, (length, _) in self._peer_feeds.items()}
        ranges = [
            (writer, max(start, self._sampled.get(writer, 0)), end)
            for writer, start, end in self._selection.ranges(lengths)
            if self._sampled.get(writer, 0) < end
        ]
        self._sampled.update((writer, end) for writer, _, end in ranges)
        for at in range(0, len(ranges), FRAME_ITEMS_MAX):
            self._say(Sample(tuple(ranges[at : at + FRAME_ITEMS_MAX])))
            self._requests_out += 1
        ids = [] if self._wanted_ids else [each for each in self._selection.ids if not self._log.has(each)]
        self._wanted_ids = True
        for at in range(0, len(ids), FRAME_ITEMS_MAX):
            self._say(Want(tuple(ids[at : at + FRAME_ITEMS_MAX])))
            self._requests_out += 1

    def _confirm_own_feed(self) -> None:
        """A peer that holds all of the own feed, and nothing newer, shows that it is current."""
        writer = self._log.writer
        if writer is not None and self._pull and self._peer_feeds.get(writer) == self._log.ends().get(writer, (0, b"")):
            self._log.confirm()

    # --------------------------------------------------------------------------------------------------- what is told

    def _tell_state(self, *, full: bool) -> None:
        ends = self._log.ends()
        feeds = [(writer, *end) for writer, end in ends.items() if full or self._told.get(writer) != end]
        feeds += [(writer, 0, EntryId(bytes(32))) for writer in self._told if writer not in ends]
        if not feeds and not full:
            return
        forks = [(writer, proof.seq) for writer, proof in self._log.forks().items()]
        pages = max(1, -(-len(feeds) // FRAME_ITEMS_MAX), -(-len(forks) // FRAME_ITEMS_MAX))
        for page in range(pages):
            part = slice(page * FRAME_ITEMS_MAX, (page + 1) * FRAME_ITEMS_MAX)
            self._say(State(page == pages - 1, tuple(feeds[part]), tuple(forks[part])))
            self._news_out += 1
        self._told = ends

    def _tell_fork(self, proof: ForkProof) -> None:
        self._peer_forks[proof.writer] = proof.seq
        self._say(Fork(proof.encode()))
        self._news_out += 1

    def _on_fork(self, proof: ForkProof) -> None:
        if self._peer_knows and self._peer_forks.get(proof.writer, proof.seq + 1) > proof.seq:
            self._tell_fork(proof)
        self._look_again()

    def _on_commit(self, _: object) -> None:
        self._look_again()

    def _look_again(self) -> None:
        self._changed = True
        self._wake()

    def _say(self, message: Message | None) -> None:
        if message is not None:
            self._out.append(message)
