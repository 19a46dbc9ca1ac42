"""A repository as a process finds it: new, locked, of a newer format, of somebody else, on a full disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyperlog.audit import audit
from hyperlog.errors import BlockMissing, HyperError, Refused, StoreDamaged, StoreFull, StoreLocked, StoreTooNew
from hyperlog.ids import block_id
from hyperlog.repository import open_repository


def test_a_new_home_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_repository(tmp_path / "a" / "home") as repository:
            repository.logs.create("x")
            repository.blocks.put_new(b"x")
    finally:
        os.umask(before)
    home = tmp_path / "a" / "home"
    assert home.stat().st_mode & 0o777 == 0o700
    for secret in (home / "keys").iterdir():
        assert secret.stat().st_mode & 0o777 == 0o600


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    with open_repository(tmp_path / "home") as repository:
        log = repository.logs.create("x")
        first = log.append(b"1")
        block = repository.blocks.put_new(b"payload")
        repository.records.put_many([(b"a", b"b")], durable=True)
    with open_repository(tmp_path / "home") as repository:
        log = repository.logs.open(log.key)
        assert log.get(first.id) == first
        assert log.append(b"2").seq == 1
        assert repository.blocks.get(block) == b"payload"
        assert repository.records.get(b"a") == b"b"


def test_the_process_that_holds_a_home_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    code = (
        "import sys; from pathlib import Path; from hyperlog.repository import open_repository\n"
        "with open_repository(Path(sys.argv[1])): print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=rf"in use by process {holder.pid} \(python"):
            open_repository(home)
        holder.kill()
    with open_repository(home) as repository:  # the lock goes with the process, whatever the file still says
        assert audit(repository).clean


def test_a_home_may_not_be_opened_twice_by_one_process(tmp_path: Path) -> None:
    with open_repository(tmp_path), pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
        open_repository(tmp_path)
    open_repository(tmp_path).close()


@pytest.mark.parametrize("number", ["2", "10", "18446744073709551617"])
def test_a_newer_format_is_refused_before_anything_is_written(tmp_path: Path, number: str) -> None:
    (tmp_path / "format").write_text(f"hypernode store {number}\n")
    with pytest.raises(StoreTooNew, match=f"format {number}"):
        open_repository(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} <= {"format", "lock"}


@pytest.mark.parametrize(
    "text",
    ["", "hypernode store", "hypernode store 1", "hypernode store 01\n", "hypernode store -1\n", "x" * 9999, "1\n"],
)
def test_an_odd_format_file_is_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / "format").write_text(text)
    with pytest.raises(StoreDamaged, match="format does not say"):
        open_repository(tmp_path)


def test_a_home_that_others_can_change_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    open_repository(home).close()
    home.chmod(0o777)
    with pytest.raises(Refused) as caught:
        open_repository(home)
    assert caught.value.hint is not None
    assert f"chmod 700 {home}" in caught.value.hint
    home.chmod(0o700)
    open_repository(home).close()


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o705])
def test_a_home_that_others_can_look_into_is_closed(tmp_path: Path, mode: int) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "lost+found").mkdir()  # a disk of its own
    for _ in range(2):
        home.chmod(mode)
        with open_repository(home):
            assert home.stat().st_mode & 0o777 == 0o700


def test_a_directory_of_others_things_is_not_closed_to_them(tmp_path: Path) -> None:
    directory = tmp_path / "somewhere"
    directory.mkdir()
    (directory / "letter").touch()
    directory.chmod(0o755)
    with pytest.raises(Refused, match="has other things in it"):
        open_repository(directory)
    assert directory.stat().st_mode & 0o777 == 0o755
    directory.chmod(0o700)
    with open_repository(directory):
        assert (directory / "letter").exists()


def test_a_file_in_place_of_a_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("x")
    with pytest.raises(Refused):
        open_repository(tmp_path / "home")


def test_failing_to_open_leaves_no_descriptor(tmp_path: Path) -> None:
    open_repository(tmp_path).close()
    (tmp_path / "marks").unlink()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(StoreDamaged):
            open_repository(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_appends_of_a_group_are_one_sync_and_all_there(tmp_path: Path) -> None:
    with open_repository(tmp_path) as repository:
        log = repository.logs.create("x")
        before = (tmp_path / "marks").read_bytes()
        with repository.grouped():
            for number in range(500):
                log.append(b"%d" % number)
            assert (tmp_path / "marks").read_bytes() == before
    with open_repository(tmp_path) as repository:
        assert [entry.value for _, entry in repository.logs.open(log.key).changes()] == [b"%d" % n for n in range(500)]


def test_opening_and_closing_is_fast(tmp_path: Path) -> None:
    with open_repository(tmp_path) as repository:
        log = repository.logs.create("x")
        with repository.grouped():
            for _ in range(1000):
                log.append(bytes(200))
    times = []
    for _ in range(7):
        start = time.perf_counter()
        open_repository(tmp_path).close()
        times.append(time.perf_counter() - start)
    assert sorted(times)[1] < 0.030 * 3, f"opening takes {sorted(times)[1] * 1e3:.0f} ms"  # 6 to 12 ms when undisturbed


def test_threads_put_and_get_blocks(tmp_path: Path) -> None:
    with open_repository(tmp_path) as repository:
        blocks = repository.blocks
        failures: list[Exception] = []

        def work(thread: int) -> None:
            try:
                for number in range(50):
                    payload = b"%d of %d" % (number, thread % 3) * 100
                    assert blocks.get(blocks.put_new(payload)) == payload
                    if number % 20 == 0:
                        blocks.sync()
            except (HyperError, AssertionError) as error:  # told to the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sum(1 for _ in blocks.ids()) == 150
        assert audit(repository).clean


@contextmanager
def _tiny_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _until_full(write: Callable[[int], object]) -> int:
    """How many writes succeed before one raises `StoreFull`."""
    for count in range(100_000):
        try:
            write(count)
        except StoreFull:
            return count
    raise AssertionError("the disk never became full")


@pytest.mark.real
@pytest.mark.slow
def test_a_full_disk_is_a_clean_error_reads_go_on_and_writing_resumes(tmp_path: Path) -> None:
    with _tiny_disk(tmp_path / "disk", "40m") as disk:
        home, ballast = disk / "home", disk / "ballast"
        ballast.write_bytes(bytes(32 << 20))
        with open_repository(home) as repository:
            log = repository.logs.create("x")
            acknowledged = _until_full(lambda n: log.append(b"%d " % n + os.urandom(30_000)))
            assert acknowledged > 20
            assert len(list(log.changes())) == acknowledged
            assert _until_full(lambda _: log.append(b"x")) == 0
            _until_full(lambda _: repository.blocks.put_new(os.urandom(5000)))
            assert [entry.value.split()[0] for _, entry in log.changes()] == [b"%d" % n for n in range(acknowledged)]
            ballast.unlink()
            deadline = time.monotonic() + 20
            while log.length == acknowledged:
                assert time.monotonic() < deadline, "writing did not resume"
                with contextlib.suppress(StoreFull):
                    log.append(b"resumed")
                time.sleep(0.1)  # RocksDB looks for space every few seconds
        with open_repository(home) as repository:
            log = repository.logs.open(log.key)
            assert log.length == acknowledged + 1
            assert audit(repository).clean


@pytest.mark.real
def test_a_disk_full_of_blocks_has_room_left_to_collect_them(tmp_path: Path) -> None:
    with _tiny_disk(tmp_path / "disk", "24m") as disk, open_repository(disk / "home") as repository:
        blocks = repository.blocks
        kept = blocks.put_new(b"kept")
        assert _until_full(lambda _: blocks.put_new(os.urandom(60_000))) > 200
        blocks.evict([identifier for identifier, _ in blocks.ids() if identifier != kept])
        assert blocks.reclaim() > 12 << 20
        assert blocks.get(blocks.put_new(os.urandom(60_000)))
        assert blocks.get(kept) == b"kept"


@pytest.mark.real
def test_a_disk_that_is_full_from_the_start_is_a_clean_error(tmp_path: Path) -> None:
    with _tiny_disk(tmp_path / "disk", "1m") as disk:
        (disk / "ballast").write_bytes(bytes(1_000_000))
        with pytest.raises(StoreFull):
            open_repository(disk / "home")
        (disk / "ballast").unlink()
        open_repository(disk / "home").close()


def test_what_is_read_from_memory_is_what_get_would_give(tmp_path: Path) -> None:
    """Where the file system cannot tell what is in memory, nothing is."""
    with open_repository(tmp_path) as repository:
        blocks = repository.blocks
        good, rotten = blocks.put_new(b"good" * 1000), blocks.put_new(b"rotten" * 1000)
        place = blocks.place(rotten)
        assert place is not None
        with (tmp_path / "blocks" / "000001.pack").open("r+b") as pack:
            pack.seek(place.offset)
            pack.write(b"R")
        can_tell = blocks.get_cached(good) is not None
        assert blocks.get_cached(good) == (b"good" * 1000 if can_tell else None)
        assert blocks.get_cached(rotten) is blocks.get_cached(block_id(b"absent")) is None
        assert list(blocks.set_aside()) == [], "who reads from memory only changes nothing"
        with pytest.raises(BlockMissing, match="rotted"):
            blocks.get(rotten)


def test_a_lost_pack_is_missing_blocks_and_not_made_anew(tmp_path: Path) -> None:
    with open_repository(tmp_path) as repository:
        identifier = repository.blocks.put_new(b"x" * 100)
    pack = tmp_path / "blocks" / "000001.pack"
    pack.rename(tmp_path / "blocks" / "000002.pack")
    with open_repository(tmp_path) as repository:
        assert audit(repository).bad_blocks() == [identifier]
        with pytest.raises(BlockMissing):
            repository.blocks.get(identifier)
        assert not pack.exists()
        assert repository.blocks.recover() == 1
        assert repository.blocks.get(identifier) == b"x" * 100
        assert audit(repository).clean
