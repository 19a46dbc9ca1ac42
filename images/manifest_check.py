"""Every rule a manifest has to keep, checked before anything is built from one (reference faults 5.M).

The author of an image may be hostile and their signature valid, so nothing is taken on trust: not counts, not order,
not sums. Work is linear in the encoded size, without recursion; loops over all entries stay inside C calls where they
can, because every boot waits for this (11 600 inodes in about 25 ms).
"""

from __future__ import annotations

import operator
import stat
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise

from images.columns import Column, column
from images.errors import ManifestCorrupt
from images.limits import (
    APPARENT_BYTES_MAX,
    BLOB_GRANULES_MAX,
    BLOCK_GRANULES_MAX,
    BLOCK_STORED_MAX,
    CHUNKS_MAX,
    DEPTH_MAX,
    DEVICE_MAJOR_MAX,
    DEVICE_MINOR_MAX,
    ENTRIES_MAX,
    FILE_BYTES_MAX,
    GRANULE_BYTES,
    NAME_BYTES_MAX,
    PATH_BYTES_MAX,
    PIECE_BYTES,
    PIECE_GRANULES,
    SECONDS_MAX,
    TARGET_BYTES_MAX,
    XATTR_NAME_BYTES_MAX,
    XATTR_SET_BYTES_MAX,
    XATTR_SETS_MAX,
    XATTR_TOTAL_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
)
from images.structure import Columns, Structure
from images.tree import HOLE, KINDS, Xattrs, piece_count, xattr_allowed

_NO_OWNER = 0xFFFF_FFFF
_NANOSECONDS = 10**9


def check_columns(columns: Columns) -> Structure:
    """What `columns` imply, if they keep every rule. Raises `ManifestCorrupt` naming the first that is broken."""
    kinds = _check_inodes(columns)
    by_kind: dict[int, list[int]] = {kind: [] for kind in KINDS}
    places = []
    for number, kind in enumerate(kinds):
        members = by_kind[kind]
        places.append(len(members))
        members.append(number)
    # Character and block devices share one column, in inode order.
    devices = sorted(by_kind[stat.S_IFCHR] + by_kind[stat.S_IFBLK])
    for place, number in enumerate(devices):
        places[number] = place
    directories = by_kind[stat.S_IFDIR]
    names = _check_names(columns, directories)
    children, nlinks = _check_children(columns, kinds, len(names))
    entry_starts = _starts(columns.entry_counts)
    parents = _check_directories(directories, entry_starts, names, children, nlinks, places, kinds)
    _check_xattrs(columns)
    targets = _check_targets(columns, len(by_kind[stat.S_IFLNK]))
    _check_devices(columns, devices, kinds)
    block_starts = _check_blocks(columns)
    run_starts = _check_files(columns, len(by_kind[stat.S_IFREG]), block_starts[-1])
    return Structure(
        places=column("I", places),
        directories=column("I", directories),
        parents=column("I", parents),
        entry_starts=column("I", entry_starts),
        names=names,
        children=column("I", children),
        nlinks=column("I", nlinks),
        targets=targets,
        run_starts=column("I", run_starts),
        block_starts=column("I", block_starts),
    )


def _require(truth: bool, rule: str) -> None:
    if not truth:
        raise ManifestCorrupt(f"manifest: {rule}")


def _starts(counts: Column) -> list[int]:
    return list(accumulate(counts, initial=0))


def _check_inodes(columns: Columns) -> list[int]:
    """The file type of each inode."""
    count = len(columns.modes)
    _require(0 < count <= ENTRIES_MAX + 1, "no inodes, or more than the limit")
    for name in ("uids", "gids", "seconds", "nanoseconds", "xattrs"):
        _require(len(getattr(columns, name)) == count, f"column {name} does not have one value per inode")
    kinds = list(map(stat.S_IFMT, columns.modes))
    _require(set(kinds) <= KINDS, "an inode of a file type that images do not hold")
    _require(kinds[0] == stat.S_IFDIR, "the root is no directory")
    _require(max(columns.uids) != _NO_OWNER and max(columns.gids) != _NO_OWNER, "an owner that is nobody's number")
    _require(min(columns.seconds) >= -SECONDS_MAX and max(columns.seconds) <= SECONDS_MAX, "an mtime beyond the limit")
    _require(max(columns.nanoseconds) < _NANOSECONDS, "an mtime with more than a second of nanoseconds")
    return kinds


