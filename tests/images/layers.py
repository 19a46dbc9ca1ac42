"""Layers made by hand, and the smallest OCI layouts around them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIME = 1_700_000_000.5


class Entry:
    """One member: `kind` is a tarfile type; a str of data for readability."""

    def __init__(
        self,
        name: str,
        data: str | bytes = b"",
        *,
        kind: bytes = tarfile.REGTYPE,
        mode: int = 0o644,
        owner: tuple[int, int] = (0, 0),
        target: str = "",
        device: tuple[int, int] = (0, 0),
        mtime: float = TIME,
        pax: dict[str, str] | None = None,
    ) -> None:
        self.info = tarfile.TarInfo(name)
        self.data = data.encode() if isinstance(data, str) else data
        self.info.type, self.info.mode, self.info.linkname = kind, mode, target
        self.info.uid, self.info.gid = owner
        self.info.devmajor, self.info.devminor = device
        self.info.size, self.info.mtime = len(self.data), mtime
        self.info.pax_headers = pax or {}


def folder(name: str, mode: int = 0o755, **more: Any) -> Entry:
    return Entry(name, kind=tarfile.DIRTYPE, mode=mode, **more)


def link(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.LNKTYPE, target=target)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.SYMTYPE, mode=0o777, target=target)


def tar(entries: Sequence[Entry], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for entry in entries:
            archive.addfile(entry.info, io.BytesIO(entry.data))
    return out.getvalue()


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layout(path: Path, layers: Sequence[bytes], *, compress: bool = True, config: dict[str, Any] | None = None) -> Path:
    """An OCI layout folder of the tars `layers`, called x."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        (blobs / sha256(data)[7:]).write_bytes(data)
        return {"mediaType": kind, "digest": sha256(data), "size": len(data)}

    suffix = "+gzip" if compress else ""
    listed = [
        put(gzip.compress(data, 1, mtime=0) if compress else data, f"application/vnd.oci.image.layer.v1.tar{suffix}")
        for data in layers
    ]
    document = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [sha256(data) for data in layers]},
        "config": config or {},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": listed,
    }
    entry = put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path
