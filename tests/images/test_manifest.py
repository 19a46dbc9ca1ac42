"""One tree has one manifest, one manifest has one spelling, and nothing else gets in."""

from __future__ import annotations

import stat
from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperlog.encoding import decode, encode
from hyperlog.errors import Corrupt, Refused
from images.errors import ImageTooNew, ManifestCorrupt
from images.limits import MANIFEST_BYTES_MAX, PIECE_BYTES
from images.manifest import Manifest, encode_columns
from images.structure import Columns
from images.tree import HOLE, Device, Node, Run
from tests.images.support import manifest_of, shape, trees


@given(trees())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_tree_survives_and_has_one_spelling(root: Node) -> None:
    manifest = manifest_of(root)
    again = Manifest.decode(manifest.encode())
    assert shape(again) == shape(manifest)
    assert again.id == manifest.id
    assert encode_columns(again.columns) == manifest.encode()
    for path, number in again.walk():
        assert again.lookup(path) == number


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    with pytest.raises((ManifestCorrupt, ImageTooNew)):
        Manifest.decode(data)


@given(trees(), st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_changed_byte_makes_another_manifest_or_none(root: Node, place: int, change: int) -> None:
    encoded = bytearray(manifest_of(root).encode())
    encoded[place % len(encoded)] ^= change
    try:
        changed = Manifest.decode(bytes(encoded))
    except (Corrupt, Refused):
        return
    assert changed.id != manifest_of(root).id
    assert encode_columns(changed.columns) == bytes(encoded)


def sample() -> Columns:
    """A root with directories a (with a file and a symlink in it) and b, a device, and a second name of the file."""
    file = Node(mode=stat.S_IFREG | 0o644, size=3 * PIECE_BYTES, runs=(Run(1, 0), Run(1, HOLE), Run(1, 16)))
    small = Node(mode=stat.S_IFREG | 0o644, size=5, runs=(Run(1, 32),), xattrs=((b"user.a", b"1"), (b"user.b", b"2")))
    inner = Node(mode=stat.S_IFDIR | 0o755)
    inner.entries = {b"file": file, b"link": Node(mode=stat.S_IFLNK | 0o777, target=b"file")}
    root = Node(mode=stat.S_IFDIR | 0o755)
    root.entries = {
        b"a": inner,
        b"b": Node(mode=stat.S_IFDIR | 0o700),
        b"dev": Node(mode=stat.S_IFCHR | 0o600, device=Device(1, 3)),
        b"small": small,
        b"zz": file,
    }
    inner.entries[b"small"] = small
    return manifest_of(root).columns


def put(name: str, place: int, value: int) -> Callable[[Columns], Columns]:
    def change(columns: Columns) -> Columns:
        values = getattr(columns, name)[:]
        values[place] = value
        return replace(columns, **{name: values})

    return change


def give(**fields: Any) -> Callable[[Columns], Columns]:
    return lambda columns: replace(columns, **fields)


def cut(name: str) -> Callable[[Columns], Columns]:
    return lambda columns: replace(columns, **{name: getattr(columns, name)[:-1]})


HOSTILE: list[tuple[str, Callable[[Columns], Columns]]] = [
    ("out of order or twice", lambda c: replace(c, names=c.names.replace(b"dev", b"aev"))),
    ("a name that is . or ..", lambda c: replace(c, names=b"." + c.names[1:])),
    ("a slash or NUL", lambda c: replace(c, names=b"/" + c.names[1:])),
    ("a slash or NUL", lambda c: replace(c, names=b"\0" + c.names[1:])),
    ("empty or too long", lambda c: replace(c, names=c.names[1:], name_lengths=array("B", [0, *c.name_lengths[1:]]))),
    ("not as long as their lengths say", put("name_lengths", 0, 2)),
    ("does not have one value per inode", cut("uids")),
    ("the root is no directory", put("modes", 0, stat.S_IFREG | 0o644)),
    ("a file type that images do not hold", put("modes", 1, stat.S_IFSOCK)),
    ("nobody's number", put("uids", 1, 2**32 - 1)),
    ("an mtime beyond the limit", put("seconds", 1, 1 << 41)),
    ("an mtime beyond the limit", put("seconds", 1, -(1 << 41))),
    ("more than a second of nanoseconds", put("nanoseconds", 1, 10**9)),
    ("not as many as the names", put("entry_counts", 0, 6)),
    ("no list of pairs", cut("links")),
    ("no name yet", put("links", 1, 4_000_000_000)),
    ("no name yet", put("links", 1, 0)),
    ("a hard link to a directory", put("links", 1, 1)),
    ("links out of order", lambda c: replace(c, links=array("I", [*c.links[2:], *c.links[:2]]))),
    ("not one entry for each inode", give(links=array("I"))),
    ("one value per symlink", give(target_lengths=array("H"))),
    ("a symlink empty or too long", put("target_lengths", 0, 0)),
    ("a symlink with NUL", give(targets=b"fi\0e")),
    ("one pair per device node", give(devices=array("I"))),
    ("a device number beyond the limit", put("devices", 0, 1 << 13)),
    ("a whiteout", give(devices=array("I", [0, 0]))),
    ("a file larger than the limit", put("sizes", 0, 1 << 62)),
    ("runs that do not cover their file", put("sizes", 1, 5 + PIECE_BYTES)),
    ("runs that do not cover their file", put("run_pieces", 0, 2)),
    ("an empty run", put("run_pieces", 0, 0)),
    ("two runs that are one", put("run_granules", 2, 16)),
    ("a run beyond blob space", put("run_granules", 0, 4000)),
    ("not as many as their counts say", cut("run_granules")),
    ("a block of impossible size", put("block_granules", 0, 17)),
    ("a block of impossible size", put("block_granules", 0, 0)),
    ("a block of impossible stored size", put("block_stored", 0, 1 << 20)),
    ("one id per block", cut("block_ids")),
    ("xattrs out of order or twice", give(xattr_sets=((), ((b"user.b", b""), (b"user.a", b""))))),
    ("a namespace that images do not hold", give(xattr_sets=((), ((b"trusted.overlay.opaque", b"y"),)))),
    ("larger than the limit", give(xattr_sets=((), ((b"user.a", bytes(70_000)),)))),
    ("not numbered by first use", give(xattr_sets=((), ((b"user.a", b""),), ((b"user.c", b""),)))),
]


@pytest.mark.parametrize(("rule", "change"), HOSTILE, ids=[f"{n} {rule}" for n, (rule, _) in enumerate(HOSTILE)])
def test_what_breaks_a_rule_is_refused_by_that_rule(rule: str, change: Callable[[Columns], Columns]) -> None:
    encoded = encode_columns(change(sample()))
    with pytest.raises(ManifestCorrupt) as caught:
        Manifest.decode(encoded)
    # One broken rule may show as another that is checked earlier; it must be a rule, not an accident.
    assert caught.value.message.startswith("manifest: ")
    assert rule in caught.value.message or "out of order" in caught.value.message


def test_depth_and_paths_are_limited() -> None:
    for name, count in ((b"d", 1100), (b"n" * 200, 30)):
        root = node = Node(mode=stat.S_IFDIR | 0o755)
        for _ in range(count):
            node.entries[name] = Node(mode=stat.S_IFDIR | 0o755)
            node = node.entries[name]
        with pytest.raises(ManifestCorrupt, match=r"deeper than the limit|longer than the limit"):
            manifest_of(root)


def test_newer_formats_say_so_and_huge_ones_are_not_read() -> None:
    record: Any = decode(encode_columns(sample()), bytes_max=1 << 20)
    for change in ({"manifest": 2}, {"novelty": 1}):
        with pytest.raises(ImageTooNew):
            Manifest.decode(encode({**record, **change}))
    with pytest.raises(ManifestCorrupt):
        Manifest.decode(bytes(MANIFEST_BYTES_MAX + 1))
