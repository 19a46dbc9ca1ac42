"""Blobs behind a real FUSE mount: exact bytes or EIO in time, and a mount that survives whatever a blob does."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from hyperlog.errors import Corrupt
from tests.vmhost.support import TOP, Failures, FileBlob, in_thread, serving, until
from vmhost.blob_server import BlobServer
from vmhost.errors import MountLost, ReadDeadline
from vmhost.mount_syscalls import mounted_at, unmount

pytestmark = pytest.mark.real("root", "fuse")


@pytest.fixture
def blob(tmp_path: Path) -> FileBlob:
    path = tmp_path / "bytes"
    path.write_bytes(random.Random(1).randbytes(3_000_123))
    return FileBlob(str(path))


def read_at(path: str, offset: int, size: int) -> bytes:
    """One pread of the file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


async def failing_read(path: str, offset: int = 0, size: int = 4096) -> int:
    """The errno of a read that must fail."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  (its errno is what is asked)
        await in_thread(partial(read_at, path, offset, size))
    assert caught.value.errno is not None
    return caught.value.errno


async def test_reads_equal_the_file(tmp_path: Path, blob: FileBlob) -> None:
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        assert await in_thread(lambda: Path(path).read_bytes()) == blob.content()
        chance = random.Random(2)
        ranges = [(0, 0), (3_000_122, 5), (3_000_123, 5), (2**62, 1), (1, 2_999_999)]
        ranges += [(chance.randrange(3_100_000), chance.randrange(1, 300_000)) for _ in range(200)]

        def differing() -> list[tuple[int, int]]:
            return [at for at in ranges if read_at(path, *at) != read_at(blob.path, *at)]

        assert await in_thread(differing) == []
        assert await in_thread(lambda: os.stat(path).st_size) == blob.size


async def test_what_was_read_once_stays_in_the_page_cache(tmp_path: Path, blob: FileBlob) -> None:
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        await in_thread(lambda: Path(path).read_bytes())
        before = server.statistics().reads
        await in_thread(lambda: Path(path).read_bytes())
        assert server.statistics().reads == before > 0


async def test_the_mount_is_read_only_and_lists_names(tmp_path: Path, blob: FileBlob) -> None:
    async with serving(tmp_path) as server:
        for name in ("one", "two", "three"):
            server.add(name, blob)
        server.remove("two")
        assert sorted(await in_thread(partial(os.listdir, server.mountpoint))) == ["one", "three"]
        for forbidden in (
            lambda: os.open(f"{server.mountpoint}/one", os.O_WRONLY),
            lambda: os.mkdir(f"{server.mountpoint}/new"),
            lambda: os.unlink(f"{server.mountpoint}/one"),
        ):
            with pytest.raises(OSError) as caught:  # noqa: PT011
                await in_thread(forbidden)
            assert caught.value.errno == errno.EROFS
        with pytest.raises(FileNotFoundError):
            await in_thread(lambda: os.stat(f"{server.mountpoint}/two"))


async def test_a_name_may_come_back_as_another_blob(tmp_path: Path, blob: FileBlob) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    async with serving(tmp_path) as server:
        path = server.add("name", blob)
        assert await in_thread(partial(read_at, path, 0, 10)) == blob.content()[:10]
        server.remove("name")
        server.add("name", FileBlob(str(other)))
        assert await in_thread(partial(read_at, path, 0, 10)) == b"other"


async def test_nobody_delivers_eio_in_time_and_then_it_works_again(
    tmp_path: Path, blob: FileBlob, caplog: pytest.LogCaptureFixture
) -> None:
    failures = Failures()
    blob.held = True
    async with serving(tmp_path, failures, deadline=0.5) as server:
        path = server.add("blob", blob)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(failing_read, path, number * 140_000)
        # All of them together: they wait side by side, not one after another. (One reader may meet a second deadline,
        # when its page was locked by the read-ahead of a neighbour.)
        assert 0.45 <= trio.current_time() - started <= 1.6
        assert all(isinstance(failure.error, ReadDeadline) and failure.name == "blob" for failure in failures.seen)
        assert 0 in {failure.offset for failure in failures.seen}
        assert await failing_read(path) == errno.EIO
        blob.deliver()
        assert await in_thread(partial(read_at, path, 0, 4096)) == blob.content()[:4096]
        assert server.statistics().reads_waiting == 0
    assert "within 0.5 s" in caplog.text


async def test_many_reads_wait_at_once(tmp_path: Path, blob: FileBlob) -> None:
    os.truncate(blob.path, 20_000_000)
    blob.held = True
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        content = blob.content()

        async def read(start: int) -> None:
            assert await in_thread(partial(read_at, path, start, 4096)) == content[start : start + 4096]

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(read, number * 600_000)
            await until(lambda: blob.waiting >= 30, "thirty reads wait")
            blob.deliver()


@pytest.mark.parametrize("held", [False, True])
async def test_errors_of_a_blob_are_eio_and_harm_nobody_else(
    tmp_path: Path, blob: FileBlob, held: bool, caplog: pytest.LogCaptureFixture
) -> None:
    failures = Failures()
    bad = FileBlob(blob.path, held=held)
    bad.delivered.set()
    async with serving(tmp_path, failures) as server:
        good_path, bad_path = server.add("good", blob), server.add("bad", bad)
        for error in (Corrupt("every peer lies"), ZeroDivisionError("a bug"), ExceptionGroup("several", [OSError()])):
            failures.seen.clear()
            caplog.clear()
            bad.failure = error
            assert await failing_read(bad_path) == errno.EIO
            assert [type(failure.error) for failure in failures.seen][:1] == [type(error)]
            # A bug comes with its traceback; an expected failure is one line.
            assert ("Traceback" in caplog.text) == (not isinstance(error, Corrupt))
        bad.failure = None
        bad.short_by = 1
        assert await failing_read(bad_path) == errno.EIO
        bad.short_by = 0
        assert await in_thread(partial(read_at, bad_path, 0, 100)) == await in_thread(
            partial(read_at, good_path, 0, 100)
        )


async def test_a_page_fault_without_data_is_sigbus(
    tmp_path: Path, blob: FileBlob, caplog: pytest.LogCaptureFixture
) -> None:
    blob.failure = Corrupt("gone")
    program = "import mmap,sys; f = open(sys.argv[1],'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); m[0]"
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        done = await trio.run_process([sys.executable, "-c", program, path], check=False)
        assert done.returncode == -signal.SIGBUS
    assert "gone" in caplog.text


async def test_a_killed_reader_dies_at_once(tmp_path: Path, blob: FileBlob) -> None:
    blob.held = True
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        async with trio.open_nursery() as nursery:
            reader: trio.Process = await nursery.start(partial(trio.run_process, ["cat", path], check=False))
            await until(lambda: blob.waiting > 0, "the read waits")
            started = trio.current_time()
            reader.kill()
            await reader.wait()
            assert trio.current_time() - started < 3
            # Its request is the kernel's read-ahead, which nobody interrupts: what comes is kept for the next reader.
            blob.deliver()


async def test_removing_a_blob_fails_what_waits_for_it(tmp_path: Path, blob: FileBlob) -> None:
    failures = Failures()
    blob.held = True
    async with serving(tmp_path, failures) as server:
        path = server.add("blob", blob)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing_read, path)
            await until(lambda: blob.waiting > 0, "the read waits")
            server.remove("blob")
        assert blob.cancelled > 0
        assert failures.seen == []  # nobody's fault


async def test_stopping_while_a_reader_waits_hangs_nobody(tmp_path: Path, blob: FileBlob) -> None:
    blob.held = True
    async with trio.open_nursery() as readers:
        async with serving(tmp_path) as server:
            path = server.add("blob", blob)
            reader = await readers.start(partial(trio.run_process, ["cat", path], check=False, capture_stderr=True))
            await until(lambda: blob.waiting > 0, "the read waits")
            started = trio.current_time()
        assert trio.current_time() - started < 5
        with trio.fail_after(5):
            assert await reader.wait() == 1


async def test_a_reader_that_holds_the_file_open_does_not_hold_us_up(tmp_path: Path, blob: FileBlob) -> None:
    async with serving(tmp_path) as server:
        path = server.add("blob", blob)
        descriptor = await in_thread(partial(os.open, path, os.O_RDONLY))
        assert isinstance(descriptor, int)
    try:
        assert mounted_at(server.mountpoint) is None
        with pytest.raises(OSError):  # noqa: PT011  (which one is the kernel's choice)
            os.pread(descriptor, 10, 0)
    finally:
        with suppress(OSError):  # closing is a message too, and nobody is there to take it
            os.close(descriptor)


@pytest.mark.parametrize("how", ["unmount", "abort"])
async def test_losing_the_mount_is_said(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    server = BlobServer(str(tmp_path / "fuse"), on_read_failure=Failures())
    with pytest.RaisesGroup(pytest.RaisesExc(MountLost, match="went away")):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            if how == "unmount":
                await in_thread(partial(unmount, server.mountpoint))
            else:
                await in_thread(server.abort)
            with trio.fail_after(10):
                await trio.sleep_forever()
    caplog.clear()


async def test_servers_follow_one_another(tmp_path: Path, blob: FileBlob) -> None:
    for _ in range(3):
        async with serving(tmp_path) as server:
            path = server.add("blob", blob)
            assert len(await in_thread(partial(read_at, path, 5, 5))) == 5


def test_the_dead_mount_of_a_killed_server_is_replaced(tmp_path: Path, blob: FileBlob) -> None:
    program = (
        "import sys, time, trio; from tests.vmhost.support import *; from pathlib import Path\n"
        "async def main():\n"
        "    async with serving(Path(sys.argv[1])) as server:\n"
        "        server.add('blob', FileBlob(sys.argv[2])); print('ready', flush=True); await trio.sleep_forever()\n"
        "trio.run(main)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), blob.path], cwd=TOP, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == b"ready\n"
        descriptor = os.open(tmp_path / "fuse/blob", os.O_RDONLY)
        process.kill()
        process.wait(60)
    errors: list[int | None] = [errno.ECONNABORTED]  # what is asked just as it ends
    while errors[-1] == errno.ECONNABORTED:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            os.listdir(tmp_path / "fuse")
        errors.append(caught.value.errno)
        assert len(errors) < 100
    assert errors[-1] == errno.ENOTCONN

    async def again() -> None:
        async with serving(tmp_path) as server:
            path = server.add("blob", blob)
            assert await in_thread(partial(read_at, path, 0, 9)) == blob.content()[:9]

    trio.run(again)
    with suppress(OSError):  # closing is a message too, and its server is dead
        os.close(descriptor)
