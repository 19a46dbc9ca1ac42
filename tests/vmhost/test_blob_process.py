"""The process that serves blobs: what it reads itself, what it hands to the node, what happens when it is killed."""

from __future__ import annotations

import mmap
import os
import random
import signal
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from hyperlog.hashing import blake3_256
from images.compression import compress
from tests.vmhost.support import Failures, FileBlob, in_thread, serving, until
from vmhost.blob_server import BlobServer
from vmhost.errors import MountLost

pytestmark = pytest.mark.real("root", "fuse")

_BLOCK = 65536
_BLOCKS = 40
_GRANULE = 4096


class Blocks:
    """Blocks of `raw` in a pack; `here`: those that are said to be. `stretches`: which bytes of a blob they hold."""

    def __init__(self, pack: Path, number: int, raw: list[bytes], stretches: list[tuple[int, int, int]]) -> None:
        payloads = [compress(one) for one in raw]
        pack.write_bytes(b"".join(payloads))
        self.pack = pack
        self.here = set(range(len(raw)))
        self.is_watched = False
        self.noted: list[tuple[int, int]] = []
        self.listeners: set[Callable[[int], object]] = set()
        self.offsets = array("Q", range(0, (len(raw) + 1) * _BLOCK, _BLOCK))
        self.ids = b"".join(map(blake3_256, payloads))
        self.stretches = stretches
        self.places = [(number, sum(map(len, payloads[:place])), len(payloads[place])) for place in range(len(raw))]

    def note(self, offset: int, size: int) -> None:
        self.noted.append((offset, size))

    def place(self, number: int) -> tuple[int, int, int] | None:
        return self.places[number] if number in self.here else None

    def listen(self, listener: Callable[[int], object]) -> Callable[[], None]:
        self.listeners.add(listener)
        return partial(self.listeners.remove, listener)

    def come(self, number: int) -> None:
        self.here.add(number)
        for listener in self.listeners:
            listener(number)

    def open_pack(self, number: int) -> int:
        assert number == self.places[0][0]
        return os.open(self.pack, os.O_RDONLY)


class PackedBlob(FileBlob):
    """A blob whose blocks lie in a pack too (`own`), and, once `pack_some` was called, some of its bytes in another."""

    def __init__(self, path: Path) -> None:
        chance = random.Random(3)
        raw = [(chance.randbytes(1024) * 64)[:_BLOCK] for _ in range(_BLOCKS)]
        path.write_bytes(b"".join(raw))
        super().__init__(str(path))
        self.own = Blocks(path.with_suffix(".pack"), 7, raw, [(0, _BLOCKS * _BLOCK, 0)])
        self.tables = [self.own]

    def stored(self) -> list[Blocks]:  # type: ignore[override]
        return self.tables

    def pack_some(self) -> Blocks:
        """Every third of its first granules, the last first."""
        content, firsts = self.content(), range(0, 3 * 16 * _GRANULE * 4, 3 * _GRANULE)
        packed = b"".join(content[first : first + _GRANULE] for first in reversed(firsts))
        raw = [packed[at : at + _BLOCK] for at in range(0, len(packed), _BLOCK)]
        stretches = [(first, _GRANULE, len(packed) - (place + 1) * _GRANULE) for place, first in enumerate(firsts)]
        self.tables.append(Blocks(Path(f"{self.path}.hot"), 8, raw, stretches))
        return self.tables[-1]


@pytest.fixture
def blob(tmp_path: Path) -> PackedBlob:
    return PackedBlob(tmp_path / "bytes")


def direct_reads(path: str, ranges: list[tuple[int, int]]) -> list[bytes]:
    """What the kernel reads, of which nothing is in its page cache; nothing is read ahead, to come later."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        found = []
        for offset, size in ranges:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            found.append(os.pread(descriptor, size, offset))
        return found
    finally:
        os.close(descriptor)


def read_past_caches(path: str, offset: int, size: int) -> bytes:
    """Nothing is read ahead either."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, size) as buffer:
            assert os.preadv(descriptor, [buffer], offset) == size
            return bytes(buffer)
    finally:
        os.close(descriptor)


def random_ranges(count: int) -> list[tuple[int, int]]:
    chance = random.Random(4)
    return [(chance.randrange(_BLOCKS * _BLOCK), chance.randrange(1, 3 * _BLOCK)) for _ in range(count)]


async def reads_well(path: str, blob: PackedBlob, count: int = 200) -> bool:
    ranges = random_ranges(count)
    content = blob.content()
    return await in_thread(partial(direct_reads, path, ranges)) == [content[at : at + size] for at, size in ranges]


async def test_what_lies_here_is_read_without_the_node(tmp_path: Path, blob: PackedBlob) -> None:
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        assert await reads_well(path, blob)
        before, asked = server.statistics(), len(blob.reads)
        assert before.reads_local > 0
        assert await reads_well(path, blob)
        after = server.statistics()
        assert len(blob.reads) == asked  # by now every place is known
        assert after.reads_local - before.reads_local == after.reads - before.reads > 0
        assert after.bytes_read > before.bytes_read


