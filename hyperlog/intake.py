"""Entries from elsewhere: checked against what is held, then added to a draft.

What is held is closed: each feed without a gap, each link met. Bytes that no honest writer or peer makes raise
`Corrupt`; what may be true but does not fit yet raises `OutOfOrder`; what contradicts what is held raises
`ForkDetected`, with the proof when this entry gives one.
"""

from __future__ import annotations

from hyperlog.draft import Draft
from hyperlog.entry import Entry, verify_head
from hyperlog.errors import Corrupt, ForkDetected, OutOfOrder
from hyperlog.feeds import Feeds
from hyperlog.forks import ForkProof
from hyperlog.ids import EntryId, WriterKey, to_text
from hyperlog.merkle import root_of_cut, siblings
from hyperlog.run import Run


def take_entry(feeds: Feeds, draft: Draft, entry: Entry) -> EntryId | None:
    """Add a verified entry; None when it is held. Raises `Corrupt`, `NotWriter`, `OutOfOrder`, `ForkDetected`."""
    if entry.log != draft.log:
        raise Corrupt("an entry of another log")
    feed = draft.feed(entry.writer)
    if entry.seq < feed.length:
        _compare(feeds, draft, entry)
        return None
    if entry.seq > feed.length:
        raise OutOfOrder(f"entry {entry.seq} came where {feed.length} was expected")
    if entry.prev != feed.last:
        raise parted(entry.writer, entry.seq)
    evidence = entry.evidence
    beside = siblings(entry.seq, evidence.length)
    lefts = [found for found, (start, _) in zip(evidence.path, beside, strict=True) if start < entry.seq]
    rights = [found for found, (start, _) in zip(evidence.path, beside, strict=True) if start > entry.seq]
    if lefts[::-1] != feed.peaks:
        # The header chains to what is held, so the writer signed a tree that is not the tree of its chain.
        raise Corrupt("an entry whose evidence contradicts its own feed")
    draft.check_links(entry.links, own=False)
    identifier = draft.add(entry.writer, entry.kind, entry.links, entry.value)
    assert identifier == entry.id
    feed.signed_length, feed.signature, feed.rights = evidence.length, evidence.signature, tuple(rights)
    return identifier


def take_run(feeds: Feeds, draft: Draft, run: Run) -> int:
    """Add what is new of `run`; how many entries that was. Raises as `take_entry`."""
    if run.log != draft.log:
        raise Corrupt("a run of another log")
    feed = draft.feed(run.writer)
    if run.start > feed.length:
        raise OutOfOrder(f"entry {run.start} came where {feed.length} was expected")
    before = feed.length
    if run.end <= before:
        return 0
    _check_overlap(feeds, draft, run)
    for kind, links, value in run.items[before - run.start :]:
        if links is not None:
            if links == (feed.last,) and feed.length:
                raise Corrupt("a run with a link that has a shorter spelling")
            draft.check_links(links, own=False)
        elif not feed.length:
            raise Corrupt("a first entry that links the one before it")
        draft.add(run.writer, kind, links, value)
    root = root_of_cut(feed.peaks, feed.length, run.signed_length, run.rights)
    if root is None or not verify_head(run.log, run.writer, run.signed_length, root, run.signature):
        raise Corrupt("a run with a bad signature")
    feed.signed_length, feed.signature, feed.rights = run.signed_length, run.signature, run.rights
    return run.end - before


def _check_overlap(feeds: Feeds, draft: Draft, run: Run) -> None:
    """Raise `ForkDetected` unless `run` continues what is held, and repeats it where they overlap."""
    feed = draft.feed(run.writer)
    if run.start == feed.length:
        if run.prev != feed.last:
            raise parted(run.writer, run.start)
        return
    held = feeds.states[run.writer].length if run.writer in feeds.states else 0
    if run.start > held or feed.length > held:
        raise OutOfOrder("a run that overlaps entries which came with it")
    if feeds.id_at(run.writer, run.start - 1) != run.prev:
        raise parted(run.writer, run.start)
    for record, (kind, links, value) in zip(feeds.records(run.writer, run.start, held), run.items, strict=False):
        if (record.kind, record.links, record.value) != (kind, links, value):
            raise parted(run.writer, run.end)


def _compare(feeds: Feeds, draft: Draft, entry: Entry) -> None:
    """Raise `ForkDetected` with the proof unless `entry`, whose seq is held, is the one that is held."""
    if entry.id in draft.ids:
        return
    held = feeds.states.get(entry.writer)
    if held is None or entry.seq >= held.length:
        raise parted(entry.writer, entry.seq)
    mine = feeds.entry(entry.writer, entry.seq)
    if mine.id != entry.id:
        raise parted(entry.writer, entry.seq, ForkProof.of(mine.claim, entry.claim))


def parted(writer: WriterKey, seq: int, proof: ForkProof | None = None) -> ForkDetected:
    """The error for a history of `writer` that differs from the one held, at `seq` or before."""
    where = "as" if proof is not None and proof.is_exact else "as or before"
    error = ForkDetected(
        f"writer {to_text(writer)[:12]}… signed two different entries {where} number {seq}",
        "its key is used in two places, or was restored from an old backup: its feed stops there; "
        "the owner of the log can admit a new key for this writer",
    )
    error.proof = None if proof is None else proof.encode()
    return error
