"""Blocks put into the kernel's cache as they come: who reads them asks nobody, and nobody waits because of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.vmhost.support import Failures, FileBlob, SmallImage, image, in_thread, needs_programs, serving, until
from tests.vmhost.test_blob_process import Blocks, PackedBlob, blob, direct_reads
from vmhost.blob_server import BlobServer
from vmhost.image_mount import CONTAINER_LOWER, mount_image, read_past_cache, read_through_cache

__all__ = ["blob", "image"]  # fixtures

pytestmark = pytest.mark.real("root", "fuse")

_PAGE = 4096
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


def cached_pages(path: str) -> set[int]:
    """The pages of a file that the kernel has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY) as memory:
            there = ctypes.create_string_buffer(-(-len(memory) // _PAGE))
            first = ctypes.c_char.from_buffer(memory)
            try:
                assert _libc.mincore(ctypes.addressof(first), len(memory), there) == 0
            finally:
                del first
            return {page for page, state in enumerate(there.raw[: -(-len(memory) // _PAGE)]) if state & 1}
    finally:
        os.close(descriptor)


async def are_cached(path: str, pages: set[int]) -> None:
    with trio.fail_after(30):
        while await in_thread(partial(cached_pages, path)) != pages:  # noqa: ASYNC110  (the kernel signals no event of ours)
            await trio.sleep(0.01)


def packed_pages(blocks: Blocks, numbers: set[int]) -> set[int]:
    """The pages of the file that these blocks hold."""
    return {start // _PAGE for start, _, here in blocks.stretches if here // 65536 in numbers}


def pushers(server: BlobServer) -> set[int]:
    assert server.process is not None
    found = Path(f"/proc/{server.process}/task/{server.process}/children").read_text().split()
    return set(map(int, found))


@contextmanager
def opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("when", ["here", "comes"])
async def test_what_was_pushed_is_read_without_anybody_being_asked(tmp_path: Path, blob: PackedBlob, when: str) -> None:
    hot, content = blob.pack_some(), blob.content()
    if when == "comes":
        hot.here.clear()
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        await in_thread(partial(os.stat, path))  # the kernel takes bytes of what it knows only
        server.push("blob")
        if when == "comes":
            hot.come(2)
            await are_cached(path, packed_pages(hot, {2}))
            for number in (0, 1, 3):
                hot.come(number)
        pages = packed_pages(hot, {0, 1, 2, 3})
        assert len(pages) == 64
        await are_cached(path, pages)

        def read() -> None:
            with opened(path) as descriptor:
                for page in pages:
                    assert os.pread(descriptor, _PAGE, page * _PAGE) == content[page * _PAGE : (page + 1) * _PAGE]

        await in_thread(read)
        assert server.statistics().reads == 0
        await until(lambda: not pushers(server), "who pushed has ended, as all was")
        server.push("blob")  # it was begun
        assert not pushers(server)
        server.end_push("blob")


async def test_who_pushes_ends_before_all_has_come(tmp_path: Path, blob: PackedBlob) -> None:
    hot = blob.pack_some()
    hot.here.clear()
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        await in_thread(partial(os.stat, path))
        server.push("blob")
        hot.come(2)
        await are_cached(path, packed_pages(hot, {2}))
        assert len(pushers(server)) == 1
        server.end_push("blob")
        await until(lambda: not pushers(server), "who pushed has ended")
        hot.come(1)
    assert not hot.listeners


async def test_what_is_not_what_its_id_says_is_not_pushed(tmp_path: Path, blob: PackedBlob) -> None:
    hot = blob.pack_some()
    spoilt = bytearray(hot.pack.read_bytes())
    spoilt[hot.places[1][1] + 5] ^= 1
    hot.pack.write_bytes(spoilt)
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        await in_thread(partial(os.stat, path))
        server.push("blob")
        await are_cached(path, packed_pages(hot, {0, 2, 3}))
        page = min(packed_pages(hot, {1}))
        found = await in_thread(partial(direct_reads, path, [(page * _PAGE, _PAGE)]))
        assert found == [blob.content()[page * _PAGE : (page + 1) * _PAGE]]


async def test_what_the_kernel_does_not_know_yet_is_not_pushed_and_read_all_the_same(
    tmp_path: Path, blob: PackedBlob
) -> None:
    hot = blob.pack_some()
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        server.push("blob")
        await until(lambda: not pushers(server), "who pushed has ended")
        page = min(packed_pages(hot, {1}))
        found = await in_thread(partial(direct_reads, path, [(page * _PAGE, _PAGE)]))
        assert found == [blob.content()[page * _PAGE : (page + 1) * _PAGE]]


async def _one_waits_for_a_page_that_is_pushed(server: BlobServer, path: str, blob: PackedBlob, page: int) -> None:
    """Who pushes waits then until that read is answered, as the kernel has locked the page."""
    hot = blob.pack_some()
    hot.here.clear()
    server.look_again("blob")
    server.push("blob")
    hot.come(1)
    assert page in packed_pages(hot, {1})
    await until(lambda: [_state(pusher) for pusher in pushers(server)] == ["D"], "who pushes waits for the page")


def _has_ended(process: int) -> bool:
    try:
        return _state(process) == "Z"  # some process up from here will reap it
    except FileNotFoundError:
        return True


def _state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


async def test_others_read_on_while_who_pushes_waits(tmp_path: Path, blob: PackedBlob) -> None:
    content, blob.held, blob.own.here = blob.content(), True, set()
    page = 3 * 40  # in the second block of what is packed
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                found = await in_thread(partial(direct_reads, path, [(page * _PAGE, _PAGE)]))
                assert found == [content[page * _PAGE : (page + 1) * _PAGE]]

            nursery.start_soon(read)
            await until(lambda: blob.waiting == 1, "a read waits")
            await _one_waits_for_a_page_that_is_pushed(server, path, blob, page)
            for number in range(20, 24):
                blob.own.come(number)
            far = [(number * 65536, 65536) for number in range(20, 24)]
            with trio.fail_after(30):
                assert await in_thread(partial(direct_reads, path, far)) == [content[at : at + n] for at, n in far]
            blob.deliver()
        server.end_push("blob")
        await until(lambda: not pushers(server), "who pushed has ended")


@pytest.mark.parametrize("end", ["removed", "killed", "unmounted"])
async def test_who_pushes_and_waits_holds_nothing_up(tmp_path: Path, blob: PackedBlob, end: str) -> None:
    content, blob.held, blob.own.here = blob.content(), True, set()
    page = 3 * 40
    failures = Failures()
    with trio.fail_after(30):
        async with serving(tmp_path, failures) as server, trio.open_nursery() as nursery:
            path = server.add("blob", blob)

            async def read() -> None:
                with suppress(OSError):  # or what was pushed into the page is found in it
                    found = await in_thread(partial(direct_reads, path, [(page * _PAGE, _PAGE)]))
                    assert found == [content[page * _PAGE : (page + 1) * _PAGE]]

            nursery.start_soon(read)
            await until(lambda: blob.waiting == 1, "a read waits")
            await _one_waits_for_a_page_that_is_pushed(server, path, blob, page)
            (pusher,) = pushers(server)
            if end == "removed":
                server.remove("blob")
            elif end == "killed":
                assert server.process is not None
                os.kill(server.process, signal.SIGKILL)  # the next one knows of the block, and answers
            else:
                nursery.cancel_scope.cancel()
        await until(lambda: _has_ended(pusher), "who pushed has ended")


@needs_programs
async def test_a_mount_reads_through_the_cache_and_past_it_again(tmp_path: Path, image: SmallImage) -> None:
    blob = FileBlob(image.blob)
    async with (
        serving(tmp_path) as server,
        mount_image(
            server,
            [("blob", blob)],
            metadata_path=image.metadata,
            target=str(tmp_path / "lower"),
            flags=CONTAINER_LOWER,
        ) as lower,
    ):
        below = server.path_of("blob")

        def content(name: str) -> bool:
            return Path(f"{lower}/data/{name}").read_bytes() == (image.root / "data" / name).read_bytes()

        assert await in_thread(partial(content, "file1"))
        assert not await in_thread(partial(cached_pages, below))
        await in_thread(partial(read_through_cache, lower))
        blob.reads.clear()
        assert await in_thread(partial(content, "file2"))
        assert {size for _, size in blob.reads} == {_PAGE}
        assert len(await in_thread(partial(cached_pages, below))) == len(blob.reads) > 70
        await in_thread(partial(read_past_cache, lower, below))
        assert not await in_thread(partial(cached_pages, below))
        blob.reads.clear()
        assert await in_thread(partial(content, "file3"))
        assert max(size for _, size in blob.reads) > _PAGE
        assert not await in_thread(partial(cached_pages, below))
