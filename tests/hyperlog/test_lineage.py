"""A home that was restored from a backup, copied or moved does not fork its own feeds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hyperlog.errors import RolledBack
from hyperlog.ids import to_text
from hyperlog.repository import open_repository


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return tmp_path / "state"


def _append(home: Path, outside: Path | None, value: bytes) -> int:
    """Append to the one log (made when there is none); its seq."""
    with open_repository(home, outside=outside) as repository:
        log = repository.logs.named("log") or repository.logs.create("log")
        return log.append(value).seq


def test_a_home_in_its_place_goes_on(home: Path, outside: Path) -> None:
    assert [_append(home, outside, b"%d" % n) for n in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("with_outside", [True, False])
def test_a_restored_backup_does_not_append(home: Path, outside: Path, tmp_path: Path, with_outside: bool) -> None:
    place = outside if with_outside else None
    _append(home, place, b"0")
    shutil.copytree(home, tmp_path / "backup", copy_function=shutil.copy2)
    _append(home, place, b"1")
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "backup", home, copy_function=shutil.copy2)
    with pytest.raises(RolledBack) as caught:
        _append(home, place, b"another 1")
    assert caught.value.hint is not None
    with open_repository(home, outside=place) as repository:
        assert repository.logs.list()[0].length == 1


def test_a_backup_copied_over_the_home_file_by_file_is_recognised_by_the_mark_outside(
    home: Path, outside: Path, tmp_path: Path
) -> None:
    _append(home, outside, b"0")
    shutil.copytree(home, tmp_path / "backup")
    _append(home, outside, b"1")
    for part in ("index", "marks", "keys"):  # as rsync does: what did not change, `origin`, keeps its inode
        target = home / part
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        source = tmp_path / "backup" / part
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
    with pytest.raises(RolledBack, match="once had 2 entries"):
        _append(home, outside, b"another 1")


def test_a_copy_asks_and_the_original_goes_on(home: Path, outside: Path, tmp_path: Path) -> None:
    _append(home, outside, b"0")
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    assert _append(home, outside, b"1") == 1
    with pytest.raises(RolledBack):
        _append(copy, None, b"another 1")
    with open_repository(copy) as repository:
        repository.logs.list()[0].confirm()
    assert _append(copy, None, b"confirmed by a person") == 1


def test_missing_entries_from_a_replica_end_the_alarm(home: Path, outside: Path, tmp_path: Path) -> None:
    _append(home, outside, b"0")
    shutil.copytree(home, tmp_path / "backup")
    _append(home, outside, b"1")
    with open_repository(home) as repository:
        key = repository.logs.list()[0].key
        replica = [entry.encoded for _, entry in repository.logs.open(key).changes()]
    shutil.rmtree(home)
    (tmp_path / "backup").rename(home)
    with open_repository(home, outside=outside) as repository:
        log = repository.logs.open(key)
        log.confirm()
        with pytest.raises(RolledBack, match="once had 2 entries"):
            log.append(b"still not")
        log.add_all(replica)
        assert log.append(b"2").seq == 2


def test_a_torn_mark_outside_leaves_the_one_before(home: Path, outside: Path) -> None:
    for number in range(4):
        _append(home, outside, b"%d" % number)
    (mark,) = (outside / "feeds").iterdir()
    data = bytearray(mark.read_bytes())
    data[40] ^= 1  # slot 0 holds length 4
    mark.write_bytes(data)
    with open_repository(home, outside=outside) as repository:
        log = repository.logs.list()[0]
        (writer,) = log.vector()
        found = repository.lineage.feed_mark(log.key, writer)
        assert found is not None
        assert found.length == 3
        assert log.append(b"4").seq == 4


def test_the_mark_outside_does_not_tell_the_log_key(home: Path, outside: Path) -> None:
    _append(home, outside, b"0")
    with open_repository(home) as repository:
        key = repository.logs.list()[0].key
    (mark,) = (outside / "feeds").iterdir()
    assert to_text(key) not in mark.name
    assert mark.stat().st_mode & 0o777 == 0o600
    assert (outside / "feeds").stat().st_mode & 0o777 == 0o700


def test_an_unwritable_place_outside_does_not_stop_the_log(home: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    assert _append(home, blocked, b"0") == 0
    assert _append(home, blocked, b"1") == 1


def test_a_home_whose_files_changed_owner_asks_once(home: Path, outside: Path) -> None:
    _append(home, outside, b"0")
    os.chmod(home / "origin", 0o400)
    with pytest.raises(RolledBack):
        _append(home, outside, b"1")
    with open_repository(home, outside=outside) as repository:
        repository.logs.list()[0].confirm()
    assert _append(home, outside, b"1") == 1
