"""A fork: a writer signed two different entries as one number of its feed. The proof, small enough to pass on for ever.

    proof = 0x01 · bytes of the first claim u32 · first claim · second claim      (claims: entry.py; smaller id first)

A claim is an entry's header with the signature and path that prove its place; values are not needed. When both headers
name the same `prev`, the histories part exactly there; else they parted before, and peers that compare their feeds
find the place (replication.py). A log keeps one proof per writer, the one with the smallest seq; from that seq on the
feed counts for nobody, on every replica that has the proof, whichever branch it held. What was held stays readable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from hyperlog.entry import FORMAT, Claim, decode_claim
from hyperlog.errors import Corrupt, FeedFrozen
from hyperlog.ids import LogKey, WriterKey, to_text
from hyperlog.limits import FORK_PROOF_BYTES_MAX


@dataclass(frozen=True, slots=True)
class ForkProof:
    """Two claims by one writer about one seq, both checked."""

    first: Claim
    second: Claim

    @classmethod
    def of(cls, one: Claim, other: Claim) -> Self:
        """The proof made of two claims. Raises `Corrupt` when they contradict nothing."""
        a, b = one.header, other.header
        if (a.log, a.writer, a.seq) != (b.log, b.writer, b.seq) or one.id == other.id:
            raise Corrupt("a fork proof that proves nothing")
        return cls(*sorted((one, other), key=lambda claim: claim.id))

    @property
    def log(self) -> LogKey:
        return self.first.header.log

    @property
    def writer(self) -> WriterKey:
        return self.first.header.writer

    @property
    def seq(self) -> int:
        return self.first.header.seq

    @property
    def is_exact(self) -> bool:
        """Whether the histories part at `seq`, not before."""
        return self.first.header.prev == self.second.header.prev

    def encode(self) -> bytes:
        first = self.first.encode()
        return bytes((FORMAT,)) + len(first).to_bytes(4, "big") + first + self.second.encode()


def decode_fork(data: bytes) -> ForkProof:
    """The proof that `data` spells, both signatures checked. Raises `Corrupt`."""
    if not 5 < len(data) <= FORK_PROOF_BYTES_MAX or data[0] != FORMAT:
        raise Corrupt("a fork proof of an impossible length or unknown format")
    middle = 5 + int.from_bytes(data[1:5], "big")
    if middle >= len(data):
        raise Corrupt("a fork proof cut short")
    proof = ForkProof.of(decode_claim(data[5:middle]), decode_claim(data[middle:]))
    if proof.first.encode() != data[5:middle]:
        raise Corrupt("a fork proof with its claims in the wrong order")
    return proof


def own_feed_frozen(seq: int, *, is_owner: bool) -> FeedFrozen:
    """What a writer is told whose own feed forked at `seq`."""
    return FeedFrozen(
        f"this node's key signed two different entries as number {seq}, so its feed ends there",
        "the key was used in two places or an old backup was restored; what both copies wrote is still readable. "
        + (
            "This key owns the log, so go on in a new log and tell its readers the new address"
            if is_owner
            else "Make a new key here and ask the owner of the log to admit it"
        ),
    )


def feed_frozen(writer: WriterKey, seq: int, *, is_owner: bool) -> FeedFrozen:
    """What a reader is told of a feed that forked at `seq`."""
    return FeedFrozen(
        f"writer {to_text(writer)[:12]}… signed two different entries as number {seq}, so that feed ends there",
        "its key was used in two places or an old backup was restored. "
        + (
            "It owns the log, so nothing new comes here: ask its author for a new address"
            if is_owner
            else "The owner of the log can admit a new key for this writer"
        ),
    )
