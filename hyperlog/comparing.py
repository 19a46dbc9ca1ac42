"""Where do two histories of one feed part? A search that both ends drive, each with what it holds.

Whoever sees that the other's last entry is not the one held at that place names its ids at up to 32 places below it.
The other finds between which two of them the first difference lies and names its own ids there, and so on; when the
two places are neighbours it shows its entry instead (a claim, which is proof of one half), and the first makes the
fork proof of that and its own. A million entries take four messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from hyperlog.entry import decode_claim
from hyperlog.errors import Corrupt, NotFound, PeerMisbehaved
from hyperlog.forks import ForkProof
from hyperlog.ids import EntryId, WriterKey
from hyperlog.limits import COMPARE_IDS, PEER_COMPARES_MAX
from hyperlog.messages import Branch, Compare
from hyperlog.view import LogView

_ROUNDS_MAX = 32


class Comparing:
    """The searches of one exchange."""

    def __init__(self, log: LogView) -> None:
        self._log = log
        self._open: set[WriterKey] = set()
        self._rounds: dict[WriterKey, int] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a search that was started here has not come to its end."""
        return bool(self._open)

    def start(self, writer: WriterKey, length: int) -> Compare | None:
        """The other end's feed is `length` long and ends with another entry than ours has there."""
        if writer in self._open or len(self._rounds) >= PEER_COMPARES_MAX:
            return None
        self._open.add(writer)
        return self._between(writer, -1, length - 1)

    def answer(self, writer: WriterKey, ids: Sequence[tuple[EntryId, int]]) -> Compare | Branch | None:
        """What to say to the other's ids, which are in order of place; none of them ends a search.

        Raises `PeerMisbehaved`.
        """
        self._rounds[writer] = self._rounds.get(writer, 0) + 1
        if self._rounds[writer] > _ROUNDS_MAX or len(self._rounds) > PEER_COMPARES_MAX:
            raise PeerMisbehaved("a peer compares feeds without end")
        if not ids:
            self._open.discard(writer)
            return None
        equal = -1
        for theirs, seq in ids:
            if seq <= equal:
                raise PeerMisbehaved("a comparison out of order")
            try:
                ours = self._log.id_at(writer, seq)
            except NotFound:
                break
            if ours != theirs:
                if seq == equal + 1:
                    self._open.discard(writer)
                    return Branch(self._log.claim(writer, seq).encode())
                return self._between(writer, equal, seq)
            equal = seq
        return Compare(writer, ())

    def conclude(self, encoded: bytes) -> bytes | None:
        """The proof that the other's claim and our own entry make. Raises `Corrupt`, `PeerMisbehaved`."""
        claim = decode_claim(encoded)
        writer, seq = claim.header.writer, claim.header.seq
        if claim.header.log != self._log.key:
            raise Corrupt("a claim about another log")
        self._open.discard(writer)
        try:
            own = self._log.claim(writer, seq)
        except NotFound:
            return None
        if own.id == claim.id:
            raise PeerMisbehaved("a comparison that ends in the same entry")
        return ForkProof.of(own, claim).encode()

    def _between(self, writer: WriterKey, equal: int, different: int) -> Compare:
        """Our ids at `equal`, where both have the same (-1: before the first), and at places up to `different`."""
        span = different - equal
        count = min(COMPARE_IDS, span)
        places = [equal] if equal >= 0 else []
        places += [equal + span * (each + 1) // count for each in range(count)]
        return Compare(writer, tuple((self._log.id_at(writer, place), place) for place in places))
