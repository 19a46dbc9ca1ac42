"""The tree over a run of ids: one root for any number of leaves, and proofs that an id is under it.

Shape of RFC 9162 (Certificate Transparency): a tree over n > 1 leaves splits at the largest power of two below n.
A leaf is an entry id as it is; a node is BLAKE3(0x00 ‖ left ‖ right). Ids are hashes of headers, which begin with
the format byte 0x01, so no node is ever taken for a leaf.

Two facts carry the rest. The *peaks* (the complete subtrees of n leaves, one per set bit of n, largest first) are all
that is needed to go on appending; folded from the right they give the root. And the left siblings on leaf i's way to
the root of any larger tree are exactly the peaks of the first i leaves: so whoever holds the leaves up to i needs only
the right siblings to check them against a root that was signed later, and a feed can be cut anywhere.

Pure functions; positions count leaves from 0, ranges are half open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hyperlog.hashing import blake3_256

_NODE = b"\x00"


def node(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return blake3_256(_NODE + left + right)


def root(peaks: Sequence[bytes]) -> bytes:
    """The root over the leaves whose peaks are given (at least one)."""
    found = peaks[-1]
    for peak in reversed(peaks[:-1]):
        found = node(peak, found)
    return found


def push(peaks: list[bytes], size: int, leaf: bytes) -> None:
    """Add the leaf number `size` to the peaks of the `size` leaves before it."""
    while size & 1:
        leaf = node(peaks.pop(), leaf)
        size >>= 1
    peaks.append(leaf)


def peaks_of(leaves: Iterable[bytes]) -> list[bytes]:
    """The peaks over all `leaves`."""
    found: list[bytes] = []
    for size, leaf in enumerate(leaves):
        push(found, size, leaf)
    return found


def peak_ranges(size: int) -> list[tuple[int, int]]:
    """The leaves under each peak of a tree of `size` leaves, largest first."""
    found: list[tuple[int, int]] = []
    start = 0
    for bit in range(size.bit_length() - 1, -1, -1):
        if size >> bit & 1:
            found.append((start, start + (1 << bit)))
            start += 1 << bit
    return found


def split(start: int, end: int) -> int:
    """Where the subtree over [start, end) splits in two; it has at least two leaves."""
    return start + (1 << (end - start - 1).bit_length() - 1)


def siblings(index: int, size: int) -> list[tuple[int, int]]:
    """The subtrees beside the way from leaf `index` to the root over `size` leaves, from the leaf upwards."""
    assert 0 <= index < size
    found: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = split(start, end)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    found.reverse()
    return found


def right_siblings(index: int, size: int) -> list[tuple[int, int]]:
    """Those of `siblings` that lie to the right of `index`."""
    return [each for each in siblings(index, size) if each[0] > index]


def root_by_path(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes | None:
    """The root over `size` leaves that `path` (the hashes of `siblings`) claims for `leaf`; None if it cannot fit."""
    if not 0 <= index < size:
        return None
    beside = siblings(index, size)
    if len(beside) != len(path):
        return None
    found = leaf
    for (start, _), other in zip(beside, path, strict=True):
        found = node(other, found) if start < index else node(found, other)
    return found


def join_path(index: int, size: int, peaks: Sequence[bytes], rights: Sequence[bytes]) -> list[bytes] | None:
    """The path of leaf `index`: `peaks` of the leaves before it and its right siblings; None if they cannot fit."""
    if not 0 <= index < size or len(peaks) != index.bit_count():
        return None
    lefts, others = iter(reversed(peaks)), iter(rights)
    beside = siblings(index, size)
    if len(beside) != len(peaks) + len(rights):
        return None
    return [next(lefts) if start < index else next(others) for start, _ in beside]


def root_of_cut(peaks: Sequence[bytes], size: int, signed: int, rights: Sequence[bytes]) -> bytes | None:
    """The root over `signed` leaves, from the peaks of the first `size` and the right siblings of the last of those.

    None if they cannot fit. The last peak is a node on the last leaf's way, with only left siblings below it.
    """
    if not 0 < size <= signed or len(peaks) != size.bit_count():
        return None
    index = size - 1
    beside = siblings(index, signed)[(size & -size).bit_length() - 1 :]
    if len(beside) != len(peaks) - 1 + len(rights):
        return None
    lefts, others = iter(reversed(peaks[:-1])), iter(rights)
    found = peaks[-1]
    for start, _ in beside:
        found = node(next(lefts), found) if start < index else node(found, next(others))
    return found
