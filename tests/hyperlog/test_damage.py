"""Flipped bits, cut and missing files over a whole store: detected when opened, read or audited, or harmless; never
silent. And what repair makes of it."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from hyperlog.audit import FindingKind, audit
from hyperlog.errors import HyperError, RolledBack, StoreDamaged
from hyperlog.ids import BlockId, EntryId, LogKey
from hyperlog.repair import accept, rebuild, refetch, repair_blocks, repair_entries
from hyperlog.repository import open_repository
from tests.hyperlog.damage import Built, Peer, build, outcome, read

_DAMAGES: Final = 2000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("damage"))


def _files(path: Path) -> list[Path]:
    """Every file that says anything; RocksDB's own log texts are about the past."""
    return sorted(
        file.relative_to(path)
        for file in path.rglob("*")
        if file.is_file() and file.stat().st_size and not file.name.startswith("LOG")
    )


@pytest.mark.slow
def test_no_flip_or_cut_is_silent(built: Built, tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("HYPERNODE_SEED", "1")))
    places = [(source, file) for source in (built.rest, built.crashed) for file in _files(source)]
    seen: Counter[tuple[str, str]] = Counter()
    for number in range(_DAMAGES):
        source, file = places[number % len(places)]
        work = tmp_path / "work"
        shutil.copytree(source, work)
        data = bytearray((work / file).read_bytes())
        # Most of the marks file is room for marks to come: go for the part that says something.
        place = chance.randrange(min(len(data), 12_000))
        if number // len(places) % 3:
            data[place] ^= chance.randrange(1, 256)
        else:
            del data[place:]
        (work / file).write_bytes(data)
        found = outcome(work, built)
        assert found != "silent", f"{source.name}/{file} at {place}: content differs and nobody says so"
        seen[file.parts[0], found] += 1
        shutil.rmtree(work)
    assert seen["index", "open"] > 100
    assert seen["index", "audit"] > 50
    assert seen["blocks", "audit"] > 20
    assert seen["marks", "open"] > 50
    assert seen["format", "open"] > 50
    assert seen["keys", "audit"] > 50


@pytest.mark.parametrize("name", ["format", "marks", "index", "keys", "blocks"])
def test_a_missing_part_is_noticed(built: Built, tmp_path: Path, name: str) -> None:
    work = tmp_path / "work"
    shutil.copytree(built.crashed, work)
    part = work / name
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink()
    if name == "keys":  # indistinguishable from a log that was never writable here: shown as read-only
        with open_repository(work) as repository:
            assert not repository.logs.list()[0].writable
        return
    assert outcome(work, built) == ("audit" if name == "blocks" else "open")


@pytest.mark.parametrize("kind", ["CURRENT", "MANIFEST", "sst"])
def test_a_missing_file_of_the_database_is_noticed(built: Built, tmp_path: Path, kind: str) -> None:
    work = tmp_path / "work"
    shutil.copytree(built.rest, work)
    next(file for file in (work / "index").iterdir() if kind in file.name).unlink()
    assert outcome(work, built) == "open"


def test_a_damaged_options_file_is_harmless(built: Built, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(built.rest, work)
    for options in (work / "index").glob("OPTIONS-*"):
        options.write_bytes(options.read_bytes().replace(b"num_levels=7\n", b"num_levels=7G"))
    assert outcome(work, built) == "same"


def test_a_refused_store_is_left_as_it_was(built: Built, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(built.rest, work)
    manifest = next((work / "index").glob("MANIFEST*"))
    manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])
    before = {file: file.read_bytes() for file in work.rglob("*") if file.is_file() and not file.name.startswith("LOG")}
    with pytest.raises(StoreDamaged):
        open_repository(work)
    lock = work / "lock"
    assert all(file.read_bytes() == data for file, data in before.items() if file != lock)


