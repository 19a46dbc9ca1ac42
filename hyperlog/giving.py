"""What a peer requested and is still to be sent: runs in an order in which links come first, single entries, answers.

The order in which entries arrived here is such an order, so of all feeds that are requested the one goes next whose
next entry has the smallest change number; it goes on until another feed's turn comes. One message holds runs up to a
quarter of a mebibyte, however short they are: it is read from the store when the transport has room for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from hyperlog.errors import NotFound, PeerMisbehaved
from hyperlog.feeds import NEWEST
from hyperlog.ids import EntryId, WriterKey
from hyperlog.limits import FRAME_ITEMS_MAX, PEER_FEEDS_MAX, PEER_WANTS_MAX, RUN_BYTES_MAX
from hyperlog.messages import Absent, Entries, Excuse, Message, Runs, Sent
from hyperlog.run import encode_run
from hyperlog.view import LogView

Range = tuple[WriterKey, int, int]


class Giving:
    """The requests of one peer."""

    def __init__(self, log: LogView) -> None:
        self.entries_last = 0
        """Entries in the last message."""
        self._log = log
        self._ranges: dict[WriterKey, tuple[int, int]] = {}
        self._samples: deque[Range] = deque()
        self._ids: deque[EntryId] = deque()
        self._received = 0
        self._answered = 0

    @property
    def is_busy(self) -> bool:
        return self._answered != self._received

    def ask_runs(self, ranges: Sequence[Range]) -> None:
        """Entries of several feeds; for a feed that is being sent, the new range takes the place of the old one."""
        held = self._log.vector()
        for writer, start, end in ranges:
            if start < min(end, held.get(writer, 0)):
                self._ranges[writer] = (start, min(end, held[writer]))
        self._received += 1

    def ask_samples(self, ranges: Sequence[Range]) -> None:
        if len(self._samples) + len(ranges) > PEER_FEEDS_MAX:
            raise PeerMisbehaved("a peer asks for too much at a time")
        self._samples.extend(ranges)
        self._received += 1

    def ask_ids(self, ids: Sequence[EntryId]) -> None:
        if len(self._ids) + len(ids) > PEER_WANTS_MAX:
            raise PeerMisbehaved("a peer asks for too much at a time")
        self._ids.extend(ids)
        self._received += 1

    def next_message(self) -> Message | None:
        """What to send now, read from the store; None when nothing is requested."""
        if self._ids:
            return self._give_id(self._ids.popleft())
        if self._ranges:
            return self._give_runs() or self.next_message()
        if self._samples:
            return self._give_sample() or self.next_message()
        if self._answered != self._received:
            self._answered = self._received
            return Sent(self._received)
        return None

    def _give_id(self, identifier: EntryId) -> Message:
        try:
            entry = self._log.get(identifier)
            if self._log.counts(entry):
                return Entries((tuple(self._log.sparse(identifier)),))
            return Excuse(entry.claim.encode())
        except NotFound:
            pass
        try:
            return Excuse(self._log.excuse(identifier))
        except NotFound:
            return Absent((identifier,))

    def _give_runs(self) -> Runs | None:
        held = self._log.vector()
        runs: list[bytes] = []
        room = RUN_BYTES_MAX
        self.entries_last = 0
        turns = {writer: self._log.first_change(writer, start) for writer, (start, _) in self._ranges.items()}
        while turns and room > 0 and len(runs) < FRAME_ITEMS_MAX:
            writer = min(turns, key=turns.__getitem__)
            start, end = self._ranges[writer]
            end = min(end, held.get(writer, 0))  # a limit may have fallen since it was asked for
            if start < end:
                other = min((turn for each, turn in turns.items() if each != writer), default=NEWEST)
                run = self._log.run(writer, start, until=end, bytes_max=room, before=other)
                encoded = encode_run(run)
                runs.append(encoded)
                room -= len(encoded)
                self.entries_last += len(run.items)
                start = run.end
            if start < end:
                self._ranges[writer] = (start, end)
                turns[writer] = self._log.first_change(writer, start)
            else:
                del self._ranges[writer], turns[writer]
        return Runs(tuple(runs)) if runs else None

    def _give_sample(self) -> Entries | None:
        """The next entries of the first range, newest ranges' entries in order, each with its admissions."""
        writer, start, end = self._samples.popleft()
        end = min(end, self._log.vector().get(writer, 0))
        entries: list[tuple[bytes, ...]] = []
        room = RUN_BYTES_MAX
        while start < end and room > 0 and len(entries) < FRAME_ITEMS_MAX:
            parts = tuple(self._log.sparse(self._log.id_at(writer, start)))
            entries.append(parts)
            room -= sum(map(len, parts))
            start += 1
        if start < end:
            self._samples.appendleft((writer, start, end))
        self.entries_last = len(entries)
        return Entries(tuple(entries)) if entries else None
