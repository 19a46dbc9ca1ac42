"""A manifest's columns, and what follows from them.

`Columns` is exactly what is encoded. `Structure` is derived while the columns are checked and holds what every use
of a manifest needs and would otherwise derive again: names cut, children numbered, link counts, running totals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from images.columns import Column
from images.tree import Run, Xattrs


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Columns:
    """One value per: inode · directory · entry · symlink · device node · regular file · run · block. Inode order."""

    modes: Column
    uids: Column
    gids: Column
    seconds: Column
    nanoseconds: Column
    xattrs: Column
    """Per inode: which of `xattr_sets`; 0 is the empty set."""
    xattr_sets: tuple[Xattrs, ...]

    entry_counts: Column
    name_lengths: Column
    names: bytes
    links: Column
    """Pairs (entry number, inode number) of the entries that are further names of an inode."""

    target_lengths: Column
    targets: bytes
    devices: Column
    """Pairs (major, minor)."""

    sizes: Column
    run_counts: Column
    run_pieces: Column
    run_granules: Column

    block_granules: Column
    block_stored: Column
    block_ids: bytes


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Structure:
    """What the columns imply."""

    places: Sequence[int]
    """Per inode: its index among the inodes of its own kind (directories, files, symlinks, device nodes)."""
    directories: Sequence[int]
    """Inode numbers of the directories."""
    parents: Sequence[int]
    """Per directory (by place): inode number of its parent; the root is its own."""
    entry_starts: Sequence[int]
    """Per directory, plus one: where its entries begin in the list of all entries."""
    names: Sequence[bytes]
    """Per entry."""
    children: Sequence[int]
    """Per entry: inode number."""
    nlinks: Sequence[int]
    """Per inode."""
    targets: Sequence[bytes]
    """Per symlink."""
    run_starts: Sequence[int]
    """Per file, plus one: where its runs begin in the list of all runs."""
    block_starts: Sequence[int]
    """Per block, plus one: its first granule."""

    def file_runs(self, columns: Columns, place: int) -> Iterator[Run]:
        """The runs of the `place`-th regular file."""
        for number in range(self.run_starts[place], self.run_starts[place + 1]):
            yield Run(columns.run_pieces[number], columns.run_granules[number])
