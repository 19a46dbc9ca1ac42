"""A stack of layers as an image: tar headers become tree nodes, file data blocks, and nothing a name on the host.

First every layer is read once, bottom up, through its checks (layer_stream.py) into a tree (layer_tree.py) and a spool
(contents.py). When all digests are right the tree is written as a directory would be, in path order, by the same code:
so a tree gives the same manifest whether it comes as a directory, a tar or a stack.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from hyperlog.blocks import BlockStore
from images.contents import Spool, SpooledFile
from images.errors import ImportRefused, ManifestCorrupt
from images.file_reader import FileReader
from images.import_dir import Imported, Progress
from images.ingest import BlockWriter, IngestIndex
from images.layer_stream import LayerStream, Stored
from images.layer_tree import LayerTree
from images.limits import UNPACKED_BYTES_MAX
from images.manifest_build import build_manifest
from images.manifest_store import ManifestRef, write_manifest
from images.source_tree import stopped
from images.tar_reader import TarReader
from images.tree import Node


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: how to open its stored bytes, and what they, and the tar in them, must hash to (None: not known)."""

    open: Callable[[], Stored]
    stored_bytes: int
    digest: str | None = None
    diff_id: str | None = None


OnProgress = Callable[[str, Progress], None]


def import_layers(
    layers: Sequence[Layer],
    spool_directory: Path,
    blocks: BlockStore,
    index: IngestIndex,
    *,
    progress: OnProgress,
    should_stop: Callable[[], bool],
    previous: ManifestRef | None = None,
    threads: int | None = None,
) -> Imported:
    """Import `layers`, lowest first; durable when this returns (with the next durable write of the store).

    `previous`: the manifest of the version before, which the new one's may be told as a difference from.

    Blocks for as long as it takes; `progress(stage, how far)` and `should_stop` are called often, in this thread.
    Raises `ArchiveCorrupt`, `DigestMismatch`, `SourceUnsupported`, `SourceTooLarge`, `ImportRefused` with the name of
    what cannot be held, `ImportStopped` soon after `should_stop` is true, `StoreFull`.
    """
    workers = threads or len(os.sched_getaffinity(0))
    with Spool(spool_directory) as spool:
        tree, contents = _read_layers(layers, spool, progress, should_stop)
        writer = BlockWriter(blocks, index)
        files = [(contents[node], node) for node in _files_in_path_order(tree.root)]
        done = Progress(files_total=len(files), bytes_total=sum(content.data_bytes for content, _ in files))

        def count(read: int, raw_bytes: int) -> None:
            nonlocal done
            if should_stop():
                raise stopped()
            done = replace(done, files=done.files + read, bytes=done.bytes + raw_bytes)
            progress("importing", done)

        with ThreadPoolExecutor(workers, "import") as pool:
            reader = FileReader(writer, pool, workers, count)
            try:
                for content, node in files:
                    reader.read(content, node)
                placed = reader.finish()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            finally:
                reader.close()
        try:
            manifest = build_manifest(tree.root, placed)
        except ManifestCorrupt as error:
            raise ImportRefused(f"these layers cannot be an image ({error.message})") from error
        ref = write_manifest(writer, manifest, previous)
        writer.flush()
    return Imported(manifest, ref, tuple(tree.notes), writer.new_blocks, writer.new_bytes, writer.reused_blocks)


def _read_layers(
    layers: Sequence[Layer], spool: Spool, progress: OnProgress, should_stop: Callable[[], bool]
) -> tuple[LayerTree, dict[Node, SpooledFile]]:
    tree = LayerTree()
    contents: dict[Node, SpooledFile] = {}
    done = Progress(bytes_total=sum(layer.stored_bytes for layer in layers))
    before, left = 0, UNPACKED_BYTES_MAX
    for layer in layers:
        stored = layer.open()
        try:
            stream = LayerStream(stored, digest=layer.digest, diff_id=layer.diff_id, limit=left)
            tree.begin_layer()
            reader = TarReader(stream, may_lack_end=layer.digest is not None or layer.diff_id is not None)
            for member in reader:
                node = tree.apply(member)
                if node is not None:
                    content = contents[node] = SpooledFile(spool)
                    for offset, data in reader.data():
                        content.add(offset, data)
                        _tell(done, before + stream.stored_bytes, progress, should_stop)
                _tell(done, before + stream.stored_bytes, progress, should_stop)
            stream.finish()
        finally:
            stored.close()
        before += layer.stored_bytes
        left -= stream.tar_bytes
    return tree, contents


def _tell(done: Progress, stored_bytes: int, progress: OnProgress, should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise stopped()
    progress("unpacking", replace(done, bytes=stored_bytes))


def _files_in_path_order(root: Node) -> Iterator[Node]:
    """Every regular file once, where a walk of the same tree as a directory would meet it first."""
    seen: set[Node] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if stat.S_ISREG(node.mode) and node not in seen:
            seen.add(node)
            yield node
        waiting.extend(node.entries[name] for name in sorted(node.entries, reverse=True))