def _check_names(columns: Columns, directories: Sequence[int]) -> list[bytes]:
    counts, lengths, heap = columns.entry_counts, columns.name_lengths, columns.names
    _require(len(counts) == len(directories), "column entry_counts does not have one value per directory")
    _require(len(lengths) == sum(counts), "the directories' entries are not as many as the names")
    _require(len(lengths) <= ENTRIES_MAX, "more entries than the limit")
    _require(len(heap) == sum(lengths), "the names are not as long as their lengths say")
    _require(0 not in lengths and max(lengths, default=0) <= NAME_BYTES_MAX, "a name that is empty or too long")
    _require(b"/" not in heap and b"\0" not in heap, "a name with a slash or NUL in it")
    names = _cut(heap, lengths)
    _require(b"." not in names and b".." not in names, "a name that is . or ..")
    return names


def _cut(heap: bytes, lengths: Column) -> list[bytes]:
    ends = list(accumulate(lengths, initial=0))
    return [heap[start:end] for start, end in pairwise(ends)]


def _check_children(columns: Columns, kinds: Sequence[int], entry_count: int) -> tuple[Sequence[int], list[int]]:
    """The inode of each entry, and how many entries name each inode."""
    links = columns.links
    _require(len(links) % 2 == 0, "column links is no list of pairs")
    at, to = links[::2], links[1::2]
    _require(len(kinds) == 1 + entry_count - len(at), "not one entry for each inode besides the links")
    nlinks = [1] * len(kinds)
    children: list[int] = []
    following = 1
    before = -1
    for entry, number in zip(at, to, strict=True):
        _require(before < entry < entry_count, "links out of order or beyond the entries")
        following_here = following + entry - before - 1
        _require(0 < number < following_here, "a hard link to an inode that has no name yet")
        _require(kinds[number] != stat.S_IFDIR, "a hard link to a directory")
        nlinks[number] += 1
        children.extend(range(following, following_here))
        children.append(number)
        following, before = following_here, entry
    children.extend(range(following, len(kinds)))
    return children, nlinks


def _check_directories(
    directories: Sequence[int],
    starts: Sequence[int],
    names: Sequence[bytes],
    children: Sequence[int],
    nlinks: list[int],
    places: Sequence[int],
    kinds: Sequence[int],
) -> list[int]:
    """Order, connectedness and depth; fills in the directories' link counts. Returns each directory's parent."""
    parents = [0] * len(directories)
    depths = [0] * len(directories)
    path_bytes = [0] * len(directories)
    seen = 1
    for place, number in enumerate(directories):
        start, end = starts[place], starts[place + 1]
        # Its number must have been given out by an earlier directory, or it hangs below itself or nowhere.
        _require(number < seen, "a directory that the root does not reach")
        subdirectories = 0
        if start != end:
            own = names[start:end]
            _require(all(map(operator.lt, own, own[1:])), "names in a directory out of order or twice")
            longest = path_bytes[place] + max(map(len, own))
            _require(longest <= PATH_BYTES_MAX, "a path longer than the limit")
            for entry in range(start, end):
                child = children[entry]
                if child >= seen:
                    seen = child + 1
                if kinds[child] == stat.S_IFDIR:
                    below = places[child]
                    parents[below] = number
                    depths[below] = depths[place] + 1
                    path_bytes[below] = path_bytes[place] + len(names[entry]) + 1
                    subdirectories += 1
            _require(subdirectories == 0 or depths[place] < DEPTH_MAX, "directories nested deeper than the limit")
        nlinks[number] = 2 + subdirectories
    return parents


def xattr_set_bytes(group: Xattrs) -> int:
    """What a set counts for the limits."""
    return sum(len(name) + len(value) + 4 for name, value in group)


def _check_xattrs(columns: Columns) -> None:
    sets = columns.xattr_sets
    _require(len(sets) - 1 <= XATTR_SETS_MAX, "more xattr sets than the limit")
    _require(len(set(sets)) == len(sets), "an xattr set that is there twice, or empty")
    for group in sets[1:]:
        names = [name for name, _ in group]
        _require(all(map(operator.lt, names, names[1:])), "xattrs out of order or twice")
        _require(all(map(xattr_allowed, names)), "an xattr of a namespace that images do not hold")
        _require(max(map(len, names)) <= XATTR_NAME_BYTES_MAX, "an xattr with a name longer than the limit")
        _require(all(len(value) <= XATTR_VALUE_BYTES_MAX for _, value in group), "an xattr larger than the limit")
        _require(xattr_set_bytes(group) <= XATTR_SET_BYTES_MAX, "more xattrs on an inode than the limit")
    # First uses in inode order are 1, 2, 3 …: one spelling for one assignment of sets.
    used = [number for number in dict.fromkeys(columns.xattrs) if number]
    _require(used == list(range(1, len(sets))), "xattr sets not numbered by first use")
    total = sum(xattr_set_bytes(sets[number]) * users for number, users in Counter(columns.xattrs).items())
    _require(total <= XATTR_TOTAL_BYTES_MAX, "more xattrs in all than the limit")


