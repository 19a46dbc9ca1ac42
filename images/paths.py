"""Paths inside an image: `LINK:PATH` taken apart, and names looked up as a program inside would, symlinks and all."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Final

from hyperlog.errors import NotFound, Refused
from hyperlog.link import SCHEME
from images.limits import GRANULE_BYTES, PIECE_BYTES
from images.manifest import Inode, Manifest
from images.source_tree import shown
from images.tree import HOLE

_SYMLINKS_MAX: Final = 40


def split_place(text: str) -> tuple[str, str]:
    """(link, path) of `hyper://KEY[@VERSION]:PATH`; the path is empty when none is given.

    A colon after a `?` belongs to a peer's address: peers of such a place are given beside it.
    """
    scheme, rest = (SCHEME, text[len(SCHEME) :]) if text.startswith(SCHEME) else ("", text)
    front, colon, path = rest.partition(":")
    if not colon or "?" in front:
        return text, ""
    return scheme + front, path


def find(manifest: Manifest, path: bytes, *, follow: bool = True) -> int:
    """The inode at `path`, relative to the root; a symlink at its end is followed with `follow`, others always.

    Links are resolved inside the image: `..` above the root stays there. Raises `NotFound`, `Refused` (a loop).
    """
    trail = [0]
    parts = [part for part in path.split(b"/") if part]
    left = _SYMLINKS_MAX
    while parts:
        part = parts.pop(0)
        if part == b".":
            continue
        if part == b"..":
            trail = trail[:-1] or [0]
            continue
        number = dict(manifest.entries(trail[-1])).get(part)
        if number is None:
            raise NotFound(f"the image has no {shown(path)}", "`hypernode ls` lists a directory")
        inode = manifest.inode(number)
        if stat.S_ISLNK(inode.mode) and (parts or follow):
            left -= 1
            if not left:
                raise Refused(f"{shown(path)} is a loop of symbolic links")
            if inode.target.startswith(b"/"):
                trail = [0]
            parts = [piece for piece in inode.target.split(b"/") if piece] + parts
            continue
        trail.append(number)
    return trail[-1]


def data_ranges(inode: Inode) -> Iterator[tuple[int, int, int]]:
    """(byte in the file, byte in blob space, bytes) of a regular file's data, holes left out."""
    position = 0
    for run in inode.runs:
        end = min(position + run.pieces * PIECE_BYTES, inode.size)
        if run.granule != HOLE:
            yield position, run.granule * GRANULE_BYTES, end - position
        position += run.pieces * PIECE_BYTES
