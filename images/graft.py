"""A version with changes laid over it, as a new manifest: what `commit` makes of an overlayfs upper directory.

The upper directory is overlayfs' own record of what a container changed (the kernel's filesystems/overlayfs.rst):

    character device 0/0        the name is gone                  (or an empty file with trusted.overlay.whiteout)
    trusted.overlay.opaque y    the directory hides what was below it
    trusted.overlay.redirect    the directory, or metadata, belongs over another path of the lower tree (a rename)
    trusted.overlay.metacopy    a file whose data is still the lower one's; only its metadata is here

Nothing of the base is read: its files keep their blocks, of which those that no file uses any more are left out; only
files of the upper directory become new blocks, behind the others. So a commit needs none of the image's data here, and
costs what was changed. The upper directory is walked as an import walks (source_tree.py), and again to see that it
stayed the same.
"""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from hyperlog.blocks import BlockStore
from images.contents import DirectoryFile
from images.errors import ImportRefused, ManifestCorrupt
from images.file_reader import FileReader
from images.import_dir import Imported
from images.ingest import BlockWriter, IngestIndex
from images.limits import GRANULE_BYTES, PIECE_GRANULES
from images.manifest import Manifest
from images.manifest_build import PlacedBlock, build_manifest
from images.manifest_store import ManifestRef, write_manifest
from images.source_tree import Found, Note, changed, open_root, read_node, several_names, shown, walk
from images.tree import HOLE, XATTR_OVERLAY, Node, Run

_OPAQUE: Final = XATTR_OVERLAY + b"opaque"
_REDIRECT: Final = XATTR_OVERLAY + b"redirect"
_METACOPY: Final = XATTR_OVERLAY + b"metacopy"
_WHITEOUT: Final = XATTR_OVERLAY + b"whiteout"


def commit_upper(
    base: Manifest,
    upper: str,
    blocks: BlockStore,
    index: IngestIndex,
    *,
    on_bytes: Callable[[int], None],
    should_stop: Callable[[], bool],
    previous: ManifestRef | None = None,
    threads: int | None = None,
) -> Imported:
    """`base` with the overlayfs upper directory `upper` over it, durable when this returns (as `import_directory`).

    `previous`: where `base` is stored, if the new manifest may be told as a difference from it.
    Raises `ImportRefused` (what cannot be in an image, an upper directory that contradicts itself), `ImportChanged`
    (something still writes to it), `ImportStopped`, `StoreFull`.
    """
    workers = threads or len(os.sched_getaffinity(0))
    writer = BlockWriter(blocks, index)
    root = open_root(os.fsencode(upper))
    try:
        with ThreadPoolExecutor(workers, "commit") as pool:
            read_bytes = 0

            def count(_files: int, size: int) -> None:
                nonlocal read_bytes
                read_bytes += size
                on_bytes(read_bytes)

            reader = FileReader(writer, pool, workers, count)
            try:
                graft = _Graft(base, reader)
                graft.read(walk(root, should_stop))
                placed = reader.finish()
                graft.check(walk(root, should_stop))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            finally:
                reader.close()
        manifest = _join(base, graft, placed)
        ref = write_manifest(writer, manifest, previous)
        writer.flush()
    finally:
        os.close(root)
    return Imported(
        manifest, ref, tuple(graft.notes), writer.new_blocks, writer.new_bytes, reused_blocks=writer.reused_blocks
    )


def tree_of(manifest: Manifest) -> list[Node]:
    """The manifest's inodes as nodes, by number; the root is the first."""
    nodes: list[Node] = []
    for number in range(len(manifest)):
        inode = manifest.inode(number)
        nodes.append(
            Node(
                mode=inode.mode,
                uid=inode.uid,
                gid=inode.gid,
                mtime_ns=inode.mtime_ns,
                xattrs=inode.xattrs,
                size=inode.size if stat.S_ISREG(inode.mode) else 0,
                runs=inode.runs,
                target=inode.target,
                device=inode.device,
            )
        )
    for number in manifest.structure.directories:
        nodes[number].entries = {name: nodes[child] for name, child in manifest.entries(number)}
    return nodes


@dataclass(frozen=True, slots=True)
class _Merged:
    """A directory of the upper tree: what it becomes, and what lay below it (None: nothing, or hidden)."""

    node: Node
    lower: Node | None


