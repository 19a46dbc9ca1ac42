"""Entries of the own feed that are appended together: one signature, one durable write, all or nothing."""

from __future__ import annotations

from collections.abc import Sequence

from hyperlog.draft import Draft
from hyperlog.entry import Kind
from hyperlog.errors import HyperError, Refused
from hyperlog.events import Events, Proposal
from hyperlog.ids import EntryId, WriterKey
from hyperlog.limits import BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, ENTRY_LINKS_MAX, ENTRY_VALUE_BYTES_MAX
from hyperlog.writers import Policy


class Batch:
    """Made by `Log.batch`. An id is known as soon as its entry was added, so later entries of the batch can link it."""

    def __init__(
        self, draft: Draft, writer: WriterKey, heads: tuple[EntryId, ...], policy: Policy, events: Events
    ) -> None:
        self.count = 0
        self._bytes = 0
        self._draft = draft
        self._writer = writer
        self._next: tuple[EntryId, ...] | None = heads
        self._events = events
        self._is_followed = events.are_wanted
        self._admission = self._unused_admission(policy)

    def add(self, value: bytes, *, links: Sequence[EntryId] | None = None, kind: Kind = Kind.VALUE) -> EntryId:
        """Add an entry that links `links`, or else the one added before it (the first: the log's heads).

        Raises as `Log.append`, the message naming the item; leaving the `with` block by the error drops the batch.
        """
        try:
            return self._add(value, None if links is None else tuple(sorted(set(links))), kind)
        except HyperError as error:
            if self.count:
                error.message = f"item {self.count + 1} of the batch: {error.message}"
                error.args = (error.message,)
            raise

    def _add(self, value: bytes, links: tuple[EntryId, ...] | None, kind: Kind) -> EntryId:
        chosen = self._next if links is None else links
        if self._is_followed:
            self._events.propose(Proposal(self._writer, kind, chosen or (), value))
        if len(value) > ENTRY_VALUE_BYTES_MAX:
            raise Refused(f"a value of {len(value)} bytes; at most {ENTRY_VALUE_BYTES_MAX} are allowed")
        self._bytes += len(value)
        if self.count == BATCH_ENTRIES_MAX or self._bytes > BATCH_BYTES_MAX:
            raise Refused(f"a batch has at most {BATCH_ENTRIES_MAX} entries and {BATCH_BYTES_MAX >> 20} MiB")
        if chosen is not None and self._admission is not None and self._admission not in chosen:
            # What admits this writer is linked once; a head that has to make room for it is linked by the next entry.
            chosen = tuple(sorted((*chosen[: ENTRY_LINKS_MAX - 1], self._admission)))
        if chosen is not None and len(chosen) > ENTRY_LINKS_MAX:
            raise Refused(f"an entry with {len(chosen)} links; at most {ENTRY_LINKS_MAX} are allowed", "merge in steps")
        if links is not None:
            self._draft.check_links(links, own=True)
        identifier = self._draft.add(self._writer, kind, chosen, value)
        self._admission = None
        self._next = None
        self.count += 1
        return identifier

    def _unused_admission(self, policy: Policy) -> EntryId | None:
        """The latest admission of this writer, if its feed has not linked it yet."""
        found = policy.open_admission(self._writer)
        used = (links for (writer, _), links in self._draft.authority.uses.items() if writer == self._writer)
        return None if found is None or any(found in links for links in used) else found
