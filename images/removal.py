"""Removal of a tree that somebody else made: as deep as they liked, and with anything mounted in it.

`shutil.rmtree` calls itself once a level (until Python 3.13) and goes into what is mounted. A program inside a
container can nest its directories by the thousand, and its container must go all the same. So nothing here goes down:
directories inside a directory are first moved up, beside it, and one level is all there ever is. A place that something
is mounted on cannot be moved, and is left as it is, with what is mounted.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str | Path) -> bool:
    """Remove the directory `path` and all in it; whether nothing is left of it. Blocks. What cannot go stays."""
    try:
        top = os.open(path, _OPEN)
    except OSError:
        return not os.path.lexists(path)
    try:
        _empty(top)
    finally:
        os.close(top)
    with suppress(OSError):
        os.rmdir(path)
    return not os.path.lexists(path)


def _empty(top: int) -> None:
    """Rounds over what lies in it, until one changes nothing."""
    prefix = secrets.token_hex(8)
    fresh = (f"{prefix}-{number}" for number in count())
    before: list[str] = []
    while (names := _list(top)) != before:
        before = names
        for name in names:
            with suppress(OSError):
                if not _unlink(name, top):
                    moved = name if name.startswith(prefix) else _move(name, top, next(fresh), top)
                    _flatten(moved, top, fresh)


def _list(directory: int) -> list[str]:
    _unlock(".", directory)
    return sorted(os.listdir(directory))


def _flatten(name: str, top: int, fresh: Iterator[str]) -> None:
    """Remove the directory `name` of `top`, what is in it removed or moved up. Raises OSError."""
    directory = os.open(name, _OPEN, dir_fd=top)
    try:
        for inner in _list(directory):
            with suppress(OSError):
                if not _unlink(inner, directory):
                    _move(inner, directory, next(fresh), top)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=top)


def _unlink(name: str, directory: int) -> bool:
    """Whether it was no directory, and went."""
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        return False
    return True


def _move(name: str, directory: int, fresh: str, top: int) -> str:
    """To `top`, under a name that nothing has there. Raises OSError, for a place that something is mounted on too."""
    _unlock(name, directory)
    os.rename(name, fresh, src_dir_fd=directory, dst_dir_fd=top)
    return fresh


def _unlock(name: str, directory: int) -> None:
    """Let its owner write to a directory that they made read-only; root may anyway."""
    if os.geteuid() != 0:
        with suppress(OSError):
            os.chmod(name, 0o700, dir_fd=directory)