class _Graft:
    """The base's tree with an upper directory merged into it."""

    def __init__(self, base: Manifest, reader: FileReader) -> None:
        self._lower = tree_of(base)[0]
        self._reader = reader
        self._stamps: list[bytes] = []
        self._merged: dict[bytes, _Merged] = {}
        self._linked: dict[tuple[int, int], Node] = {}
        self.notes: list[Note] = []
        self.fresh: list[Node] = []
        """The files whose data is new: their runs count from the first new block."""

    @property
    def root(self) -> Node:
        return self._merged[b""].node

    def read(self, entries: Iterable[Found]) -> None:
        for found in entries:
            self._stamps.append(found.stamp)
            self._take(found)

    def check(self, entries: Iterable[Found]) -> None:
        """Raises `ImportChanged` unless `entries` are what was read."""
        stamps = iter(self._stamps)
        for found in entries:
            if next(stamps, None) != found.stamp:
                raise changed(found.path)
        if next(stamps, None) is not None:
            raise changed(b"")

    def _take(self, found: Found) -> None:
        orders = _orders(found)
        parent_path, _, name = found.path.rpartition(b"/")
        above = self._merged[parent_path] if found.path else None
        if _is_whiteout(found, orders):
            if above is not None:
                above.node.entries.pop(name, None)
            return
        key = (found.status.st_dev, found.status.st_ino)
        node = self._linked.get(key) if several_names(found.status) else None
        if node is None:
            notes: list[Note] = []
            node = read_node(found, notes)
            self.notes += [note for note in notes if XATTR_OVERLAY.decode() not in note.reason]
            if node is None:
                return
            if several_names(found.status):
                self._linked[key] = node
            lower = self._lower if above is None else self._below(above, name, found, orders)
            self._fill(found, node, lower, orders)
        if above is not None:
            above.node.entries[name] = node

    def _fill(self, found: Found, node: Node, lower: Node | None, orders: dict[bytes, bytes]) -> None:
        """What the inode holds: entries merged with those below, data of its own, or the lower file's."""
        if stat.S_ISDIR(node.mode):
            hidden = orders.get(_OPAQUE) == b"y" or lower is None or not stat.S_ISDIR(lower.mode)
            below = None if hidden else lower
            node.entries = {} if below is None else dict(below.entries)
            self._merged[found.path] = _Merged(node, below)
        elif stat.S_ISREG(node.mode) and _METACOPY in orders:
            if lower is None or not stat.S_ISREG(lower.mode):
                raise ImportRefused(
                    f"{shown(found.path)} has its data in a file that the base version lacks",
                    "the volume was written over another version; boot it again to see",
                    path=found.path,
                )
            node.size, node.runs = lower.size, lower.runs
        elif stat.S_ISREG(node.mode):
            self._reader.read(DirectoryFile(found), node)
            if node.size:
                self.fresh.append(node)

    def _below(self, above: _Merged, name: bytes, found: Found, orders: dict[bytes, bytes]) -> Node | None:
        """What of the base lies under an entry: the same name, or where its redirect says."""
        redirect = orders.get(_REDIRECT)
        if redirect is None:
            return None if above.lower is None else above.lower.entries.get(name)
        if not redirect.startswith(b"/"):
            return None if above.lower is None else above.lower.entries.get(redirect)
        node: Node | None = self._lower
        for part in filter(None, redirect.split(b"/")):
            node = None if node is None else node.entries.get(part)
        if node is None:
            raise ImportRefused(
                f"{shown(found.path)} was moved from {shown(redirect)}, which the base version lacks", path=found.path
            )
        return node


def _orders(found: Found) -> dict[bytes, bytes]:
    """The overlayfs attributes of an entry."""
    place = b"/proc/self/fd/%d/%s" % (found.directory, found.name)
    try:
        names = [os.fsencode(name) for name in os.listxattr(place, follow_symlinks=False)]
        return {
            name: os.getxattr(place, name, follow_symlinks=False) for name in names if name.startswith(XATTR_OVERLAY)
        }
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise changed(found.path) from error


def _is_whiteout(found: Found, orders: dict[bytes, bytes]) -> bool:
    mode = found.status.st_mode
    if stat.S_ISCHR(mode):
        return found.status.st_rdev == 0
    return stat.S_ISREG(mode) and not found.status.st_size and _WHITEOUT in orders


def _join(base: Manifest, graft: _Graft, placed: list[PlacedBlock]) -> Manifest:
    """The manifest of the grafted tree: blocks of the base that it still uses, then the new ones."""
    fresh = set(map(id, graft.fresh))
    kept_files = [node for node in _files(graft.root) if id(node) not in fresh]
    starts = base.structure.block_starts
    used = bytearray(base.block_count)
    for node in kept_files:
        for first, end in _granules(node):
            number = bisect_right(starts, first) - 1
            while number < base.block_count and starts[number] < end:
                used[number] = 1
                number += 1
    moved: dict[int, int] = {}
    blocks: list[PlacedBlock] = []
    granules = 0
    for number in range(base.block_count):
        if used[number]:
            block = base.block(number)
            size = block.raw_bytes // GRANULE_BYTES
            moved[number] = granules - starts[number]
            blocks.append(PlacedBlock(size, block.stored_bytes, block.id))
            granules += size
    for node in kept_files:
        node.runs = _joined(
            run if run.granule == HOLE else Run(run.pieces, run.granule + moved[bisect_right(starts, run.granule) - 1])
            for run in node.runs
        )
    for node in graft.fresh:
        node.runs = tuple(run if run.granule == HOLE else Run(run.pieces, run.granule + granules) for run in node.runs)
    try:
        return build_manifest(graft.root, blocks + placed)
    except ManifestCorrupt as error:
        raise ImportRefused(f"these changes do not make an image ({error.message})") from error


def _joined(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The same mapping in the fewest runs: what unused blocks parted may have come together."""
    made: list[Run] = []
    for run in runs:
        if made and run.granule != HOLE and run.granule == made[-1].granule + made[-1].pieces * PIECE_GRANULES:
            made[-1] = Run(made[-1].pieces + run.pieces, made[-1].granule)
        else:
            made.append(run)
    return tuple(made)


def _files(root: Node) -> list[Node]:
    """Every regular file with data, each once. Raises `ImportRefused` when a directory is in two places."""
    seen: set[int] = set()
    files: list[Node] = []
    pending = [root]
    while pending:
        node = pending.pop()
        if id(node) in seen:
            if stat.S_ISDIR(node.mode):
                raise ImportRefused("the volume shows one directory of the base version in two places")
            continue
        seen.add(id(node))
        if stat.S_ISREG(node.mode) and node.runs:
            files.append(node)
        pending += node.entries.values()
    return files


def _granules(node: Node) -> list[tuple[int, int]]:
    """(first, end) of the granules that each run's data fills."""
    left = -(-node.size // GRANULE_BYTES)
    found = []
    for run in node.runs:
        covered = min(run.pieces * PIECE_GRANULES, left)
        left -= covered
        if run.granule != HOLE:
            found.append((run.granule, run.granule + covered))
    return found
