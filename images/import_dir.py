"""A directory of the host as an image: blocks in the store and the manifest that names them.

The tree, without what its .hyperignore names, is walked three times (source_tree.py). The first walk lists every inode;
the second reads the files; the third checks that nothing changed since the first, because an image of a moving tree is
of no tree that ever was. Nothing but blocks is written, so an import that fails or is stopped leaves only blocks that
the next one finds again.

This thread walks, opens and decides; reading, hashing and compressing run in worker threads, which release the GIL
there. Two lanes of work keep memory bounded and results in order: files are read in path order by one, and the blocks
that become of them are written in layout order by the other. So the manifest depends on the tree alone, not on timing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from hyperlog.blocks import BlockStore
from images.contents import DirectoryFile, data_bytes
from images.errors import ImportRefused, ManifestCorrupt
from images.file_reader import FileReader
from images.ignore import FILE_BYTES_MAX, FILE_NAME, IgnoreRules, parse_ignore
from images.ingest import BlockWriter, IngestIndex
from images.manifest import Manifest
from images.manifest_build import build_manifest
from images.manifest_store import ManifestRef, write_manifest
from images.source_tree import Found, Note, changed, named, open_root, read_node, several_names, stopped, walk
from images.tree import Node


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import is; totals are 0 until the tree is listed. Holes of sparse files count as no bytes."""

    files: int = 0
    files_total: int = 0
    bytes: int = 0
    bytes_total: int = 0


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made. `new_bytes` counts the stored bytes that were not here before."""

    manifest: Manifest
    ref: ManifestRef
    notes: tuple[Note, ...]
    new_blocks: int
    new_bytes: int
    reused_blocks: int

    @property
    def image_bytes(self) -> int:
        """Bytes of all regular files, each inode once."""
        return self.manifest.image_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of all blocks as stored and sent, the manifest's among them."""
        return self.manifest.stored_bytes + self.ref.stored_bytes

    @property
    def inodes(self) -> int:
        return len(self.manifest)


def import_directory(
    path: bytes | str,
    blocks: BlockStore,
    index: IngestIndex,
    *,
    progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    previous: ManifestRef | None = None,
    threads: int | None = None,
) -> Imported:
    """Import the directory `path`; durable when this returns (with the next durable write of the store).

    `previous`: the manifest of the version before, which the new one's may be told as a difference from.
    Blocks for as long as it takes; `progress` and `should_stop` are called often, in this thread. Raises
    `ImportChanged` when the tree changes meanwhile, `ImportRefused` with the path of what cannot be read or held,
    `ImportStopped` soon after `should_stop` is true, `StoreFull`.
    """
    workers = threads or len(os.sched_getaffinity(0))
    root = open_root(os.fsencode(path))
    try:
        with ThreadPoolExecutor(workers, "import") as pool:
            run = _Import(root, BlockWriter(blocks, index), pool, workers, progress, should_stop)
            try:
                manifest = run.manifest()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            finally:
                run.reader.close()
        ref = write_manifest(run.writer, manifest, previous)
        run.writer.flush()
    finally:
        os.close(root)
    writer = run.writer
    return Imported(
        manifest, ref, tuple(run.notes), writer.new_blocks, writer.new_bytes, reused_blocks=writer.reused_blocks
    )


def read_ignore_rules(root: int) -> IgnoreRules:
    """The rules of the tree's own `.hyperignore`; none without one. Raises `ImportRefused`."""
    try:
        descriptor = os.open(FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        return IgnoreRules()
    except OSError as error:
        raise named(error, FILE_NAME) from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ImportRefused(".hyperignore is no regular file", path=FILE_NAME)
        text = file.read(FILE_BYTES_MAX + 1)
    if len(text) > FILE_BYTES_MAX:
        raise ImportRefused(f".hyperignore is larger than {FILE_BYTES_MAX} bytes", path=FILE_NAME)
    return parse_ignore(text)


class _Import:
    """One import under way."""

    def __init__(
        self,
        root: int,
        writer: BlockWriter,
        pool: ThreadPoolExecutor,
        workers: int,
        progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._root = root
        self._rules = read_ignore_rules(root)
        self._progress = progress
        self._should_stop = should_stop
        self.writer = writer
        self.notes: list[Note] = []
        self.reader = FileReader(writer, pool, workers, self._count)
        self._listed: list[tuple[bytes, Node | None]] = []
        self._done = Progress()

    def manifest(self) -> Manifest:
        tree = self._list()
        self._read()
        placed = self.reader.finish()
        self._check()
        try:
            return build_manifest(tree, placed)
        except ManifestCorrupt as error:
            # Rare limits, such as all xattrs together, are stated only there.
            raise ImportRefused(f"this tree cannot be an image ({error.message})") from error

    def _list(self) -> Node:
        """Every inode. `_listed` then has an item per entry of the walk, with the node where there is data to read."""
        directories: dict[bytes, Node] = {}
        linked: dict[tuple[int, int], Node] = {}
        files = total = 0
        for found in walk(self._root, self._should_stop, self._rules.excludes):
            key = (found.status.st_dev, found.status.st_ino)
            known = linked.get(key) if several_names(found.status) else None
            node = known or read_node(found, self.notes)
            is_file = stat.S_ISREG(found.status.st_mode)
            self._listed.append((found.stamp, node if is_file and known is None else None))
            if node is None:
                continue
            if found.path:
                parent, _, name = found.path.rpartition(b"/")
                directories[parent].entries[name] = node
            if stat.S_ISDIR(node.mode):
                directories[found.path] = node
            elif known is None:
                if several_names(found.status):
                    linked[key] = node
                files += is_file
                total += data_bytes(found) if is_file else 0
        self._done = Progress(files_total=files, bytes_total=total)
        self._progress(self._done)
        return directories[b""]

    def _read(self) -> None:
        for found, node in self._again():
            if node is not None:
                self.reader.read(DirectoryFile(found), node)

    def _check(self) -> None:
        for _ in self._again():
            pass

    def _again(self) -> Iterator[tuple[Found, Node | None]]:
        """Walk the tree again. Raises `ImportChanged` at the first entry that is not as it was listed."""
        listed = iter(self._listed)
        for found in walk(self._root, self._should_stop, self._rules.excludes):
            stamp, node = next(listed, (b"", None))
            if stamp != found.stamp:
                raise changed(found.path)
            yield found, node
        if next(listed, None) is not None:
            raise changed(b"")

    def _count(self, files: int, raw_bytes: int) -> None:
        if self._should_stop():
            raise stopped()
        done = self._done
        self._done = replace(done, files=done.files + files, bytes=done.bytes + raw_bytes)
        self._progress(self._done)