def test_an_audit_of_a_good_store_finds_nothing(built: Built, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(built.crashed, work)
    with open_repository(work) as repository:
        report = audit(repository)
    assert report.findings == ()
    assert report.verified.entries == 70
    assert report.verified.blocks == 12


def test_an_audit_names_each_record_that_does_not_fit(built: Built, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(built.rest, work)
    with open_repository(work) as repository:
        log = repository.logs.list()[0]
        for prefix in (b"s", b"f", b"v", b"c", b"h", b"t"):
            key, value = next(iter(repository.store.items(prefix + log.key)))
            repository.store.write([(key, value + b"!")], durable=False)
            assert not audit(repository).clean, f"a changed {prefix!r} record was not found"
            repository.store.write([(key, value)], durable=False)
            repository.store.write((), [key], durable=False)
            assert not audit(repository).clean, f"a missing {prefix!r} record was not found"
            repository.store.write([(key, value)], durable=False)
        assert audit(repository).clean


def test_repair_takes_a_damaged_entry_from_a_peer_and_nothing_else(built: Built, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(built.rest, work)
    with open_repository(work) as repository:
        log = repository.logs.list()[0]
        good, other = log.feed(next(iter(log.vector())), 5, 2)
        key = b"f" + log.key + good.writer + good.seq.to_bytes(8, "big")
        stored = repository.store.get(key)
        assert stored is not None
        repository.store.write([(key, stored[:-1] + bytes([stored[-1] ^ 1]))], durable=True)
        found = [finding for finding in audit(repository).findings if finding.kind is FindingKind.ENTRY]
        assert next(finding.subject for finding in found) == good.id

        def liar(_: LogKey, __: EntryId) -> bytes:
            return other.encoded

        assert repair_entries(repository, log.key, [good.id], liar).entries_missing == [good.id]
        assert not audit(repository).clean
        assert repair_entries(repository, log.key, [good.id], lambda _, __: good.encoded).entries == [good.id]
        assert audit(repository).clean


def test_repair_fetches_every_rotten_block_and_believes_no_liar(built: Built, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(built.rest, work)
    payloads = dict(zip(built.blocks, built.content.blocks, strict=True))
    pack = next((work / "blocks").glob("*.pack"))
    pack.write_bytes(b"\xa5" * pack.stat().st_size)
    with open_repository(work) as repository:
        report = audit(repository)
        assert set(report.bad_blocks()) == set(built.blocks)
        nobody = repair_blocks(repository.blocks, report.bad_blocks(), lambda _: None)
        lied = repair_blocks(repository.blocks, report.bad_blocks(), lambda _: b"something else")
        assert set(nobody.blocks_missing) == set(lied.blocks_missing) == set(built.blocks)
        assert set(audit(repository).bad_blocks()) == set(built.blocks)
        assert set(repair_blocks(repository.blocks, report.bad_blocks(), payloads.get).blocks) == set(built.blocks)
        assert audit(repository).clean
        assert read(repository, built.blocks) == built.content


def test_a_block_that_reads_well_again_is_taken_back(built: Built, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(built.rest, work)
    pack = next((work / "blocks").glob("*.pack"))
    good = pack.read_bytes()
    with open_repository(work) as repository:
        pack.write_bytes(bytes(len(good)))
        bad = audit(repository).bad_blocks()
        assert repair_blocks(repository.blocks, bad, lambda _: None).blocks == []
        assert not repository.blocks.has(BlockId(bad[0]))
        pack.write_bytes(good)
        assert set(repair_blocks(repository.blocks, bad, lambda _: None).blocks) == set(built.blocks)
        assert audit(repository).clean


_INDEX_DAMAGE: Final = ["wal middle", "wal cut", "sst flip", "manifest cut", "current gone", "index gone"]


@pytest.mark.parametrize("damage", _INDEX_DAMAGE)
def test_a_rebuilt_database_has_what_verifies_and_peers_give_the_rest(
    built: Built, tmp_path: Path, damage: str
) -> None:
    work = tmp_path / "work"
    shutil.copytree(built.crashed, work)
    _damage(work / "index", damage)
    assert outcome(work, built) in ("open", "audit")
    rebuilt = rebuild(work)
    assert rebuilt.blocks == len(built.blocks)
    with open_repository(work) as repository, open_repository(built.rest) as good:
        assert audit(repository).clean
        log = repository.logs.open(built.content.key)
        assert rebuilt.entries[log.key] == log.length
        kept = [entry.header + entry.value for _, entry in log.changes()]
        assert set(kept) <= set(built.content.entries)
        assert len(kept) >= {"index gone": 0, "wal middle": 40, "wal cut": 40}.get(damage, 1)
        with pytest.raises(RolledBack):
            log.append(b"this might fork the feed")
        peer = Peer(good.logs.open(log.key))
        assert refetch(log, lambda key, vector: peer.feeds(key, dict(vector))) == 70 - len(kept)
        assert [entry.header + entry.value for _, entry in log.changes()] == list(built.content.entries)
        log.confirm()
        log.append(b"goes on")
        assert audit(repository).clean
    assert rebuilt.old.exists() == (damage != "index gone")


def _damage(index: Path, damage: str) -> None:
    wal = max(index.glob("*.log"), key=lambda file: file.stat().st_size)
    sst = max(index.glob("*.sst"), key=lambda file: file.stat().st_size)
    manifest = next(index.glob("MANIFEST*"))
    match damage:
        case "wal middle":
            _flip(wal, wal.stat().st_size // 2)
        case "wal cut":
            os.truncate(wal, wal.stat().st_size * 2 // 3)
        case "sst flip":
            _flip(sst, 100)
        case "manifest cut":
            os.truncate(manifest, manifest.stat().st_size // 2)
        case "current gone":
            (index / "CURRENT").unlink()
        case _:
            shutil.rmtree(index)


def _flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "cut", "flipped", "older"])
def test_damaged_marks_are_refused_and_can_be_accepted(built: Built, tmp_path: Path, how: str) -> None:
    work = tmp_path / "work"
    shutil.copytree(built.crashed, work)
    marks = work / "marks"
    match how:
        case "missing":
            marks.unlink()
        case "cut":
            os.truncate(marks, 1000)
        case "flipped":
            _flip(marks, 500)
        case _:
            data = marks.read_bytes()
            marks.write_bytes(data[:800] + bytes(len(data) - 800))
    with pytest.raises(StoreDamaged):
        open_repository(work)
    accept(work)
    with open_repository(work) as repository:
        assert audit(repository).clean
        assert read(repository, built.blocks) == built.content
        log = repository.logs.list()[0]
        with pytest.raises(RolledBack):
            log.append(b"x")
        log.confirm()
        log.append(b"x")


def test_the_index_of_another_home_is_refused(built: Built, tmp_path: Path) -> None:
    other = build(tmp_path)
    for source, into in ((built.rest, other.crashed), (other.rest, other.crashed)):
        work = tmp_path / "work"
        shutil.copytree(into, work)
        shutil.rmtree(work / "index")
        shutil.copytree(source / "index", work / "index")
        if source is built.rest:
            with pytest.raises(HyperError):
                open_repository(work)
        else:  # the same home's, a moment later: nothing is missing
            assert outcome(work, other) == "same"
        shutil.rmtree(work)
