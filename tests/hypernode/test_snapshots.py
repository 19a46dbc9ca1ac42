"""Snapshots on disk: whole, or not there, or named as damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyperlog.errors import Conflict, Corrupt, NotFound, Refused
from hypernode.api.container_requests import CreateContainer
from hypernode.containers.snapshots import Snapshot, SnapshotStore, versions_of
from hypernode.isolation import restore_point

_LINK = "hyper://" + "y" * 52
_SESSION = {"number": 1, "input_credit": 5, "output_credit": {"1": 7, "2": 9}}
_ABOUT: dict[str, Any] = {
    "shape": "s",
    "qemu": "7",
    "guest": "g",
    "accelerator": "tcg",
    "sessions": {"container": "c", "main": _SESSION, "lead": _SESSION, "program_pid": 3, "others": [_SESSION]},
}


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots")


def make(store: SnapshotStore, tmp_path: Path, tag: str = "1", about: object = _ABOUT) -> Snapshot:
    metadata = tmp_path / "metadata"
    metadata.write_bytes(b"EROFS")
    with store.making("web", tag) as state:
        state.write_bytes(b"memory" * 1000)
        asked = CreateContainer(_LINK, name="web", isolation="vm", memory=1 << 28)
        store.finish(state, "a" * 64, asked, {"link": f"{_LINK}@v3", "metadata": str(metadata)}, about)
    return store.get(f"web:{tag}")


def test_what_is_made_is_read_again(store: SnapshotStore, tmp_path: Path) -> None:
    made = make(store, tmp_path)
    made.check()
    made.check_metadata(tmp_path / "metadata")
    assert made.asked.memory == 1 << 28
    point = restore_point(made)
    assert (point.sessions.main.output_credit, point.sessions.program_pid) == ({1: 7, 2: 9}, 3)
    assert made.fields()["snapshot"] == "web:1"
    assert made.fields()["memory_bytes"] == 6000
    assert versions_of(tmp_path / "snapshots") == {"v3"}
    assert store.next_tag("web") == "2"
    make(store, tmp_path, "later")
    assert store.get("web").tag == "later"
    with pytest.raises(Conflict):
        make(store, tmp_path)
    assert store.remove("web") == ["web:1", "web:later"]
    assert not list((tmp_path / "snapshots").iterdir())


def test_what_was_not_finished_is_not_there(store: SnapshotStore, tmp_path: Path) -> None:
    with store.making("web", "1") as state:
        state.write_bytes(b"half")
    assert store.list() == []
    left = tmp_path / "snapshots/web/2.new"  # of a crash
    left.mkdir(parents=True)
    (left / "state").write_bytes(b"half")
    assert (store.list(), store.damaged(), store.next_tag("web")) == ([], [], "1")
    make(store, tmp_path, "2")
    assert not left.exists()


def test_other_metadata_than_it_has_mounted_is_refused(store: SnapshotStore, tmp_path: Path) -> None:
    made = make(store, tmp_path)
    (tmp_path / "metadata").write_bytes(b"EROFT")
    with pytest.raises(Refused, match="otherwise"):
        made.check_metadata(tmp_path / "metadata")


@pytest.mark.parametrize("memory", [b"", b"memory" * 999, b"Memory" + b"memory" * 999, b"memory" * 1001])
def test_other_memory_is_damage(store: SnapshotStore, tmp_path: Path, memory: bytes) -> None:
    made = make(store, tmp_path)
    (made.path / "state").write_bytes(memory)
    with pytest.raises(Corrupt, match="its memory"):
        made.check()
    (made.path / "state").unlink()
    with pytest.raises(Corrupt, match="cannot be read"):
        made.check()


@pytest.mark.parametrize(
    "changes",
    [
        {"link": "nonsense"},
        {"state_bytes": "many"},
        {"asked": {"v": 1, "op": "images"}},
        {"asked": {"v": 1, "op": "container-create", "link": 5}},
        {"about": []},
    ],
)
def test_odd_words_are_damage(store: SnapshotStore, tmp_path: Path, changes: dict[str, object]) -> None:
    made = make(store, tmp_path)
    info = made.path / "snapshot.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | changes))
    with pytest.raises(Corrupt, match="web:1 is damaged"):
        store.get("web:1")
    assert [name for name, _ in store.damaged()] == ["web:1"]
    info.write_bytes(b"\xff")
    with pytest.raises(Corrupt):
        store.get("web:1")
    assert store.remove("web:1") == ["web:1"]


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"sessions": 5},
        {"sessions": {**_ABOUT["sessions"], "program_pid": 1 << 40}},
        {"sessions": {**_ABOUT["sessions"], "main": {**_SESSION, "output_credit": {"3": 1}}}},
        {"sessions": {**_ABOUT["sessions"], "lead": {**_SESSION, "input_credit": -1}}},
    ],
)
def test_odd_sessions_are_damage(store: SnapshotStore, tmp_path: Path, about: dict[str, object]) -> None:
    made = make(store, tmp_path, about=about)
    with pytest.raises(Corrupt, match="what ran"):
        restore_point(made)


@pytest.mark.parametrize("text", ["", ":1", "a:", "../x:1", "a:..", "a:b:c", "web:1.new", "x" * 65])
def test_odd_names_are_refused(store: SnapshotStore, text: str) -> None:
    with pytest.raises((Refused, NotFound)):
        store.get(text)
    with pytest.raises((Refused, NotFound)):
        store.remove(text)
