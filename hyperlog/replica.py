"""One log as this node holds it: a signed merkle DAG of entries, stored and verified.

Each writer has a gapless feed (seq 0, 1, 2 …, each entry naming the one before), entries link those they come after,
and a local change number orders them as they arrived here. An entry is kept only if it is validly signed for this log,
its writer may write it, it continues its feed, and all it links is here: so what is stored is closed, and a replica's
state is described by one number per writer (the vector).

Everything is synchronous. What adds entries blocks for an fsync and returns when they are on disk *and* the high-water
mark is: then they are acknowledged, and a store that later shows fewer is refused. Inside `grouped` of the store they
are acknowledged together. All else blocks for microseconds (reads) or as long as it computes. Safe for several threads:
`lock` is held while entries are added, and may be shared with whatever must not see a commit half done.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from hyperlog.batch import Batch
from hyperlog.draft import Draft
from hyperlog.encoding import encode
from hyperlog.entry import Entry, Kind, decode_claim, decode_entry, sign_head
from hyperlog.errors import (
    AppendsHeld,
    Conflict,
    Corrupt,
    ForkDetected,
    HyperError,
    NotWriter,
    Refused,
    RolledBack,
)
from hyperlog.events import Added, Events, Proposal
from hyperlog.feeds import Feed
from hyperlog.forks import ForkProof, decode_fork, own_feed_frozen
from hyperlog.ids import EntryId, LogKey, WriterKey, to_text
from hyperlog.intake import take_entry, take_run
from hyperlog.keys import KeyPair
from hyperlog.limits import ENTRY_LINKS_MAX
from hyperlog.lineage import Lineage
from hyperlog.merkle import root
from hyperlog.run import Run, decode_run
from hyperlog.sparse import check_sparse
from hyperlog.store import Store
from hyperlog.view import LogView
from hyperlog.watermarks import Watermarks
from hyperlog.writers import (
    Grant,
    Operation,
    Policy,
    Revoke,
    Rights,
    Rotate,
    Transfer,
    encode_operation,
)


class Log(LogView):
    """One log of a store. Made by `Logs` (log.py)."""

    def __init__(
        self,
        key: LogKey,
        name: str | None,
        pair: KeyPair | None,
        store: Store,
        marks: Watermarks,
        lineage: Lineage | None = None,
    ) -> None:
        super().__init__(key, store)
        self.name = name
        self.lock = threading.RLock()
        self.events = Events()
        self._pair = pair
        self._marks = marks
        self._lineage = lineage
        self._holds: set[object] = set()
        self.claims_doubted = False
        """Whether a peer claimed newer entries of the own feed and did not send them (replication.py)."""
        self._is_drafting = False
        self._continued = False  # whether the lineage has let the own feed go on; it stays so while we hold the lock
        self._excused = {EntryId(raw[33:]) for raw, _ in store.items(b"k" + key)}
        self._has_sparse = next(store.items(b"d" + key), None) is not None

    @property
    def writer(self) -> WriterKey | None:
        """The key under which this node writes, if it holds one."""
        return None if self._pair is None else self._pair.public

    @property
    def writable(self) -> bool:
        """Whether this node holds a key that may go on writing, as far as it knows."""
        writer = self.writer
        if writer is None:
            return False
        length = self._length(writer)
        return length < self._policy.limit(writer) and bool(
            self._policy.rights(writer, length) or self._policy.open_admission(writer)
        )

    def subscribe(self, listener: Callable[[Sequence[Entry]], None]) -> Callable[[], None]:
        """Call `listener` after each commit with the entries it added; returns what ends that. It must not block."""
        return self.events.on_commit(listener)

    # ------------------------------------------------------------------------------------------------------- writing

    def append(self, value: bytes, *, links: Sequence[EntryId] | None = None, kind: Kind = Kind.VALUE) -> Entry:
        """Sign and keep an entry that links `links`, or else all heads (at most 256).

        Raises `NotFound` (a link that is not here), `NotWriter`, `ForkDetected` (the own feed), `Refused`,
        `RolledBack`, `AppendsHeld`, `StoreFull`.
        """
        with self.batch() as batch:
            identifier = batch.add(value, links=links, kind=kind)
        return self.get(identifier)

    def append_many(self, values: Sequence[bytes], *, kind: Kind = Kind.VALUE) -> list[EntryId]:
        """Append `values`, each after the one before, all or none: one signature, one fsync. Raises as `append`."""
        with self.batch() as batch:
            return [batch.add(value, kind=kind) for value in values]

    @contextlib.contextmanager
    def batch(self) -> Iterator[Batch]:
        """Entries that are kept together when the block is left, or not at all when it raises; holds the lock."""
        with self.lock:
            pair = self._check_may_append()
            with self._draft() as (draft, events):
                batch = Batch(draft, pair.public, self._default_links(), self._policy, events)
                yield batch
                feed = draft.feed(pair.public)
                if batch.count:
                    feed.signed_length, feed.rights = feed.length, ()
                    feed.signature = sign_head(pair, self.key, feed.length, root(feed.peaks))

    def grant(self, key: WriterKey, rights: Rights = Rights.WRITE, *, label: str = "") -> Entry:
        """Admit a writer. Raises `NotWriter` unless this node is the owner; `Refused` if `key` was dismissed before."""
        if self._policy.limit(key) <= self._length(key):
            raise Refused("this key was dismissed from the log; its feed cannot go on", "admit a new key instead")
        return self._say(Grant(key, rights, label))

    def revoke(self, key: WriterKey, *, length: int | None = None, reason: str = "") -> Entry:
        """Dismiss a writer: of its feed only the first `length` entries count, or else those that are here."""
        if key == self.owner:
            raise Refused("the owner cannot be dismissed", "`hypernode keys rotate` changes the owner's key")
        return self._say(Revoke(key, self._length(key) if length is None else length, reason))

    def transfer(self, key: WriterKey) -> Entry:
        """Make `key` the owner. The log keeps its address; this node may go on writing, but admits nobody any more."""
        if self._policy.limit(key) <= self._length(key):
            raise Refused("this key was dismissed from the log", "choose another key")
        return self._say(Transfer(key))

    def rotate(self, pair: KeyPair) -> Entry:
        """Hand the own feed's rights, ownership included, to `pair`, under which this node writes from here on.

        Use `Logs.rotate`, which keeps the new secret first.
        """
        with self.lock:
            entry = self._say(Rotate(pair.public))
            self.write_as(pair)
            return entry

    def write_as(self, pair: KeyPair) -> None:
        """Write under `pair` from here on (`Logs` keeps the secret)."""
        with self.lock:
            self._pair = pair
            self._continued = False

    def _say(self, operation: Operation) -> Entry:
        return self.append(encode_operation(operation), kind=Kind.SYSTEM)

    def hold_appends(self, token: object) -> Callable[[], None]:
        """Refuse `append` until the returned function is called: newer entries of the own feed are said to exist."""
        self._holds.add(token)
        return lambda: self._holds.discard(token)

    def confirm(self) -> None:
        """The own feed is current: a peer's vector showed nothing newer, or a person says so. See `Lineage`."""
        if self._lineage is not None and not self._lineage.is_confirmed(self.key):
            self._lineage.confirm(self.key)

    # -------------------------------------------------------------------------------------- what comes from elsewhere

    def add(self, encoded: bytes) -> Entry | None:
        """Verify and keep an entry from elsewhere; None when it is held already. Raises as `add_all`."""
        added = self.add_all([encoded])
        return added[0] if added else None

    def add_all(self, encoded: Sequence[bytes]) -> list[Entry]:
        """Verify and keep entries from elsewhere, all or none, in causal order; those held already are passed over.

        Raises `Corrupt` (bad spelling, signature or other log), `NotWriter`, `OutOfOrder` (something it builds on is
        missing) and `ForkDetected`; then the proof of the fork is kept, and the feed counts no further.
        """
        entries = [decode_entry(each) for each in encoded]
        with self.lock, self._keeping_forks(), self._draft() as (draft, events):
            for entry in entries:
                events.propose(Proposal(entry.writer, entry.kind, entry.links, entry.value))
                if take_entry(self._feeds, draft, entry) is None:
                    events.known()
            added = list(draft.ids)
        return [self.get(each) for each in added]

    def add_run(self, encoded: bytes) -> int:
        """Verify and keep the entries of a run (`run`), all or none; how many were new. Raises as `add_all`."""
        return self.add_runs([encoded])

    def add_runs(self, encoded: Sequence[bytes]) -> int:
        """Verify and keep the entries of several runs, in causal order, all or none; how many were new."""
        runs = [decode_run(each) for each in encoded]
        count = 0
        with self.lock, self._keeping_forks(), self._draft() as (draft, events):
            for run in runs:
                held = draft.feed(run.writer).length
                for kind, links, value in run.items[max(0, held - run.start) :] if events.are_wanted else ():
                    events.propose(Proposal(run.writer, kind, links or (), value))
                count += take_run(self._feeds, draft, run)
        return count

    def restore(self, run: Run) -> int:
        """Keep a run that this node's own store held, of any length; how many entries were new. Raises as `add_all`."""
        with self.lock, self._draft() as (draft, _):
            return take_run(self._feeds, draft, run)

    def add_fork(self, encoded: bytes) -> bool:
        """Verify and keep a fork proof; whether it was news. Raises `Corrupt`, `NotWriter` (of an unknown writer)."""
        proof = decode_fork(encoded)
        with self.lock:
            return self._keep_fork(proof)

    def add_excuse(self, encoded: bytes) -> bool:
        """Keep a claim that shows a linked entry not to count, so that the link is met without it.

        It does not count when it lies beyond its feed's limit, or its writer is not admitted, as far as is known here.
        (If it turns out to count after all, it comes with its feed.) Returns whether it was kept. Raises `Corrupt`.
        Whoever calls this sees to it that somebody links the entry: claims are cheap to make.
        """
        claim = decode_claim(encoded)
        if claim.header.log != self.key:
            raise Corrupt("a claim of another log")
        writer, seq = claim.header.writer, claim.header.seq
        if seq < self._policy.limit(writer) and self._is_known(writer):
            return False
        with self.lock:
            self._store.write([(b"k" + self.key + claim.id, encoded)], durable=False)
            self._excused.add(claim.id)
        return True

    def _is_known(self, writer: WriterKey) -> bool:
        """Whether the writer is the first owner or was admitted, as far as is known here."""
        return bytes(writer) == bytes(self.key) or self._policy.open_admission(writer) is not None

    def add_sparse(self, encoded: Sequence[bytes]) -> Entry:
        """Verify and keep an entry without what it builds on, given with its admissions (`sparse`).

        It is found by `get` only: no feed or head counts it. Raises `Corrupt`, `NotWriter`.
        """
        entry = check_sparse(self.key, encoded)
        if not self.counts(entry):
            raise NotWriter("an entry that does not count: its writer was dismissed, or its feed forked before it")
        with self.lock:
            if self._feeds.place(entry.id) is None:
                record = encode(list(encoded))
                self._store.write([(b"d" + self.key + entry.id, record)], durable=True)
                self._has_sparse = True
        return entry

    # -------------------------------------------------------------------------------------------------------- inside

    def _default_links(self) -> tuple[EntryId, ...]:
        return tuple(sorted(self._heads)[:ENTRY_LINKS_MAX])

    def _check_may_append(self) -> KeyPair:
        """The own key pair, if its feed may go on now."""
        pair = self._pair
        if pair is None:
            raise NotWriter("the secret key of this log is not here", "only its author can add to it")
        mark = self._marks.get(self.key)
        if mark is not None and mark.changes > self._state.changes:
            raise RolledBack("this log is behind what it once acknowledged", "fetch it from a peer before you append")
        feed = self._feeds.states.get(pair.public, Feed())
        if self._policy.limit(pair.public) <= feed.length and pair.public in self._authority.forks:
            raise own_feed_frozen(self._authority.forks[pair.public], is_owner=pair.public == self.owner)
        if self._holds:
            raise AppendsHeld("a peer holds newer entries of this node's own feed", "wait until they have arrived")
        if self._lineage is not None and not self._continued:
            self._lineage.check_append(self.key, pair.public, feed.length, feed.last)
            self._continued = True
        return pair

    @contextlib.contextmanager
    def _draft(self) -> Iterator[tuple[Draft, Events]]:
        """A draft that is committed when the block is left, and dropped when it raises."""
        if self._is_drafting:
            raise Conflict("a batch of this log is open on this thread", "finish it first")
        draft = Draft(self._feeds, self._authority, self._policy, self._heads, self._state, self._excused)
        self._is_drafting = True
        try:
            yield draft, self.events
            if draft.ids:
                self._commit(draft)
        except HyperError as error:
            self.events.failed(error)
            raise
        finally:
            self._is_drafting = False
        if draft.ids and self.events.is_anybody_there:
            self.events.committed(Added(tuple(draft.ids), self.get))

    def _commit(self, draft: Draft) -> None:
        """One atomic durable batch, then the marks."""
        puts = draft.finish()
        puts += [(b"h" + self.key + head, b"") for head in draft.heads - self._stored_heads]
        gone = [b"h" + self.key + head for head in self._stored_heads - draft.heads]
        gone += [b"d" + self.key + each for each in draft.ids] if self._has_sparse else []
        self._store.write(puts, gone, durable=True)
        before = self._policy
        self._feeds.states = {**self._feeds.states, **draft.touched}
        self._state, self._heads, self._stored_heads = draft.state, draft.heads, set(draft.heads)
        self._authority, self._policy = draft.authority, draft.policy
        self._marks.advance(self.key, self._state)
        pair = self._pair
        if self._lineage is not None and pair is not None and pair.public in draft.touched:
            feed = draft.touched[pair.public]
            self._lineage.advanced(self.key, pair.public, feed.length, feed.last)
        if self._policy is not before:
            self._limits_changed(before)

    def _limits_changed(self, before: Policy) -> None:
        """Find the heads anew if entries that are held ceased to count, or count again."""
        if self._policy.limits == before.limits:
            return
        self._heads = self._find_heads()
        self._store.write(
            [(b"h" + self.key + head, b"") for head in self._heads - self._stored_heads],
            [b"h" + self.key + head for head in self._stored_heads - self._heads],
            durable=False,
        )
        self._stored_heads = set(self._heads)

    @contextlib.contextmanager
    def _keeping_forks(self) -> Iterator[None]:
        """Keep the proof that a `ForkDetected` from inside carries."""
        try:
            yield
        except ForkDetected as error:
            if error.proof is not None:
                self._keep_fork(decode_fork(error.proof))
            raise

    def _keep_fork(self, proof: ForkProof) -> bool:
        """Keep one proof per writer, the one with the smallest seq."""
        if proof.log != self.key:
            raise Corrupt("a fork proof of another log")
        kept = self._authority.forks.get(proof.writer)
        if kept is not None and kept <= proof.seq:
            return False
        if not self._is_known(proof.writer) and proof.writer not in self._feeds.states:
            # Of a writer who was never admitted there is nothing to freeze; its proofs would fill the disk.
            raise NotWriter(f"a fork proof of writer {to_text(proof.writer)[:12]}…, who is not known to be admitted")
        self._store.write([(b"p" + self.key + proof.writer, proof.encode())], durable=True)
        before = self._policy
        self._authority = self._authority.copy()
        self._authority.forks[proof.writer] = proof.seq
        self._policy = self._authority.policy()
        self._limits_changed(before)
        self.events.forked(proof)
        return True
