"""What a blob must offer to be served, and what the node keeps of one that is."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Protocol

import trio

from vmhost import limits
from vmhost.blob_protocol import BlockTable, Place


class StoredBlocks(Protocol):
    """Where the blocks of a blob lie on this disk. `offsets`: where each begins in the blob, and the end of all."""

    @property
    def offsets(self) -> array[int]: ...

    @property
    def ids(self) -> bytes: ...

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to know of each read, so that all are to come here (until `look_again`)."""

    def place(self, number: int) -> tuple[int, int, int] | None:
        """(pack, byte, bytes) of a block's stored bytes, if it is here."""

    def open_pack(self, number: int) -> int:
        """A descriptor of the pack; becomes ours. Raises OSError."""


class BlobFile(Protocol):
    """Immutable bytes of known size, perhaps not here yet."""

    @property
    def size(self) -> int: ...

    def stored(self) -> StoredBlocks | None:
        """Where its bytes may be read without this process; None if all reads are to come here."""

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        """The bytes if they need no waiting, else None. `offset + size` is within the blob."""

    async def read(self, offset: int, size: int) -> bytes:
        """The bytes, exactly `size` of them. Cancelled at the deadline. Raises Unavailable, Corrupt, …"""


class ServedBlob:
    """A blob under a name. `waiting`: the scopes of reads that wait for it."""

    def __init__(self, name: str, node: int, blob: BlobFile) -> None:
        self.name = name
        self.node = node
        self.blob = blob
        self.size = blob.size
        self.removed = False
        self.waiting: set[trio.CancelScope] = set()
        stored = blob.stored()
        self.table = None if stored is None else _Told(stored)

    def close(self) -> None:
        if self.table is not None:
            self.table.close()


class _Told:
    """A blob's table, filled as its reads come here: what was read here once, the small process reads from then on."""

    def __init__(self, stored: StoredBlocks) -> None:
        self.stored = stored
        self.descriptor = BlockTable.create(stored.offsets, stored.ids)
        self._table = BlockTable(self.descriptor, writable=True)
        self._ahead = 1
        self.look_again()

    def look_again(self) -> None:
        """Whether it is watched."""
        self._table.is_watched = self.stored.is_watched

    def close(self) -> None:
        """Tell no more."""
        self._table.close()
        os.close(self.descriptor)

    def learn(self, offset: int, packs: Callable[[StoredBlocks, int], None]) -> None:
        """Tell the places of the block at `offset` and of those behind it, more of them as long as they are here."""
        self.look_again()
        table, found = self._table, 0
        first = bisect_right(table.offsets, offset, hi=table.count) - 1
        for number in range(first, min(first + self._ahead, table.count)):
            if table.place(number) is None and (place := self.stored.place(number)) is not None:
                packs(self.stored, place[0])
                table.tell(number, Place(*place))
                found += 1
        self._ahead = min(max(1, 2 * found), limits.BLOB_LEARN_BLOCKS)
