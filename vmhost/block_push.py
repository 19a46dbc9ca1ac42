"""Blocks put into the kernel's cache as they come, so that who reads them asks nobody.

What a boot trace has packed is about to be read, nearly all of it, in hundreds of small reads, each of which wakes the
process that answers it and then its reader. Instead a process beside that one unpacks each block when it comes, checks
it, and hands its bytes to the kernel (FUSE_NOTIFY_STORE, FUSE 7.12), while the container still waits for others.

That is a process of its own because to store is to wait: for a page that somebody reads at that moment, so for the
answer to that read, which whoever stores can then not give. It is a fork of the one that answers, which has all the
code in memory, lives for one start, and leaves when the node hangs up. It answers nothing, so whatever becomes of it,
reads are answered as before. It holds no lock of the connection: its parent's successor need not wait for it.

The kernel takes bytes only of a file that it has looked up: whoever is to read it opens it first.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import sys
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter
from typing import Final

from hyperlog.errors import HyperError
from hyperlog.hashing import blake3_256
from images.compression import decompress
from vmhost import fuse_protocol as fuse
from vmhost.blob_protocol import BlockTable
from vmhost.prctl import SET_PDEATHSIG, prctl

_WORD: Final = struct.Struct("=Q")  # the number of a pack, whose descriptor comes along if it is new


class PushLink:
    """The node's end. Nothing said here waits."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._packs: set[int] = set()

    def take_other_end(self) -> socket.socket:
        """For the pusher; to be closed by the caller once it was passed on."""
        return self._theirs

    def knows(self, pack: int) -> bool:
        """Whether the descriptor of that pack was passed on."""
        return pack in self._packs

    def came(self, pack: int, descriptor: int | None) -> None:
        """The table has the places of more blocks, in that pack; `descriptor` if it is not known yet."""
        # Who does not keep up has something to read yet, and looks at the table then.
        with suppress(OSError):
            socket.send_fds(self._ours, [_WORD.pack(pack)], [] if descriptor is None else [descriptor])
            self._packs.add(pack)

    def close(self) -> None:
        """It ends then."""
        self._ours.close()
        self._theirs.close()


def unpack_block(table: BlockTable, number: int, packs: dict[int, int]) -> bytes | None:
    """A block's bytes, checked; None if it is not where the table says, or that does not say."""
    place = table.place(number)
    if place is None or place.pack not in packs:
        return None
    try:
        payload = os.pread(packs[place.pack], place.length, place.offset)
        if blake3_256(payload) != table.identifier(number):
            return None  # evicted, or rotten: the node finds out
        return decompress(payload, table.offsets[number + 1] - table.offsets[number])
    except (OSError, HyperError):
        return None


def fork_pusher(device: int, node: int, table: int, control: int) -> None:
    """Start the process that pushes blocks of a table, given as descriptors. It is never waited for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getpid()
    if os.fork():
        return
    try:
        prctl(SET_PDEATHSIG, signal.SIGKILL)
        _close_all_but({2, device, table, control})
        if os.getppid() == parent:
            _Pusher(device, node, BlockTable(table, writable=False), socket.socket(fileno=control)).run()
    except Exception as error:  # noqa: BLE001  (it must not return into its parent's code)
        sys.stderr.write(f"pushing blocks ended: {error!r}\n")
    finally:
        os._exit(0)


def _close_all_but(kept: set[int]) -> None:
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor not in kept:
            with suppress(OSError):  # the listing's own
                os.close(descriptor)


class _Pusher:
    def __init__(self, device: int, node: int, table: BlockTable, control: socket.socket) -> None:
        self._device = device
        self._node = node
        self._table = table
        self._control = control
        control.setblocking(False)
        self._packs: dict[int, int] = {}
        self._stretches = sorted(table.stretches(), key=itemgetter(2))
        self._heres = [here for _, _, here in self._stretches]

    def run(self) -> None:
        """Until all is pushed, the node hangs up, or the mount has gone."""
        pending = list(range(self._table.count))
        while pending and self._hear():
            came = list(filter(self._is_here, pending))
            pending = sorted({*pending}.difference(came))
            for number in came:
                try:
                    self._push(number)
                except OSError as error:
                    if error.errno != errno.ENODEV:
                        sys.stderr.write(f"pushing blocks ended: {error.strerror}\n")
                    return

    def _hear(self) -> bool:
        """Wait for words, and take all there are; False if the node has hung up."""
        select.select([self._control], [], [])
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, _WORD.size, 1)
            except BlockingIOError:
                return True
            if not data:
                return False
            if descriptors:
                self._packs[_WORD.unpack(data)[0]] = descriptors[0]

    def _is_here(self, number: int) -> bool:
        place = self._table.place(number)
        return place is not None and place.pack in self._packs

    def _push(self, number: int) -> None:
        raw = unpack_block(self._table, number, self._packs)
        if raw is None:
            return
        first = self._table.offsets[number]
        for offset, start, end in self._pieces(first, first + len(raw)):
            data = memoryview(raw)[start - first : end - first]
            os.writev(self._device, (fuse.store_notice(self._node, offset, len(data)), data))

    def _pieces(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Of the space of the table from `first` to `last`: byte of the file, from, to."""
        for offset, size, here in self._stretches[bisect_right(self._heres, first) - 1 :]:
            start, end = max(first, here), min(last, here + size)
            if start >= end:
                return
            yield offset + start - here, start, end
