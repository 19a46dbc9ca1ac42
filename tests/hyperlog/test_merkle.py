"""The tree over ids: any cut, any proof, against a tree that is worked out from its definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlog.hashing import blake3_256
from hyperlog.merkle import (
    join_path,
    node,
    peak_ranges,
    peaks_of,
    push,
    right_siblings,
    root,
    root_by_path,
    root_of_cut,
    siblings,
)

LEAVES = [blake3_256(b"leaf %d" % number) for number in range(300)]


def tree(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, with this format's hashes."""
    if len(leaves) == 1:
        return leaves[0]
    middle = 1
    while middle * 2 < len(leaves):
        middle *= 2
    return node(tree(leaves[:middle]), tree(leaves[middle:]))


sizes = st.integers(1, len(LEAVES))


@given(sizes)
def test_the_peaks_give_the_root(size: int) -> None:
    assert root(peaks_of(LEAVES[:size])) == tree(LEAVES[:size])
    assert [tree(LEAVES[start:end]) for start, end in peak_ranges(size)] == peaks_of(LEAVES[:size])


@given(sizes, st.data())
def test_a_path_proves_its_leaf_and_no_other(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    path = [tree(LEAVES[start:end]) for start, end in siblings(index, size)]
    whole = tree(LEAVES[:size])
    assert root_by_path(index, size, LEAVES[index], path) == whole
    assert root_by_path(index, size, blake3_256(b"another"), path) != whole
    other = data.draw(st.integers(0, size - 1))
    if other != index:
        assert root_by_path(other, size, LEAVES[index], path) != whole
    for place in range(len(path)):
        changed = [*path[:place], blake3_256(path[place]), *path[place + 1 :]]
        assert root_by_path(index, size, LEAVES[index], changed) != whole
    assert root_by_path(index, size, LEAVES[index], [*path, bytes(32)]) is None
    assert root_by_path(size, size, LEAVES[index], path) is None


@given(sizes, st.data())
def test_a_feed_can_be_cut_anywhere(signed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, signed))
    peaks = peaks_of(LEAVES[:size])
    rights = [tree(LEAVES[start:end]) for start, end in right_siblings(size - 1, signed)]
    whole = tree(LEAVES[:signed])
    assert root_of_cut(peaks, size, signed, rights) == whole
    before = peaks_of(LEAVES[: size - 1])
    path = join_path(size - 1, signed, before, rights)
    assert path is not None
    assert root_by_path(size - 1, signed, LEAVES[size - 1], path) == whole
    assert root_of_cut(peaks, size, signed, [*rights, bytes(32)]) is None
    assert root_of_cut(peaks, signed + 1, signed, rights) is None


@given(st.integers(0, 200), st.integers(1, 99))
def test_pushing_goes_on_from_anywhere(size: int, more: int) -> None:
    peaks = peaks_of(LEAVES[:size])
    for leaf in LEAVES[size : size + more]:
        push(peaks, size, leaf)
        size += 1
    assert peaks == peaks_of(LEAVES[:size])


def test_far_feeds_have_short_paths() -> None:
    assert len(siblings((1 << 47) - 1, 1 << 47)) == 47
    assert len(siblings(5, 6)) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257])
def test_an_inner_node_is_no_leaf(size: int) -> None:
    """A header begins with 0x01, what makes a node with 0x00: so no id is a node of another tree."""
    if size > 1:
        assert tree(LEAVES[:size]) != blake3_256(b"\x01" + b"".join(LEAVES[:size]))
    assert tree(LEAVES[:size]) != tree(LEAVES[: size + 1])
