"""A stack of layers as one tree, with no host path involved: what umoci would unpack, as inodes in memory.

A layer is a tar that changes what lies below: a member replaces what has its name, but a directory over a directory
only takes its place's attributes; `.wh.NAME` removes NAME, `.wh..wh..opq` everything in its directory, and both spare
what the same layer brings, in whatever order (OCI image layout: layer.md). A character device 0/0, overlayfs' own
spelling, counts as a whiteout. Parents are resolved as a process confined to the image would: through symlinks, never
above the root; a parent that no layer has is made (root's, 0755, of 1970). Names are read as relative to the root,
whatever they begin with; `..` in one is refused. A hard link takes the inode that its target has at that moment, so it
may reach into a lower layer, and keeps it when the target is replaced later.
"""

from __future__ import annotations

import stat
from collections import deque
from typing import Final, NamedTuple

from images.errors import ImportRefused
from images.limits import (
    DEPTH_MAX,
    DEVICE_MAJOR_MAX,
    DEVICE_MINOR_MAX,
    ENTRIES_MAX,
    NAME_BYTES_MAX,
    PATH_BYTES_MAX,
    SECONDS_MAX,
    TARGET_BYTES_MAX,
    XATTR_NAME_BYTES_MAX,
    XATTR_SET_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
)
from images.source_tree import Note, shown
from images.tar_reader import Member
from images.tree import NO_DEVICE, Node, Xattrs, xattr_allowed

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_AUFS: Final = b".wh..wh."
_SYMLINKS_MAX: Final = 40
_NOTES_MAX: Final = 1000


class _Place(NamedTuple):
    """Where an entry belongs: the directory, and the name in it."""

    directory: Node
    name: bytes


