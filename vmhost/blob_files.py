"""What a blob must offer to be served, and what the node keeps of one that is."""

from __future__ import annotations

import os
import socket
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import trio

from vmhost import limits
from vmhost.blob_protocol import BlockTable, Place
from vmhost.block_push import PushLink


class StoredBlocks(Protocol):
    """Where blocks that hold bytes of a blob lie on this disk. `offsets`: where each begins in the space that they make
    up, and the end of all. `stretches`: which bytes of the blob are where in it (byte, bytes, byte there), in order."""

    @property
    def offsets(self) -> array[int]: ...

    @property
    def ids(self) -> bytes: ...

    @property
    def stretches(self) -> Sequence[tuple[int, int, int]]: ...

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to know of each read (until `look_again`)."""

    def note(self, offset: int, size: int) -> None:
        """This was read of the blob elsewhere."""

    def place(self, number: int) -> tuple[int, int, int] | None:
        """(pack, byte, bytes) of a block's stored bytes, if it is here."""

    def listen(self, listener: Callable[[int], object]) -> Callable[[], None]:
        """Have the numbers of blocks told that come here from now on, until what is returned is called."""

    def open_pack(self, number: int) -> int:
        """A descriptor of the pack; becomes ours. Raises OSError."""


class BlobFile(Protocol):
    """Immutable bytes of known size, perhaps not here yet."""

    @property
    def size(self) -> int: ...

    def stored(self) -> Sequence[StoredBlocks]:
        """Where its bytes may be read without this process: its own blocks, then others, more of which may come to be.

        None at all if every read is to come here.
        """

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        """The bytes if they need no waiting, else None. `offset + size` is within the blob."""

    async def read(self, offset: int, size: int) -> bytes:
        """The bytes, exactly `size` of them. Cancelled at the deadline. Raises Unavailable, Corrupt, …"""


class ServedBlob:
    """A blob under a name. `waiting`: the scopes of reads that wait for it. `packs` is told of each pack in use."""

    def __init__(self, name: str, node: int, blob: BlobFile, packs: Callable[[StoredBlocks, int], None]) -> None:
        self.name = name
        self.node = node
        self.blob = blob
        self.size = blob.size
        self.removed = False
        self.waiting: set[trio.CancelScope] = set()
        self.tables: list[Told] = []
        self._packs = packs
        self._ahead = 1

    def look_again(self) -> Iterator[Told]:
        """Whether it is watched; its tables that are new."""
        for stored in self.blob.stored()[len(self.tables) :]:
            told = Told(stored, self._packs)
            if self.tables:  # few blocks, all of which are about to be read
                told.tell(range(told.count))
            self.tables.append(told)
            yield told
        if self.tables:
            self.tables[0].look_again()

    def push(self) -> Iterator[tuple[Told, socket.socket]]:
        """Put blocks of its later tables into the kernel's cache as they come: those that this begins for, each with a
        socket for who does it, to be closed."""
        for told in self.tables[1:]:
            if (other := told.push()) is not None:
                yield told, other

    def end_push(self) -> None:
        for told in self.tables:
            told.end_push()

    def learn(self, offset: int) -> None:
        """Tell where its own block at `offset` lies and those behind it, more of them as long as they are here."""
        if self.tables:
            own = self.tables[0]
            own.look_again()
            first = own.number_at(offset)
            found = own.tell(range(first, min(first + self._ahead, own.count)))
            self._ahead = min(max(1, 2 * found), limits.BLOB_LEARN_BLOCKS)

    def note(self, offset: int, size: int) -> None:
        """The small process has read this."""
        if self.tables:
            self.tables[0].look_again()
            self.tables[0].stored.note(offset, size)

    def close(self) -> None:
        for told in self.tables:
            told.close()


class Told:
    """A table, filled as blocks come here, and as reads of those do that were here before."""

    def __init__(self, stored: StoredBlocks, packs: Callable[[StoredBlocks, int], None]) -> None:
        self.stored = stored
        self.descriptor = BlockTable.create(stored.offsets, stored.ids, stored.stretches)
        self._table = BlockTable(self.descriptor, writable=True)
        self.count = self._table.count
        self._packs = packs
        self._push: PushLink | None = None
        self._end_listening = stored.listen(self._tell)

    def look_again(self) -> None:
        """Whether it is watched."""
        self._table.is_watched = self.stored.is_watched

    def close(self) -> None:
        """Tell no more."""
        self._end_listening()
        self.end_push()
        self._table.close()
        os.close(self.descriptor)

    def number_at(self, offset: int) -> int:
        """Of the block that holds a byte of its space."""
        return bisect_right(self._table.offsets, offset, hi=self.count) - 1

    def tell(self, numbers: range) -> int:
        """Tell where these blocks lie; how many are here and had not been told."""
        return sum(self._tell(number) for number in numbers if self._table.place(number) is None)

    def _tell(self, number: int) -> bool:
        place = self.stored.place(number)
        if place is None:
            return False
        self._packs(self.stored, place[0])
        self._table.tell(number, Place(*place))
        if self._push is not None:
            self._tell_pusher(place[0])
        self.look_again()  # who waited for a block may watch from then on
        return True

    def push(self) -> socket.socket | None:
        """Have its blocks put into the kernel's cache, those that are here and those that come, until `end_push`: a
        socket for the process that does it, to be closed; None if one does already."""
        if self._push is not None:
            return None
        self._push = PushLink()
        places = map(self._table.place, range(self.count))
        for pack in {place.pack for place in places if place is not None}:
            self._tell_pusher(pack)
        return self._push.take_other_end()

    def end_push(self) -> None:
        if self._push is not None:
            self._push.close()
            self._push = None

    def _tell_pusher(self, pack: int) -> None:
        assert self._push is not None
        if self._push.knows(pack):
            self._push.came(pack, None)
            return
        try:
            descriptor = self.stored.open_pack(pack)
        except OSError:
            return  # the server says so
        self._push.came(pack, descriptor)
        os.close(descriptor)
