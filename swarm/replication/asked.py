"""What a peer asks of us, most urgent first, and the tables that both ends of a session number. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from hyperlog.errors import PeerMisbehaved
from hyperlog.lanes import LANES, Lane
from swarm.limits import TABLES_PER_SESSION_MAX
from swarm.replication.messages import Wanted
from swarm.replication.table_messages import KnowTable, Run
from swarm.replication.tables import Table, TableId


class Asked:
    """Requests that wait to be served, and the numbers of all that are not answered yet."""

    def __init__(self) -> None:
        self._lanes: tuple[deque[Wanted], ...] = tuple(deque() for _ in LANES)
        self.unanswered: set[int] = set()

    def __len__(self) -> int:
        return sum(map(len, self._lanes))

    def add(self, wanted: Wanted) -> None:
        self.unanswered.add(wanted.number)
        self._lanes[wanted.lane].append(wanted)

    def first_lane(self) -> Lane | None:
        """The most urgent lane in which something waits."""
        for lane in LANES:
            if self._lanes[lane]:
                return lane
        return None

    def pop(self, lane: Lane | None = None) -> Wanted | None:
        """The oldest request of a lane, or of the most urgent one."""
        lane = self.first_lane() if lane is None else lane
        return None if lane is None or not self._lanes[lane] else self._lanes[lane].popleft()

    def hurry(self, numbers: Iterable[int], to: Lane) -> None:
        """Move requests to a more urgent lane; those that are being served are left alone."""
        for one in self._take(set(numbers), self._lanes[to + 1 :]):
            self._lanes[to].append(Wanted(one.number, one.block, one.bytes_max, to))

    def cancel(self, numbers: Iterable[int]) -> list[Wanted]:
        """Take requests out; those that are being served are left alone."""
        return self._take(set(numbers), self._lanes)

    def _take(self, numbers: set[int], lanes: Sequence[deque[Wanted]]) -> list[Wanted]:
        taken: list[Wanted] = []
        for lane in lanes:
            found = [one for one in lane if one.number in numbers]
            for one in found:
                lane.remove(one)
            taken += found
        return taken


class TableTalk:
    """The tables that either end of a session has told of; a slot is a table's place in its teller's list."""

    def __init__(self) -> None:
        self._ours: dict[TableId, Table] = {}
        self._theirs: list[KnowTable] = []

    def slot(self, table: TableId) -> int | None:
        """The slot under which we told of a table."""
        return list(self._ours).index(table) if table in self._ours else None

    def ours(self, table: TableId) -> Table | None:
        """A table that we told of."""
        return self._ours.get(table)

    @property
    def has_room(self) -> bool:
        return len(self._ours) < TABLES_PER_SESSION_MAX

    def tell(self, table: Table) -> None:
        assert self.has_room
        self._ours[table.id] = table

    def hear(self, told: KnowTable) -> None:
        """Raises `PeerMisbehaved` for too many, one twice, or a length that is not the table's."""
        known = self._ours.get(told.table)
        if len(self._theirs) >= TABLES_PER_SESSION_MAX or any(one.table == told.table for one in self._theirs):
            raise PeerMisbehaved("too many tables")
        if known is not None and len(known) != told.length:
            raise PeerMisbehaved("a table that is not as long as its manifest says")
        self._theirs.append(told)

    def has_told(self, table: TableId) -> bool:
        """Whether the peer knows the table."""
        return any(one.table == table for one in self._theirs)

    def heard(self, slot: int) -> KnowTable:
        """The peer's table in a slot. Raises `PeerMisbehaved`."""
        if slot >= len(self._theirs):
            raise PeerMisbehaved("a table that was not told of")
        return self._theirs[slot]

    def expand(self, run: Run) -> Iterator[Wanted | int]:
        """The requests of a run; only its number where the table is unknown here. Raises `PeerMisbehaved`."""
        told = self.heard(run.slot)
        table = self._ours.get(told.table)
        for number, first, count in run.runs:
            if first + count > told.length or (table is not None and first + count > len(table)):
                raise PeerMisbehaved("a run beyond its table")
            for at in range(count):
                if table is None:
                    yield number + at
                else:
                    block, size = table.block(first + at), table.size(first + at)
                    yield Wanted(number + at, block, size, run.lane, run.is_patient)
