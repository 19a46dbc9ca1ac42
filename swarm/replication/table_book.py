"""The tables of all logs that blocks are fetched of, and how many peers hold each block of them. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from hyperlog.ids import BlockId, LogKey
from swarm.replication.tables import Bits, Table, TableId

Place = tuple[TableId, int]
"""A block's number in a table."""


class TableBook:
    """Tables by log; one table may belong to several logs."""

    def __init__(self) -> None:
        self._tables: dict[LogKey, dict[TableId, Table]] = {}
        self._holders: dict[TableId, array[int]] = {}

    def add(self, log: LogKey, table: Table) -> bool:
        """Whether it is new for the log."""
        if table.id in self._tables.setdefault(log, {}):
            return False
        self._tables[log][table.id] = table
        self._holders.setdefault(table.id, array("I", bytes(4 * len(table))))
        return True

    def has_any(self, log: LogKey) -> bool:
        return bool(self._tables.get(log))

    def remove(self, log: LogKey, identifier: TableId) -> bool:
        """Whether no log has the table any more."""
        if self._tables.get(log, {}).pop(identifier, None) is None:
            return False
        if any(identifier in tables for tables in self._tables.values()):
            return False
        del self._holders[identifier]
        return True

    def places(self, logs: Iterable[LogKey], block: BlockId) -> list[Place]:
        """Where a block is in the tables of some logs."""
        found: list[Place] = []
        for log in logs:
            tables = self._tables.get(log)
            for table in tables.values() if tables else ():
                number = table.numbers.get(block)
                if number is not None and (table.id, number) not in found:
                    found.append((table.id, number))
        return found

    def new_bits(self, identifier: TableId) -> Bits | None:
        """Bits for what a peer holds of a table; None for an unknown one."""
        holders = self._holders.get(identifier)
        return None if holders is None else Bits(len(holders))

    def count(self, identifier: TableId, numbers: Iterable[int], by: int) -> None:
        """So many more peers hold these blocks."""
        holders = self._holders.get(identifier)
        if holders is not None:
            for number in numbers:
                holders[number] += by

    def holders(self, places: Iterable[Place]) -> int:
        """How many peers hold a block, as far as they have said."""
        return next((self._holders[table][number] for table, number in places), 0)
