"""Importing, verifying and publishing one tree, and what a changed file costs.

    python -m bench.images TREE [--json]

`import_mb_per_s`       bytes of files ÷ time of a first import into an empty store, durable
`import_rss_mb`         the largest resident size of a process that does only that
`verify_mb_per_s`       stored bytes ÷ time to read and hash every block of the version
`one_file_change_ratio` stored bytes that a version with one changed large file adds, manifest and all, ÷ the stored
                        bytes of that file's blocks
`small_file_change_ratio` the same for a script of some kilobytes, against the block that it shares with its neighbours
`stored_ratio`          stored bytes ÷ bytes of files
`publish_seconds`       until the tree could be handed to somebody: us, and the tools of others that are installed.
                        eStargz (Debian's stargz-snapshotter, containerd and umoci) is only the conversion of an
                        image that containerd holds already
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hyperlog.hashing import blake3_256
from hyperlog.repository import Repository, open_repository
from images.import_dir import Imported, import_directory
from images.manifest_store import ManifestRef

_MB: Final = 1_000_000
_CHANGED_BYTES: Final = 8 * _MB
_OTHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "mksquashfs": ("mksquashfs", "{tree}", "{out}/squashfs", "-comp", "zstd", "-no-progress", "-quiet"),
    "mkfs.erofs": ("mkfs.erofs", "-zlz4", "--quiet", "{out}/erofs", "{tree}"),
    "casync": ("casync", "make", "--store={out}/castr", "{out}/tree.caidx", "{tree}"),
}


def _import(home: Repository, tree: Path, previous: ManifestRef | None = None) -> Imported:
    return import_directory(
        str(tree),
        home.blocks,
        home.ingest_index,
        progress=lambda _: None,
        should_stop=lambda: False,
        previous=previous,
    )


def measure_import(tree: Path, place: Path) -> dict[str, Any]:
    """Import and verify in this process, which must not have done anything else."""
    with open_repository(place / "home") as home:
        began = time.monotonic()
        made = _import(home, tree)
        seconds = time.monotonic() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        blocks = {block.id for block in made.manifest.blocks()}
        began = time.monotonic()
        size = sum(len(home.blocks.get(block)) for block in blocks)
        verifying = time.monotonic() - began
    return {
        "import_mb_per_s": round(made.image_bytes / _MB / seconds, 1),
        "import_rss_mb": round(peak / _MB, 1),
        "verify_mb_per_s": round(size / _MB / verifying, 1),
        "stored_ratio": round(made.stored_bytes / made.image_bytes, 4),
        "image_mb": round(made.image_bytes / _MB, 1),
        "inodes": made.inodes,
        "hypernode_seconds": round(seconds, 2),
    }


def measure_change(tree: Path, place: Path) -> dict[str, Any]:
    """What the next version costs when one large file of a copy of the tree is another."""
    copy = place / "copy"
    subprocess.run(["cp", "-a", "--reflink=auto", os.fspath(tree), os.fspath(copy)], check=True)
    target = copy / "changed-file"
    target.write_bytes(_filler(b"before", _CHANGED_BYTES))
    with open_repository(place / "second") as home:
        _import(home, copy)
        small = next(path for path in sorted(copy.rglob("*.py")) if 4096 < path.stat().st_size < 16384)
        again = _import(home, copy)
        small.write_bytes(small.read_bytes() + b"# changed\n")
        little = _import(home, copy, again.ref)
        shared = sum(block.stored_bytes for block in set(little.manifest.blocks()) - set(again.manifest.blocks()))
        target.write_bytes(_filler(b"after", _CHANGED_BYTES))
        made = _import(home, copy, little.ref)
        number = made.manifest.lookup(b"changed-file")
        assert number is not None
        (run,) = made.manifest.inode(number).runs
        start, end = run.granule * 4096, run.granule * 4096 + _CHANGED_BYTES
        own = sum(block.stored_bytes for block in made.manifest.blocks() if start <= block.offset < end)
    return {
        "unchanged_new_bytes": again.new_bytes,
        "one_file_change_ratio": round(made.new_bytes / own, 4),
        "small_file_change_ratio": round(little.new_bytes / shared, 4),
    }


def _filler(seed: bytes, size: int) -> bytes:
    """Bytes that compress to about two thirds, as programs do."""
    parts = []
    for number in range(size // 64):
        digest = blake3_256(seed + number.to_bytes(8, "little"))
        parts.append(digest + digest[:10] + bytes(22))
    return b"".join(parts)


def measure_others(tree: Path, place: Path) -> dict[str, float]:
    """Seconds of each tool that is installed."""
    found = {}
    for name, argv in _OTHERS.items():
        if shutil.which(argv[0]):
            out = place / name
            out.mkdir()
            command = [part.format(tree=tree, out=out) for part in argv]
            began = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            found[name] = round(time.monotonic() - began, 2)
            shutil.rmtree(out)
    return found


_CONTAINERD: Final = """version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{place}/socket"
"""


def measure_estargz(tree: Path, place: Path) -> float | None:
    """Seconds to convert the tree, as an OCI image of one layer, to eStargz; None where the tools are missing."""
    if not all(map(shutil.which, ("umoci", "containerd", "ctr-remote"))):
        return None
    layout, archive, settings = place / "layout", place / "layout.tar", place / "containerd.toml"
    place.mkdir()
    settings.write_text(_CONTAINERD.format(place=place))
    for command in (
        ("umoci", "init", "--layout", layout),
        ("umoci", "new", "--image", f"{layout}:tree"),
        ("umoci", "insert", "--image", f"{layout}:tree", tree, "/"),
        ("tar", "-C", layout, "-cf", archive, "."),
    ):
        subprocess.run(command, check=True, capture_output=True)

    def remote(*argv: str | Path) -> str:
        command = ["ctr-remote", "--address", place / "socket", "images", *argv]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    argv = ["containerd", "--config", os.fspath(settings)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as containerd:
        try:
            deadline = time.monotonic() + 30
            while not (place / "socket").exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            remote("import", "--no-unpack", archive)
            (name,) = remote("ls", "-q").split()
            began = time.monotonic()
            remote("convert", "--estargz", "--oci", name, "converted:1")
            return round(time.monotonic() - began, 2)
        finally:
            containerd.terminate()


def main() -> None:
    """Measure each thing once, imports in processes of their own, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only-import", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    tree = arguments.tree.resolve()
    if arguments.only_import:
        print(json.dumps(measure_import(tree, arguments.only_import)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-images-") as name:
        place = Path(name)
        argv = [sys.executable, "-m", "bench.images", os.fspath(tree), "--only-import", name]
        figures = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
        figures |= measure_change(tree, place)
        figures["publish_seconds"] = {"hypernode": figures.pop("hypernode_seconds")} | measure_others(tree, place)
        estargz = measure_estargz(tree, place / "estargz")
        if estargz is not None:
            figures["publish_seconds"]["eStargz"] = estargz
    if arguments.json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key:<24} {value}")


if __name__ == "__main__":
    main()
