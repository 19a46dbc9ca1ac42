"""Making a guest: from packages and files to a kernel and an initrd. No root, no chroot, nothing installed.

The result is a function of the packages, the recipe, the files and the overlay: whoever builds it, wherever, twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from images.compression import compress_file
from vmhost.errors import GuestSourceBad
from vmhost.guest import elf, limits
from vmhost.guest.kernel import direct_kernel
from vmhost.guest.kernel_modules import put_modules
from vmhost.guest.packages import Package
from vmhost.guest.pool import Pool
from vmhost.guest.recipe import RECIPE, Recipe
from vmhost.guest.tree import Directory, File, Link, Tree, merged

_TRIPLETS: Final = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
_UNITS: Final = "usr/lib/systemd/system"


@dataclass(frozen=True)
class Overlay:
    """Files that are merged into the guest: (path, node), in order."""

    nodes: tuple[tuple[str, Directory | File | Link], ...]

    def digest(self) -> str:
        digest = hashlib.sha256()
        for path, node in self.nodes:
            content = (
                node.content if isinstance(node, File) else node.target.encode() if isinstance(node, Link) else b""
            )
            mode = -1 if isinstance(node, Link) else node.mode
            digest.update(f"{type(node).__name__}\0{path}\0{mode}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
            digest.update(content)
        return digest.hexdigest()


def read_overlay(directories: Sequence[Path], *, own_modes: bool) -> Overlay:
    """The files of some directories, later ones over earlier ones.

    With `own_modes` a file keeps its permissions (a person's overlay); without, scripts and programs can be run and
    nothing else (files of a package of ours, which may have lost theirs on the way). Raises `GuestSourceBad`.
    """
    nodes: dict[str, Directory | File | Link] = {}
    size = 0
    for directory in directories:
        for path, entry in _walk(directory):
            node = _node(path, entry, own_modes)
            size += len(node.content) if isinstance(node, File) else 0
            nodes[merged(entry)] = node
            if len(nodes) > limits.INCLUDE_FILES_MAX or size > limits.INITRD_BYTES_MAX:
                raise GuestSourceBad(f"{directory} is too large to be laid over a guest")
    return Overlay(tuple(sorted(nodes.items())))


def _walk(directory: Path) -> Iterator[tuple[Path, str]]:
    if not directory.is_dir():
        raise GuestSourceBad(f"{directory} is no directory", hint="an overlay is a directory like include/etc/motd")
    for root, names, files in os.walk(directory):
        names.sort()
        for name in [*names, *sorted(files)]:
            path = Path(root, name)
            yield path, str(path.relative_to(directory))


def _node(path: Path, entry: str, own_modes: bool) -> Directory | File | Link:
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return Link(os.readlink(path))
        if stat.S_ISDIR(mode):
            return Directory(stat.S_IMODE(mode) if own_modes else 0o755)
        if not stat.S_ISREG(mode):
            raise GuestSourceBad(f"/{entry} of the overlay is neither file, directory nor link")
        content = path.read_bytes()
    except OSError as error:
        raise GuestSourceBad(f"/{entry} of the overlay cannot be read: {error.strerror}") from None
    if own_modes:
        return File(content, stat.S_IMODE(mode))
    return File(content, 0o755 if content[:2] == b"#!" or elf.is_elf(content) else 0o644)


def recipe_digest(recipe: Recipe, own: Overlay) -> str:
    """Of what this version of ours puts into a guest, whatever the packages and the user's own files."""
    words = [RECIPE, {**asdict(recipe), "files": own.digest()}]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def guest_digest(recipe: Recipe, packages: Sequence[Package], own: Overlay, include: Overlay | None) -> str:
    """What names a guest: the same for the same ingredients."""
    overlay = include.digest() if include else None
    ingredients = [
        recipe_digest(recipe, own),
        limits.PACK_LEVEL,
        overlay,
        [(p.name, p.version, p.sha256) for p in packages],
    ]
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def make_kernel(pool: Pool, arch: str) -> tuple[str, bytes]:
    """The kernel's release (6.1.0-56-cloud-amd64) and its unpacked bytes. Raises `GuestSourceBad`."""
    release = _release(pool)
    image, _ = pool.read(f"boot/vmlinuz-{release}")
    return release, direct_kernel(image, arch)


def _release(pool: Pool) -> str:
    images = sorted(path for path in pool.below("boot") if posixpath.basename(path).startswith("vmlinuz-"))
    if len(images) != 1:
        raise GuestSourceBad(f"the packages have {len(images)} kernels instead of one")
    return posixpath.basename(images[0]).removeprefix("vmlinuz-")


def make_initrd(pool: Pool, recipe: Recipe, own: Overlay, include: Overlay | None) -> tuple[bytes, list[str]]:
    """The initrd, unpacked (cpio), and the names of its kernel modules. Raises `GuestSourceBad`."""
    tree = Tree()
    for path, mode in recipe.directories:
        tree.put(path, Directory(mode))
    for program in recipe.programs:
        _put_program(tree, pool, recipe.arch, program)
    for library in recipe.libraries:
        _put_library(tree, pool, recipe.arch, library, optional=True)
    for unit in recipe.units:
        tree.put(f"{_UNITS}/{unit}", File(pool.read(f"{_UNITS}/{unit}")[0]))
    for target, unit in recipe.wants:
        tree.put(f"{_UNITS}/{target}.wants/{unit}", Link(f"../{unit}"))
    for path, target in recipe.links:
        tree.put(path, Link(target))
    names = [*recipe.modules, *recipe.late_modules]
    modules = put_modules(tree, pool, _release(pool), [*names, *recipe.spare_modules])
    # What the kernel has built in needs no loading.
    for path, chosen in (("modules", recipe.modules), ("modules.late", recipe.late_modules)):
        loaded = [name for name in chosen if name.replace("-", "_") in modules]
        tree.put(f"/usr/lib/hyper/{path}", File("".join(f"{name}\n" for name in loaded).encode()))
    for path, node in [*own.nodes, *(include.nodes if include else ())]:
        tree.put(path, node)
        if isinstance(node, File) and elf.is_elf(node.content):
            _put_needs(tree, pool, recipe.arch, node.content)
    archive = tree.archive()
    if len(archive) > limits.INITRD_BYTES_MAX:
        raise GuestSourceBad(f"the guest unpacks to {len(archive) >> 20} MiB, more than it could hold in memory")
    return archive, modules


def _put_program(tree: Tree, pool: Pool, arch: str, path: str) -> None:
    content, mode = pool.read(path)
    tree.put(path, File(content, mode))
    _put_needs(tree, pool, arch, content)


def _put_needs(tree: Tree, pool: Pool, arch: str, content: bytes) -> None:
    if not elf.is_elf(content):
        return
    needs = elf.needs(content)
    if needs.interpreter is not None and needs.interpreter not in tree:
        tree.put(needs.interpreter, File(pool.read(needs.interpreter)[0], 0o755))
    for library in needs.libraries:
        _put_library(tree, pool, arch, library)


def _put_library(tree: Tree, pool: Pool, arch: str, name: str, *, optional: bool = False) -> None:
    triplet = _TRIPLETS[arch]
    for directory in (f"usr/lib/{triplet}", f"usr/lib/{triplet}/systemd", "usr/lib/systemd"):
        path = f"{directory}/{name}"
        if path in tree:
            return
        if pool.find(path) is not None:
            content, _ = pool.read(path)
            tree.put(path, File(content, 0o755))
            _put_needs(tree, pool, arch, content)
            return
    if not optional:
        raise GuestSourceBad(f"no package of the recipe has the library {name}")


def pack(content: bytes) -> bytes:
    """zstd, as small as it gets; the same bytes on any machine with the same zstd."""
    return compress_file(content, level=limits.PACK_LEVEL, threads=limits.PACK_THREADS)
