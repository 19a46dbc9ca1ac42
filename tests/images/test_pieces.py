"""Streams told in pieces: cut anywhere they are what the whole is there, and a tree's tar stays the same bytes."""

from __future__ import annotations

import hashlib
import io
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from images.pieces import Data, Piece, Zeros, block_numbers, content_identity, cut, file_pieces, size_of, small
from images.tar_writer import FORM, tar_pieces, write_tar
from images.tree import Node
from tests.images.support import manifest_of, trees

BLOB = random.Random(1).randbytes(1000)
PIECES = st.one_of(
    st.binary(max_size=20),
    st.integers(0, 40).map(Zeros),
    st.tuples(st.integers(0, 900), st.integers(0, 100)).map(lambda pair: Data(*pair)),
)


def _bytes(pieces: list[Piece]) -> bytes:
    out = b""
    for piece in pieces:
        match piece:
            case bytes():
                out += piece
            case Zeros(size):
                out += bytes(size)
            case Data(offset, size):
                out += BLOB[offset : offset + size]
    return out


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=8), st.integers(0, 300), st.integers(0, 300), st.integers(1, 30))
def test_a_part_of_a_stream_is_what_the_whole_is_there(pieces: list[Piece], start: int, end: int, most: int) -> None:
    whole = _bytes(pieces)
    assert len(whole) == sum(map(size_of, pieces))
    assert _bytes(list(cut(pieces, start, end))) == whole[start:end]
    again = list(small(pieces, most))
    assert _bytes(again) == whole
    assert all(size_of(piece) <= most for piece in again)


class _Blob:
    def read_nowait(self, offset: int, size: int) -> bytes:
        return bytes((offset + place) % 251 for place in range(size))


@settings(max_examples=60, deadline=None)
@given(trees())
def test_a_tar_s_length_is_known_before_it_is_made(root: Node) -> None:
    manifest = manifest_of(root)
    out = io.BytesIO()
    write_tar(manifest, _Blob(), out.write, on_bytes=lambda _size: None)
    assert len(out.getvalue()) == sum(map(size_of, tar_pieces(manifest)))
    for _, number in manifest.walk():
        inode = manifest.inode(number)
        if not inode.target and inode.runs:
            assert sum(map(size_of, file_pieces(inode))) == inode.size
            assert len(content_identity(manifest, inode)) == 32
        for piece in file_pieces(inode) if inode.runs else ():
            if isinstance(piece, Data) and piece.size:
                blocks = [manifest.block(each) for each in block_numbers(manifest, piece.offset, piece.size)]
                assert blocks[0].offset <= piece.offset
                assert piece.offset + piece.size <= blocks[-1].offset + blocks[-1].raw_bytes
                assert len(blocks) == 1 or blocks[1].offset > piece.offset


def test_the_tar_of_a_tree_is_the_same_bytes_for_ever() -> None:
    """Digests of tars are remembered by FORM: who changes what is written raises FORM, and this digest."""
    leaf = Node(mode=0o100644, uid=70000, gid=5, mtime_ns=1_700_000_000_123_456_789, xattrs=((b"user.a", b"b"),))
    link = Node(mode=0o120777, mtime_ns=10**9, target=b"leaf")
    root = Node(mode=0o40755, mtime_ns=0, entries={b"leaf": leaf, b"n" * 120: link})
    out = hashlib.sha256()
    write_tar(manifest_of(root), _Blob(), out.update, on_bytes=lambda _size: None)
    assert (FORM, out.hexdigest()) == (1, "1bdc9bcf09d187f602f6d7ea34487133746b852ce0e6b7d6dd05b61d7bca453c")