class LayerTree:
    """The tree so far. Per layer: `begin_layer`, then `apply` for each member."""

    def __init__(self) -> None:
        self.root = Node(mode=stat.S_IFDIR | 0o755)
        self.notes: list[Note] = []
        self._entries = 0
        self._fresh: set[tuple[Node, bytes]] = set()
        """Entries of the present layer."""
        self._touched: set[Node] = set()
        """Directories that hold some, at whatever depth."""

    def begin_layer(self) -> None:
        self._fresh.clear()
        self._touched.clear()

    def apply(self, member: Member) -> Node | None:
        """Take `member` into the tree; the new inode when it is a regular file, whose data the caller keeps.

        Raises `ImportRefused` for what cannot be part of an image.
        """
        parts = _components(member.name, member.offset)
        if any(part.startswith(_AUFS) and part != _OPAQUE for part in parts):
            return None  # what AUFS kept for itself
        if any(part.startswith(_WHITEOUT) for part in parts[:-1]):
            raise _refused(member.name, "lies below a whiteout")
        if not parts:
            if not stat.S_ISDIR(member.mode):
                raise _refused(member.name, "would put something else in the place of the root directory")
            self._take_attributes(self.root, member)
            return None
        name = parts[-1]
        if name.startswith(_WHITEOUT):
            self._white_out(member, parts)
            return None
        if stat.S_ISCHR(member.mode) and member.device == NO_DEVICE:
            self._remove(parts[:-1], name)
            return None
        place = self._place(parts, member.name)
        if member.is_hard_link:
            self._link(member, place)
            return None
        return self._put(member, place)

    def _put(self, member: Member, place: _Place) -> Node | None:
        old = place.directory.entries.get(place.name)
        if stat.S_ISDIR(member.mode):
            if old is None or not stat.S_ISDIR(old.mode):
                old = Node(mode=member.mode)
                self._enter(place, old)
            self._mark(place)
            self._take_attributes(old, member)
            return None
        node = Node(mode=member.mode, size=member.size, target=b"", device=member.device)
        if stat.S_ISLNK(member.mode):
            if not 0 < len(member.target) <= TARGET_BYTES_MAX:
                raise _refused(member.name, "is a symlink without a target, or with one that is too long")
            node.target = member.target
        if member.device.major > DEVICE_MAJOR_MAX or member.device.minor > DEVICE_MINOR_MAX:
            raise _refused(member.name, "has a device number that images cannot hold")
        self._take_attributes(node, member)
        self._enter(place, node)
        self._mark(place)
        return node if stat.S_ISREG(node.mode) else None

    def _link(self, member: Member, place: _Place) -> None:
        parts = _components(member.target, member.offset)
        found = self._find(parts[:-1]) if parts else None
        target = found.entries.get(parts[-1]) if found is not None else None
        if target is None:
            raise _refused(member.name, f"is a hard link to {shown(member.target)}, which is not there")
        if stat.S_ISDIR(target.mode):
            raise _refused(member.name, "is a hard link to a directory")
        if place.directory.entries.get(place.name) is not target:
            self._enter(place, target)
        elif found is place.directory and parts[-1] == place.name:
            raise _refused(member.name, "is a hard link to itself")
        self._mark(place)

    def _enter(self, place: _Place, node: Node) -> None:
        if place.name not in place.directory.entries:
            self._entries += 1
            if self._entries > ENTRIES_MAX:
                raise ImportRefused(f"the layers have more than {ENTRIES_MAX} entries")
        place.directory.entries[place.name] = node

    def _mark(self, place: _Place) -> None:
        self._fresh.add((place.directory, place.name))

    def _take_attributes(self, node: Node, member: Member) -> None:
        if abs(member.mtime_ns) > SECONDS_MAX * 10**9:
            raise _refused(member.name, "has an impossible modification time")
        node.mode, node.uid, node.gid, node.mtime_ns = member.mode, member.uid, member.gid, member.mtime_ns
        node.xattrs = self._xattrs(member)

    def _xattrs(self, member: Member) -> Xattrs:
        held: list[tuple[bytes, bytes]] = []
        for name, value in member.xattrs:
            if len(name) > XATTR_NAME_BYTES_MAX or b"\0" in name or not name:
                raise _refused(member.name, "has an extended attribute with an impossible name")
            if xattr_allowed(name):
                held.append((name, value))
            elif len(self.notes) < _NOTES_MAX:
                self.notes.append(Note(member.name, f"extended attribute {shown(name)}, which images do not hold"))
        total = sum(len(name) + len(value) + 4 for name, value in held)
        if total > XATTR_SET_BYTES_MAX or any(len(value) > XATTR_VALUE_BYTES_MAX for _, value in held):
            raise _refused(member.name, "has more extended attributes than images can hold")
        return tuple(held)

    # Whiteouts

    def _white_out(self, member: Member, parts: list[bytes]) -> None:
        name = parts[-1]
        if name == _OPAQUE:
            directory = self._find(parts[:-1])
            if directory is not None:
                self._drop_lower(directory)
            return
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise _refused(member.name, "is a whiteout of nothing")
        self._remove(parts[:-1], hidden)

    def _remove(self, parents: list[bytes], name: bytes) -> None:
        """Remove what lower layers have there; nothing when they have nothing."""
        directory = self._find(parents)
        node = None if directory is None else directory.entries.get(name)
        if directory is None or node is None:
            return
        if (directory, name) not in self._fresh and node not in self._touched:
            self._entries -= _count(node)
            del directory.entries[name]
        elif stat.S_ISDIR(node.mode):
            self._drop_lower(node)

    def _drop_lower(self, top: Node) -> None:
        """Remove all below `top` that the present layer did not bring."""
        waiting = [top]
        while waiting:
            directory = waiting.pop()
            for name, node in list(directory.entries.items()):
                if (directory, name) not in self._fresh and node not in self._touched:
                    self._entries -= _count(node)
                    del directory.entries[name]
                elif stat.S_ISDIR(node.mode):
                    waiting.append(node)

    # Paths

    def _place(self, parts: list[bytes], name: bytes) -> _Place:
        """Where `parts` belong, parents made. All directories on the way count as touched."""
        trail = self._resolve(parts[:-1], make=True, name=name)
        assert trail is not None
        if len(trail) > DEPTH_MAX:
            raise _refused(name, f"lies deeper than {DEPTH_MAX} directories")
        self._touched.update(trail)
        return _Place(trail[-1], parts[-1])

    def _find(self, parts: list[bytes]) -> Node | None:
        trail = self._resolve(parts, make=False, name=b"/".join(parts))
        return None if trail is None else trail[-1]

    def _resolve(self, parts: list[bytes], *, make: bool, name: bytes) -> list[Node] | None:
        """The directories from the root to the one that `parts` name; None when there is none and none is made."""
        trail = [self.root]
        todo = deque(parts)
        symlinks = 0
        while todo:
            part = todo.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                trail = trail[:-1] or [self.root]
                continue
            node = trail[-1].entries.get(part)
            if node is None:
                if not make:
                    return None
                node = Node(mode=stat.S_IFDIR | 0o755)
                self._enter(_Place(trail[-1], part), node)
            if stat.S_ISLNK(node.mode):
                symlinks += 1
                if symlinks > _SYMLINKS_MAX:
                    raise _refused(name, "lies below a circle of symlinks")
                if node.target.startswith(b"/"):
                    trail = [self.root]
                todo.extendleft(reversed(node.target.split(b"/")))
            elif stat.S_ISDIR(node.mode):
                trail.append(node)
            elif make:
                raise _refused(name, "lies below something that is no directory")
            else:
                return None
            if len(trail) > DEPTH_MAX + 1:
                raise _refused(name, f"lies deeper than {DEPTH_MAX} directories")
        return trail


def _components(name: bytes, offset: int) -> list[bytes]:
    """The names on the way, from the root on. Raises `ImportRefused`."""
    if not name:
        raise ImportRefused(f"the tar member at byte {offset} has no name")
    if len(name) > PATH_BYTES_MAX + 1:
        raise ImportRefused(f"the tar member at byte {offset} has a path longer than {PATH_BYTES_MAX} bytes")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise _refused(name, "has .. in its path")
    if any(len(part) > NAME_BYTES_MAX for part in parts):
        raise _refused(name, f"has a name longer than {NAME_BYTES_MAX} bytes")
    return parts


def _refused(name: bytes, why: str) -> ImportRefused:
    return ImportRefused(f"{shown(name)} {why}", path=name)


def _count(top: Node) -> int:
    """How many entries go with `top`: itself and all below."""
    count, waiting = 0, [top]
    while waiting:
        node = waiting.pop()
        count += 1
        waiting.extend(node.entries.values())
    return count
