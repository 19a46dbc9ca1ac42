"""From a tree in memory to its manifest: numbering, and filling the columns."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import NamedTuple

from hyperlog.ids import BlockId
from images.columns import column
from images.manifest import Manifest, encode_columns
from images.structure import Columns
from images.tree import Node, Xattrs

_NANOSECONDS = 10**9


class PlacedBlock(NamedTuple):
    """A block of blob space: how many granules it fills, and under what name and in how many bytes it is stored."""

    granules: int
    stored_bytes: int
    id: BlockId


def build_manifest(root: Node, blocks: Sequence[PlacedBlock]) -> Manifest:
    """The manifest of the tree under `root`, whose runs point into `blocks`.

    The tree is not changed. Raises `ManifestCorrupt` when it cannot be an image, in the words of manifest_check.py.
    """
    nodes, directories, names, links = _number(root)
    xattr_sets: dict[Xattrs, int] = {(): 0}
    xattrs = [xattr_sets.setdefault(node.xattrs, len(xattr_sets)) for node in nodes]
    files = [node for node in nodes if stat.S_ISREG(node.mode)]
    symlinks = [node.target for node in nodes if stat.S_ISLNK(node.mode)]
    devices = [node.device for node in nodes if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode)]
    columns = Columns(
        modes=column("H", (node.mode for node in nodes)),
        uids=column("I", (node.uid for node in nodes)),
        gids=column("I", (node.gid for node in nodes)),
        seconds=column("q", (node.mtime_ns // _NANOSECONDS for node in nodes)),
        nanoseconds=column("I", (node.mtime_ns % _NANOSECONDS for node in nodes)),
        xattrs=column("I", xattrs),
        xattr_sets=tuple(xattr_sets),
        entry_counts=column("I", (len(node.entries) for node in directories)),
        name_lengths=column("B", map(len, names)),
        names=b"".join(names),
        links=column("I", links),
        target_lengths=column("H", map(len, symlinks)),
        targets=b"".join(symlinks),
        devices=column("I", (number for device in devices for number in device)),
        sizes=column("Q", (node.size for node in files)),
        run_counts=column("I", (len(node.runs) for node in files)),
        run_pieces=column("I", (run.pieces for node in files for run in node.runs)),
        run_granules=column("I", (run.granule for node in files for run in node.runs)),
        block_granules=column("B", (block.granules for block in blocks)),
        block_stored=column("I", (block.stored_bytes for block in blocks)),
        block_ids=b"".join(block.id for block in blocks),
    )
    return Manifest.decode(encode_columns(columns))


def _number(root: Node) -> tuple[list[Node], list[Node], list[bytes], list[int]]:
    """Breadth-first: nodes by inode number, the directories, names of all entries, (entry, inode) of hard links."""
    numbers = {id(root): 0}
    nodes = [root]
    directories: list[Node] = []
    names: list[bytes] = []
    links: list[int] = []
    # Nodes found are appended while this goes over them: the list is the queue.
    for node in nodes:
        if not stat.S_ISDIR(node.mode):
            continue
        directories.append(node)
        for name, child in sorted(node.entries.items()):
            number = numbers.setdefault(id(child), len(nodes))
            if number == len(nodes):
                nodes.append(child)
            else:
                links += (len(names), number)
            names.append(name)
    return nodes, directories, names, links