def _check_targets(columns: Columns, count: int) -> list[bytes]:
    lengths, heap = columns.target_lengths, columns.targets
    _require(len(lengths) == count, "column target_lengths does not have one value per symlink")
    _require(0 not in lengths and max(lengths, default=0) <= TARGET_BYTES_MAX, "a symlink empty or too long")
    _require(len(heap) == sum(lengths), "the symlinks' targets are not as long as their lengths say")
    _require(b"\0" not in heap, "a symlink with NUL in it")
    return _cut(heap, lengths)


def _check_devices(columns: Columns, devices: Sequence[int], kinds: Sequence[int]) -> None:
    majors, minors = columns.devices[::2], columns.devices[1::2]
    _require(len(columns.devices) == 2 * len(devices), "column devices does not have one pair per device node")
    _require(max(majors, default=0) <= DEVICE_MAJOR_MAX, "a device number beyond the limit")
    _require(max(minors, default=0) <= DEVICE_MINOR_MAX, "a device number beyond the limit")
    for number, major, minor in zip(devices, majors, minors, strict=True):
        whiteout = kinds[number] == stat.S_IFCHR and major == minor == 0
        _require(not whiteout, "a whiteout: the image would hide files of the layer below it")


def _check_blocks(columns: Columns) -> list[int]:
    """First granule of each block, and the end."""
    granules, stored = columns.block_granules, columns.block_stored
    _require(len(stored) == len(granules), "column block_stored does not have one value per block")
    _require(len(columns.block_ids) == 32 * len(granules), "column block_ids does not have one id per block")
    _require(0 not in granules and max(granules, default=0) <= BLOCK_GRANULES_MAX, "a block of impossible size")
    _require(0 not in stored and max(stored, default=0) <= BLOCK_STORED_MAX, "a block of impossible stored size")
    starts = _starts(granules)
    _require(starts[-1] <= BLOB_GRANULES_MAX, "a blob space larger than the limit")
    return starts


def _check_files(columns: Columns, count: int, blob_granules: int) -> list[int]:
    """Each mapping covers its file exactly, within blob space, in the fewest runs."""
    sizes, counts, pieces, granules = columns.sizes, columns.run_counts, columns.run_pieces, columns.run_granules
    _require(len(sizes) == count and len(counts) == count, "sizes or run_counts do not have one value per file")
    _require(len(pieces) == len(granules) == sum(counts), "the files' runs are not as many as their counts say")
    _require(max(sizes, default=0) <= FILE_BYTES_MAX, "a file larger than the limit")
    _require(sum(sizes) <= APPARENT_BYTES_MAX, "files larger in all than the limit")
    _require(0 not in pieces, "an empty run")
    starts = _starts(counts)
    chunks = 0
    for size, number, start in zip(sizes, counts, starts, strict=False):
        if number == 1:
            # Nearly every file; spelled out because this loop is a third of all checking.
            granule = granules[start]
            _require(pieces[start] == -(-size // PIECE_BYTES), "runs that do not cover their file")
            _require(granule == HOLE or granule - -size // GRANULE_BYTES <= blob_granules, "a run beyond blob space")
        elif number:
            end = start + number
            _check_runs(size, pieces[start:end], granules[start:end], blob_granules)
            chunks += piece_count(size)
        else:
            _require(size == 0, "a file with a size and no runs")
    _require(chunks <= CHUNKS_MAX, "more pieces in files with holes than the limit")
    return starts


def _check_runs(size: int, pieces: Column, granules: Column, blob_granules: int) -> None:
    _require(sum(pieces) == piece_count(size), "runs that do not cover their file")
    left = -(-size // GRANULE_BYTES)
    expected = -1
    for count, granule in zip(pieces, granules, strict=True):
        _require(granule != expected, "two runs that are one")
        covered = min(count * PIECE_GRANULES, left)
        left -= covered
        _require(granule == HOLE or granule + covered <= blob_granules, "a run beyond blob space")
        expected = HOLE if granule == HOLE else granule + count * PIECE_GRANULES