async def test_who_watches_a_blob_hears_of_all_reads(tmp_path: Path, blob: PackedBlob) -> None:
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        assert await reads_well(path, blob)
        assert not blob.own.noted
        blob.own.is_watched = True
        server.look_again("blob")
        before, asked = server.statistics(), len(blob.reads)
        assert await reads_well(path, blob, 50)
        made = server.statistics().reads - before.reads
        await until(lambda: len(blob.reads) - asked + len(blob.own.noted) == made > 0, "all were told")
        content, size = blob.content(), {size for _, size in blob.own.noted}
        assert size <= set(range(1, len(content)))
        blob.own.is_watched = False
        server.look_again("blob")
        noted = len(blob.own.noted)
        assert await reads_well(path, blob, 50)
    assert len(blob.own.noted) == noted


async def test_what_comes_is_read_without_the_node_from_then_on(tmp_path: Path, blob: PackedBlob) -> None:
    blob.own.here.clear()
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        assert await reads_well(path, blob, 20)
        asked = len(blob.reads)
        assert asked == server.statistics().reads
        for number in range(_BLOCKS):
            blob.own.come(number)
        assert await reads_well(path, blob)
        assert len(blob.reads) == asked
        server.remove("blob")
        assert not blob.own.listeners


@pytest.mark.parametrize("when", ["before", "mounted", "later", "piecemeal"])
async def test_bytes_that_lie_in_other_blocks_are_read_from_those(tmp_path: Path, blob: PackedBlob, when: str) -> None:
    content, blob.own.here = blob.content(), set()
    if when == "before":
        blob.pack_some()
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        if when != "before":
            hot = blob.pack_some()
            if when == "piecemeal":
                hot.here.clear()
            if when == "later":
                assert await reads_well(path, blob, 10)
            server.look_again("blob")
            for number in range(4) if when == "piecemeal" else ():
                hot.come(number)
        blob.reads.clear()
        single = [(3 * _GRANULE * number, _GRANULE) for number in range(64)]
        for at, size in single:
            assert await in_thread(partial(read_past_caches, path, at, size)) == content[at : at + size]
        assert not blob.reads
        assert await reads_well(path, blob)  # of most, some bytes are nowhere but with the node
        assert blob.reads
        blob.own.come(1)
        blob.reads.clear()
        at, size = _BLOCK - _GRANULE, _GRANULE + _BLOCK  # out of both
        assert await in_thread(partial(read_past_caches, path, at, size)) == content[at : at + size]
        assert not blob.reads


async def test_what_is_not_here_is_asked_for(tmp_path: Path, blob: PackedBlob) -> None:
    blob.own.here = set(range(0, _BLOCKS, 2))
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        for _ in range(2):
            assert await reads_well(path, blob)
        asked = {offset // _BLOCK for offset, _ in blob.reads[-20:]}
        assert asked
        assert 0 < server.statistics().reads_local < server.statistics().reads


def _spoil_pack(blob: PackedBlob) -> None:
    content = bytearray(blob.own.pack.read_bytes())
    for _, offset, length in blob.own.places[::3]:
        content[offset + length // 2] ^= 1
    blob.own.pack.write_bytes(content)


def _punch_pack(blob: PackedBlob) -> None:
    blob.own.pack.write_bytes(bytes(blob.own.pack.stat().st_size))


def _cut_pack(blob: PackedBlob) -> None:
    os.truncate(blob.own.pack, blob.own.pack.stat().st_size // 3)


@pytest.mark.parametrize("spoil", [_spoil_pack, _punch_pack, _cut_pack])
async def test_what_has_rotted_or_gone_is_never_shown(
    tmp_path: Path, blob: PackedBlob, spoil: Callable[[PackedBlob], object]
) -> None:
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        for _ in range(2):
            assert await reads_well(path, blob)
        spoil(blob)
        asked = len(blob.reads)
        assert await reads_well(path, blob)
        assert len(blob.reads) > asked


async def test_a_block_that_its_author_got_wrong_is_the_nodes_affair(tmp_path: Path, blob: PackedBlob) -> None:
    blob.own.ids = b"".join(blake3_256(b"something else") for _ in range(_BLOCKS))
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        for _ in range(2):
            assert await reads_well(path, blob, 50)
        assert server.statistics().reads_local == 0


async def test_killed_again_and_again_no_read_is_wrong_and_none_is_lost(
    tmp_path: Path, blob: PackedBlob, caplog: pytest.LogCaptureFixture
) -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9):
        pytest.skip("missing: FUSE_NOTIFY_RESEND, Linux 6.9")
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        killed: set[int] = set()
        for round_number in range(4):
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    assert await reads_well(path, blob, 100)

                blob.held = round_number % 2 == 1  # then reads wait in the node when it is killed
                for _ in range(3):
                    nursery.start_soon(read)
                if blob.held:
                    blob.own.here.clear()
                await until(lambda: server.process not in {None, *killed}, "there is a process")
                assert server.process is not None
                killed.add(server.process)
                os.kill(server.process, signal.SIGKILL)
                await until(lambda: server.process not in {None, *killed}, "another one serves")
                blob.deliver()
        assert len(killed) == 4
        server.remove("blob")
        again = server.add("blob", blob)
        assert await reads_well(again, blob, 20)
    assert "started again" in caplog.text


async def test_a_process_that_never_lives_gives_the_mounts_up(tmp_path: Path) -> None:
    server = BlobServer(str(tmp_path / "fuse"), on_read_failure=Failures())
    with pytest.RaisesGroup(pytest.RaisesExc(MountLost, match="went away"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            with trio.fail_after(120):
                while True:
                    if server.process is not None:
                        os.kill(server.process, signal.SIGKILL)
                    await trio.sleep(0.001)
