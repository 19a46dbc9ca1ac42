"""Entries about to be kept: built on the committed state, written in one atomic batch or not at all.

A draft checks what each entry must satisfy by itself and with what came before it (fields, links, rights of its
writer); whoever fills it has checked signatures. Entries of one draft may link and admit each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from hyperlog.entry import Kind, check_fields, encode_header
from hyperlog.errors import FeedFrozen, MissingLink, NotFound, NotWriter, Refused
from hyperlog.feeds import (
    LEVEL_STEP,
    Feed,
    Feeds,
    change_key,
    encode_change,
    encode_record,
    tree_key,
)
from hyperlog.hashing import blake3_256
from hyperlog.ids import EntryId, LogKey, WriterKey, to_text
from hyperlog.limits import WRITERS_MAX
from hyperlog.merkle import node, root
from hyperlog.watermarks import Mark
from hyperlog.writers import (
    Operation,
    Policy,
    Rights,
    Rotate,
    Statement,
    admission_of,
    decode_operation,
    work_out,
)

_STEP_MASK: Final = LEVEL_STEP - 1
_SYSTEM: Final = int(Kind.SYSTEM)
Puts = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Authority:
    """The system entries of a log and who used which admission: what `work_out` needs, as far as it is known."""

    log: LogKey
    statements: dict[EntryId, Statement] = field(default_factory=dict)
    admitted: dict[EntryId, WriterKey] = field(default_factory=dict)
    """Every admission ever seen, in effect or not, and whom it admits."""
    uses: dict[tuple[WriterKey, int], tuple[EntryId, ...]] = field(default_factory=dict)
    forks: dict[WriterKey, int] = field(default_factory=dict)

    def copy(self) -> Authority:
        return Authority(self.log, dict(self.statements), dict(self.admitted), dict(self.uses), dict(self.forks))

    def policy(self) -> Policy:
        return work_out(self.log, self.statements.values(), self.uses, self.forks)

    def state(self, statement: Statement) -> None:
        self.statements[statement.id] = statement
        key = admission_of(statement.operation)
        if key is not None:
            self.admitted[statement.id] = key

    def used(self, writer: WriterKey, links: Iterable[EntryId] | None) -> tuple[EntryId, ...]:
        """Those of `links` that admit `writer`."""
        if not self.admitted or links is None:
            return ()
        return tuple(link for link in links if self.admitted.get(link) == writer)


class Draft:
    """Entries to be committed by the log that made it."""

    def __init__(
        self,
        feeds: Feeds,
        authority: Authority,
        policy: Policy,
        heads: Iterable[EntryId],
        state: Mark,
        excused: Collection[EntryId],
    ) -> None:
        self.log = feeds.log
        self.state = state
        self.authority = authority
        self.policy = policy
        self._owns_authority = False
        self.touched: dict[WriterKey, Feed] = {}
        self.heads = set(heads)
        self.ids: dict[EntryId, tuple[WriterKey, int]] = {}
        """What was added, in order."""
        self._feeds = feeds
        self._excused = excused
        self._puts: Puts = []
        self._run: tuple[WriterKey, int] | None = None
        self._count = state.changes
        self._rights: dict[WriterKey, tuple[Rights, int]] = {}

    def feed(self, writer: WriterKey) -> Feed:
        """The feed of `writer` as this draft leaves it."""
        found = self.touched.get(writer)
        if found is None:
            held = self._feeds.states.get(writer)
            found = self.touched[writer] = Feed() if held is None else held.copy()
        return found

    def holds(self, identifier: EntryId) -> bool:
        """Whether a link to `identifier` is met: the entry is here, or its feed ended before it."""
        if identifier in self.ids:
            return True
        place = self._feeds.place(identifier)
        if place is not None:
            return place.log == self.log
        return identifier in self._excused

    def check_links(self, links: Iterable[EntryId], *, own: bool) -> None:
        for link in links:
            if not self.holds(link):
                if own:
                    raise NotFound(f"no entry {to_text(link)[:12]}… here to link")
                raise _missing(link)

    def add(self, writer: WriterKey, kind: int, links: tuple[EntryId, ...] | None, value: bytes) -> EntryId:
        """Continue the feed of `writer`; `links` None means its last entry only. Links have been checked.

        Raises `NotWriter`, `Refused`, `Corrupt`.
        """
        feed = self.feed(writer)
        seq, prev = feed.length, feed.last
        links_all = (prev,) if links is None else links
        check_fields(seq, kind, prev, links_all, len(value))
        if links is not None and links == (prev,) and seq:
            links = None
        identifier = EntryId(
            blake3_256(encode_header(self.log, writer, seq, kind, prev, links_all, len(value), blake3_256(value)))
        )
        allowed = self._rights.get(writer)
        if links is not None or allowed is None or seq >= allowed[1] or not allowed[0] >> kind & 1 or kind == _SYSTEM:
            self._admit(writer, seq, kind, links, value, identifier)
        if self._run is None or self._run[0] != writer:
            self._close_run()
            self._run = (writer, seq)
        self._count += 1
        place = self.log + writer + seq.to_bytes(8, "big")
        self._puts.append((b"e" + identifier, place))
        self._puts.append((b"f" + place, encode_record(identifier, self._count, kind, links, value)))
        self._push(writer, feed, identifier)
        self.ids[identifier] = (writer, seq)
        heads = self.heads
        if links is None:
            heads.discard(prev)
        else:
            heads.difference_update(links)
        if not self._excused or identifier not in self._excused:  # else somebody links it already
            heads.add(identifier)
        return identifier

    def _push(self, writer: WriterKey, feed: Feed, leaf: bytes) -> None:
        """merkle.push, keeping the hashes of every fourth level."""
        size, peaks, level = feed.length, feed.peaks, 0
        feed.length, feed.last = size + 1, EntryId(leaf)
        while size & 1:
            leaf = node(peaks.pop(), leaf)
            size >>= 1
            level += 1
            if not level & _STEP_MASK:
                self._puts.append((tree_key(self.log, writer, level, size), leaf))
        peaks.append(leaf)

    def _admit(
        self,
        writer: WriterKey,
        seq: int,
        kind: int,
        links: Sequence[EntryId] | None,
        value: bytes,
        identifier: EntryId,
    ) -> None:
        """Whether the writer may write this. Raises `NotWriter`, `Corrupt`."""
        used = self.authority.used(writer, links)
        if used:
            self._change_authority().uses[writer, seq] = used
            self._policy_changed()
        rights, limit = self._rights.get(writer) or self._work_out_rights(writer, seq)
        if seq >= limit:
            self._refuse(writer, limit)
        if kind == Kind.SYSTEM:
            operation = decode_operation(value)
            self._check_operation(writer, seq, operation)
            if len(self.authority.statements) >= WRITERS_MAX:
                raise Refused(f"a log holds at most {WRITERS_MAX} system entries")
            self._change_authority().state(Statement(writer, seq, identifier, operation))
            self._policy_changed()
        elif not rights >> kind & 1:
            raise NotWriter(
                f"writer {_short(writer)} may not write entries of kind {Kind(kind).name.lower()} in this log",
                "the owner of the log can grant it",
            )
        if used or kind == Kind.SYSTEM:
            self._puts.append((b"a" + self.log + writer + seq.to_bytes(8, "big"), b""))

    def _change_authority(self) -> Authority:
        if not self._owns_authority:
            self.authority = self.authority.copy()
            self._owns_authority = True
        return self.authority

    def _policy_changed(self) -> None:
        self.policy = self.authority.policy()
        self._rights.clear()

    def _work_out_rights(self, writer: WriterKey, seq: int) -> tuple[Rights, int]:
        limit, rights = self.policy.limit(writer), self.policy.rights(writer, seq)
        if not rights and seq < limit:
            raise NotWriter(f"writer {_short(writer)} was not admitted to this log", "its owner can admit a key")
        self._rights[writer] = rights, limit
        return rights, limit

    def _refuse(self, writer: WriterKey, limit: int) -> NoReturn:
        if self.authority.forks.get(writer) == limit:
            raise FeedFrozen(
                f"writer {_short(writer)} signed two different entries as number {limit}: its feed ends there"
            )
        raise NotWriter(
            f"writer {_short(writer)} may not go on after {limit} entries: it was dismissed, gave its key up, "
            "or whoever admitted it may not",
            "the owner of the log can admit another key",
        )

    def _check_operation(self, writer: WriterKey, seq: int, operation: Operation) -> None:
        policy = self.policy
        if isinstance(operation, Rotate) or (writer == policy.owner and seq >= policy.owner_since):
            return
        raise NotWriter("only the owner of a log admits and dismisses writers", f"its owner is {to_text(policy.owner)}")

    def _close_run(self) -> None:
        """File the entries since the last change of writer as one change record."""
        if self._run is None:
            return
        writer, start = self._run
        feed = self.touched[writer]
        count = feed.length - start
        tail = b"".join(
            (self.state.digest, writer, start.to_bytes(8, "big"), count.to_bytes(8, "big"), root(feed.peaks))
        )
        self.state = Mark(self._count, blake3_256(tail))
        self._puts.append((change_key(self.log, self._count), encode_change(writer, start, self.state.digest, feed)))
        self._run = None

    def finish(self) -> Puts:
        """Everything to be written but heads, which the log compares with its own."""
        self._close_run()
        for writer in {writer for writer, _ in self.ids.values()}:
            feed = self.touched[writer]
            assert feed.length <= feed.signed_length
            self._puts.append((b"v" + self.log + writer, feed.encode()))
        self._puts.append((b"s" + self.log, self.state.changes.to_bytes(8, "big") + self.state.digest))
        return self._puts


def _missing(link: EntryId) -> MissingLink:
    error = MissingLink(f"an entry links {to_text(link)[:12]}…, which is not here")
    error.link = link
    return error


def _short(writer: WriterKey) -> str:
    return to_text(writer)[:12] + "…"
