#!/usr/bin/env python3
"""What serves the mounts: how quick, how large, and what happens when it is killed while containers read.

    .venv/bin/python bench/mounts.py [--json]          as root

read_miss_p50_us        one 4 KiB read that is in no cache of the kernel, its blocks being here: through FUSE, from the
read_miss_p99_us        packs, unpacked and verified, at random places of the image's blob
read_again_p50_us       the same once more, its page dropped from that cache: the block is unpacked already, so this is
                        what the kernel, waking both processes, and a look at a table take
mount_server_rss_mb     resident size of the process that serves the mounts, with one image mounted of which is read
node_rss_mb             that of the node then, network and all
further_image_rss_mb    by how much it grows with a second image, of which as much is read
kills                   so often the node was killed (SIGKILL) under a container that hashes every file of the image
wrong_files             files whose hash was not that of the source; reads that failed count too
takeover_seconds        median from starting the next node to the container's being its own
container_seconds       all of that container, kills and all
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hyperlog.link import parse_link
from hyperlog.repository import open_repository
from images.catalog import Catalog
from images.manifest_store import load_manifest
from images.reader import BlobReader
from images.source import StoredSource
from tests.support.debian_root import debian_root
from tests.support.nodes import Daemon, Node, daemon
from vmhost.blob_server import BlobServer

_PAGE = 4096
_LOAD = "find /usr /etc /var -xdev -type f -print0 | sort -z | xargs -0 -n 20 sha256sum"
_READER = """
import json, os, random, sys, time
descriptor = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
times, again = [], []
for place in random.Random(1).sample(range(os.fstat(descriptor).st_size // 4096), int(sys.argv[2])):
    for found in (times, again):
        start = time.perf_counter()
        assert len(os.pread(descriptor, 4096, place * 4096)) == 4096
        found.append(time.perf_counter() - start)
        os.posix_fadvise(descriptor, place * 4096, 4096, os.POSIX_FADV_DONTNEED)
print(json.dumps([sorted(times), sorted(again)]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object of figures as the last line")
    parser.add_argument("--kills", type=int, default=10, help="of the node (default %(default)s)")
    parser.add_argument("--reads", type=int, default=4000, help="that miss (default %(default)s)")
    options = parser.parse_args()
    root = debian_root()
    with tempfile.TemporaryDirectory(prefix="mounts-") as name:
        node = Node(Path(name) / "home")
        with daemon(node) as first:
            link = _share(node, root)
            figures = _sizes(first, link, root, Path(name))
        figures |= _killed(node, link, root, options.kills)
        figures |= trio.run(_misses, node, link, options.reads)
    for key, value in figures.items():
        print(f"{key:24} {value:g}")
    if options.json:
        print(json.dumps(figures))


def _share(node: Node, root: Path) -> str:
    done = node.run("share", str(root), seconds=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _sizes(serving: Daemon, link: str, root: Path, folder: Path) -> dict[str, float]:
    """Of the node with one image mounted and with two, the same files of each having been read."""
    other = folder / "other"
    subprocess.run(["cp", "-a", "--", root, other], check=True)
    (other / "etc/changed").write_text("so that it is another image")
    read = ["--", "python3", "-c", "import json, ssl, sqlite3, asyncio"]
    sizes = []
    for each in (link, _share(serving.node, other)):
        assert serving.node.run("boot", each, *read).returncode == 0
        sizes.append(_resident_mb(_mount_server(serving.process.pid)))
    return {
        "mount_server_rss_mb": round(sizes[0], 1),
        "further_image_rss_mb": round(sizes[1] - sizes[0], 1),
        "node_rss_mb": round(_resident_mb(serving.process.pid), 1),
    }


def _mount_server(node: int) -> int:
    """The process that serves the mounts of a node."""
    children = Path(f"/proc/{node}/task/{node}/children").read_text().split()
    (found,) = (pid for pid in children if b"vmhost.blob_process" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return int(found)


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1000


def _killed(node: Node, link: str, root: Path, kills: int) -> dict[str, float]:
    """One container under load, its node killed again and again."""
    takeovers: list[float] = []
    chance = random.Random(2)
    with contextlib.ExitStack() as stack, tempfile.TemporaryFile("w+") as output:
        current = stack.enter_context(daemon(node))
        start = time.monotonic()
        boot = node.start("boot", link, "--", "sh", "-c", _LOAD, stdin=subprocess.DEVNULL, stdout=output)
        assert boot.stderr is not None
        while not output.tell() and os.fstat(output.fileno()).st_size == 0:
            time.sleep(0.02)
        for _ in range(kills):
            current.kill()
            assert "was killed" in boot.stderr.readline()
            time.sleep(chance.uniform(0, 0.3))
            began = time.monotonic()
            current = stack.enter_context(daemon(node))
            assert "is back" in boot.stderr.readline()
            takeovers.append(time.monotonic() - began)
            time.sleep(chance.uniform(0, 0.3))
        status = boot.wait(600)
        seconds = time.monotonic() - start
        output.seek(0)
        found = {path: digest for digest, path in (line.rstrip("\n").split("  ", 1) for line in output)}
    assert status == 0, status
    wrong = sum(digest != _digest(root / path.lstrip("/")) for path, digest in found.items())
    expected = sum(len(files) for top in ("usr", "etc", "var") for files in _files(root / top))
    return {
        "kills": kills,
        "files_read": len(found),
        "wrong_files": wrong + abs(expected - len(found)),
        "takeover_seconds": round(statistics.median(takeovers), 3) if takeovers else 0.0,
        "container_seconds": round(seconds, 1),
    }


def _files(top: Path) -> list[list[str]]:
    return [
        [name for name in names if (Path(folder) / name).is_file() and not (Path(folder) / name).is_symlink()]
        for folder, _, names in os.walk(top)
    ]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def _misses(node: Node, link: str, reads: int) -> dict[str, float]:
    """Single reads of an image that is all here, by another process, while this one serves."""
    with open_repository(node.home) as repository, tempfile.TemporaryDirectory(prefix="misses-") as folder:
        resolved = Catalog.of(repository.logs.open(parse_link(link).key)).resolve(None)
        manifest = load_manifest(repository.blocks, resolved.version.manifest)
        blob = BlobReader(manifest, StoredSource(repository.blocks, _Nobody()))
        server = BlobServer(f"{folder}/fuse", on_read_failure=lambda failure: sys.exit(str(failure.error)))
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            command = [sys.executable, "-c", _READER, server.add("blob", blob), str(reads)]
            done = await trio.run_process(command, capture_stdout=True)
            nursery.cancel_scope.cancel()
    times, again = json.loads(done.stdout)
    figures = {f"read_miss_p{part}_us": round(times[len(times) * part // 100] * 1e6, 1) for part in (50, 99)}
    return {**figures, "read_again_p50_us": round(again[len(again) // 2] * 1e6, 1)}


class _Nobody:
    """No peers: everything is here."""

    async def get(self, block_id: object, bytes_max: int, **_: object) -> bytes:
        raise AssertionError("all blocks are here")


if __name__ == "__main__":
    main()
