"""Every format that was ever released is read for ever, and its broken stores are recognised."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any, Final

import pytest

from hyperlog.audit import audit
from hyperlog.entry import decode_claim, decode_entry
from hyperlog.errors import HyperError, RolledBack, StoreDamaged, StoreTooNew
from hyperlog.ids import BlockId, LogKey
from hyperlog.key_export import import_key
from hyperlog.log import Logs
from hyperlog.repair import accept, rebuild
from hyperlog.repository import FORMAT, open_repository
from hyperlog.run import encode_run
from hyperlog.store import MemoryStore
from hyperlog.watermarks import Watermarks

_HERE: Final = Path(__file__).parent
_VERSIONS: Final = range(1, FORMAT + 1)


def _unpack(name: str, where: Path) -> Path:
    with tarfile.open(_HERE / f"{name}.tar.gz") as archive:
        archive.extractall(where / name, filter="tar")
    (where / name).chmod(0o700)
    return where / name


def _content(version: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((_HERE / f"log-v{version}.json").read_text())
    return content


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("state", ["", "-crashed"])
def test_a_store_of_every_version_opens_whole(tmp_path: Path, version: int, state: str) -> None:
    content = _content(version)
    with open_repository(_unpack(f"store-v{version}{state}", tmp_path)) as repository:
        assert audit(repository).findings == ()
        log = repository.logs.open(LogKey(bytes.fromhex(content["key"])))
        assert log.name == content["name"]
        assert [entry.id.hex() for _, entry in log.changes()] == content["ids"]
        assert [head.hex() for head in log.heads()] == content["heads"]
        assert {writer.hex(): length for writer, length in log.vector().items()} == content["vector"]
        assert [identifier.hex() for identifier, _ in repository.blocks.ids()] == content["blocks"]
        for identifier in content["blocks"]:
            assert repository.blocks.get(BlockId(bytes.fromhex(identifier))).startswith(b"golden block")
        assert repository.records.get(b"name") == b"value"
        assert repository.ingest_index.get(bytes(32)) == bytes(range(32))
        with pytest.raises(RolledBack):  # a fixture is a copy of somebody's home
            log.append(b"x")
        log.confirm()
        assert log.append(b"goes on").seq == content["vector"][log.key.hex()]
        assert audit(repository).clean


@pytest.mark.parametrize("version", _VERSIONS)
def test_encodings_of_every_version_are_read_and_written_the_same(tmp_path: Path, version: int) -> None:
    content = _content(version)
    marks = Watermarks(tmp_path / "marks")
    log = Logs(MemoryStore(), marks, tmp_path / "keys").add_remote(LogKey(bytes.fromhex(content["key"])))
    for encoded, identifier in zip(content["entries"], content["ids"], strict=True):
        entry = decode_entry(bytes.fromhex(encoded))
        assert entry.encoded.hex() == encoded
        assert entry.id.hex() == identifier
        log.add(bytes.fromhex(encoded))
    assert [head.hex() for head in log.heads()] == content["heads"]
    assert [encode_run(log.run(writer, 0)).hex() for writer in log.vector()] == content["runs"]
    for run in content["runs"]:
        assert log.add_run(bytes.fromhex(run)) == 0
    for claim in content["claims"]:
        assert decode_claim(bytes.fromhex(claim)).encode().hex() == claim
    assert import_key(content["exported_key"], "golden passphrase").public.hex() == content["key"]
    marks.close()


_BROKEN: Final = {
    "wal-flipped": (StoreDamaged, "checksum|Corruption"),
    "wal-cut": (StoreDamaged, "lost its last"),
    "manifest-cut": (StoreDamaged, "Corruption|lost"),
    "marks-flipped": (StoreDamaged, "high-water marks"),
    "newer": (StoreTooNew, "newer"),
}


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("name", _BROKEN)
def test_a_broken_store_of_every_version_is_recognised_and_rebuilt(tmp_path: Path, version: int, name: str) -> None:
    home = _unpack(f"store-v{version}-{name}", tmp_path)
    kind: type[HyperError] = _BROKEN[name][0]
    with pytest.raises(kind, match=_BROKEN[name][1]):
        open_repository(home)
    if name == "newer":
        with pytest.raises(StoreTooNew):
            rebuild(home)
        return
    if name == "marks-flipped":
        accept(home)
    else:
        rebuild(home)
    with open_repository(home) as repository:
        assert audit(repository).clean
        log = repository.logs.open(LogKey(bytes.fromhex(_content(version)["key"])))
        assert {entry.id.hex() for _, entry in log.changes()} <= set(_content(version)["ids"])
        assert log.length >= 22  # what lay in finished files of the database
        assert sum(1 for _ in repository.blocks.ids()) == len(_content(version)["blocks"])
