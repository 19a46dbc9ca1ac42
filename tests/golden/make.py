"""Make the golden fixtures of the present format: once per format version, then kept for ever.

    .venv/bin/python -m tests.golden.make

    store-vN.tar.gz           a home at rest
    store-vN-crashed.tar.gz   one as a kill leaves it
    store-vN-BROKEN.tar.gz    damaged in one way each
    log-vN.json               what they hold, and encodings to decode

An existing file is never written over: whoever changes the format makes a new version and keeps reading this one.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from hyperlog.encoding import encode
from hyperlog.ids import BlockId, to_text
from hyperlog.key_export import export_key
from hyperlog.keys import KeyPair, write_secret
from hyperlog.limits import EXPORT_MEMORY_BYTES_MIN
from hyperlog.log import Log
from hyperlog.repository import FORMAT, Repository, open_repository
from hyperlog.run import encode_run
from hyperlog.writers import Rights

HERE: Final = Path(__file__).resolve().parent
_OWNER: Final = KeyPair.from_seed(b"golden owner key, never used \0\0\0")
_WRITER: Final = KeyPair.from_seed(b"golden writer key, never used\0\0\0")
_LEFT_OUT: Final = ("LOG", "lock", "LOCK")
PASSPHRASE: Final = "golden passphrase"


def main() -> None:
    target = HERE / f"log-v{FORMAT}.json"
    if target.exists():
        raise SystemExit(f"{target} exists; fixtures of a released format are never made anew")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        crashed = Path(scratch) / "crashed"
        content = _fill(home, crashed)
        _pack(home, "")
        _pack(crashed, "-crashed")
        _break(crashed)
    target.write_text(json.dumps(content, indent=1) + "\n")


def _fill(home: Path, crashed: Path) -> dict[str, object]:
    _prepare(home)
    with open_repository(home) as repository:
        log = _owned(repository)
        blocks = {repository.blocks.put_new(b"golden block %d " % n * 40) for n in range(4)}
        repository.blocks.sync()
        log.append(b"first")
        log.append_many([b"batched %d" % n for n in range(20)])
        log.grant(_WRITER.public, Rights.WRITE, label="a second writer")
        repository.records.put_many([(b"name", b"value")], durable=True)
        repository.ingest_index.put_many([(bytes(32), bytes(range(32)))])
    with open_repository(home) as repository:
        log = repository.logs.list()[0]
        log.write_as(_WRITER)
        log.confirm()
        log.append(b"by the second writer", links=[log.heads()[0]])
        log.write_as(_OWNER)
        log.append(b"last " * 100)
        content = _content(log, blocks)
        shutil.copytree(home, crashed)
    return content


def _prepare(home: Path) -> None:
    open_repository(home).close()
    (home / "keys").mkdir(mode=0o700)
    write_secret(home / "keys" / to_text(_OWNER.public), _OWNER.seed)


def _owned(repository: Repository) -> Log:
    """The log of the fixed owner key, which `Logs.create` would not make."""
    repository.store.write([(b"l" + _OWNER.public, encode({"name": "golden"}))], durable=True)
    log = repository.logs.list()[0]
    log.confirm()
    return log


def _content(log: Log, blocks: set[BlockId]) -> dict[str, object]:
    return {
        "format": FORMAT,
        "key": log.key.hex(),
        "name": log.name,
        "entries": [entry.encoded.hex() for _, entry in log.changes()],
        "ids": [entry.id.hex() for _, entry in log.changes()],
        "heads": [head.hex() for head in log.heads()],
        "vector": {writer.hex(): length for writer, length in log.vector().items()},
        "runs": [encode_run(log.run(writer, 0)).hex() for writer in log.vector()],
        "claims": [log.claim(writer, 0).encode().hex() for writer in log.vector()],
        "blocks": sorted(block.hex() for block in blocks),
        "exported_key": export_key(_OWNER, PASSPHRASE, memory_bytes=EXPORT_MEMORY_BYTES_MIN),
    }


def _break(crashed: Path) -> None:
    wal = max((crashed / "index").glob("*.log"), key=lambda file: file.stat().st_size)
    manifest = next((crashed / "index").glob("MANIFEST*"))
    for name, file, how in (
        ("wal-flipped", wal, "flip"),
        ("wal-cut", wal, "cut"),
        ("manifest-cut", manifest, "cut"),
        ("marks-flipped", crashed / "marks", "flip"),
        ("newer", crashed / "format", "newer"),
    ):
        good = file.read_bytes()
        data = bytearray(good)
        match how:
            case "flip":
                data[len(data) // 2 if file is wal else 200] ^= 0x10
            case "cut":
                del data[len(data) // 2 :]
            case _:
                data[:] = b"hypernode store %d\n" % (FORMAT + 1)
        file.write_bytes(data)
        _pack(crashed, f"-{name}")
        file.write_bytes(good)


def _pack(home: Path, suffix: str) -> None:
    with tarfile.open(HERE / f"store-v{FORMAT}{suffix}.tar.gz", "x:gz", compresslevel=9) as archive:
        for path in sorted(home.rglob("*")):
            if not path.name.startswith(_LEFT_OUT):
                archive.add(path, str(path.relative_to(home)), recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member


if __name__ == "__main__":
    os.umask(0o077)
    main()
