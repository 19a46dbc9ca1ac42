"""The kernel modules that a guest gets: those of the recipe, what they depend on, and the tables that modprobe reads.

A module says itself what it depends on and under which names the kernel may ask for it (`.modinfo`), so no depmod is
needed: modules.dep and modules.alias are written here, as text, which busybox's modprobe reads.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from vmhost.errors import GuestSourceBad
from vmhost.guest import elf
from vmhost.guest.pool import Pool
from vmhost.guest.tree import File, Tree


@dataclass(frozen=True)
class _Module:
    path: str  # below lib/modules/RELEASE, uncompressed name
    content: bytes
    needs: tuple[str, ...]  # modules, by name
    aliases: tuple[str, ...]


def put_modules(tree: Tree, pool: Pool, release: str, names: Iterable[str]) -> list[str]:
    """Put these modules and all they need into the tree; their names, needed ones first. Built-in ones are left out.

    Raises `GuestSourceBad` for one that the kernel has not.
    """
    base = f"usr/lib/modules/{release}"
    paths = {_name(path): path for path in pool.below(base) if ".ko" in PurePosixPath(path).name}
    builtin = {_name(line) for line in pool.read(f"{base}/modules.builtin")[0].decode().split()}
    chosen: dict[str, _Module] = {}

    def choose(name: str) -> None:
        if name in chosen or (name in builtin and name not in paths):
            return
        if name not in paths:
            raise GuestSourceBad(f"the kernel {release} has no module {name}")
        module = _read(pool, paths[name], base)
        for needed in module.needs:
            choose(needed)
        chosen[name] = module

    for name in names:
        choose(name.replace("-", "_"))
    for module in chosen.values():
        tree.put(f"{base}/{module.path}", File(module.content))
    tree.put(f"{base}/modules.dep", File(_dependencies(chosen).encode()))
    tree.put(f"{base}/modules.alias", File(_aliases(chosen).encode()))
    return list(chosen)


def _name(path: str) -> str:
    return PurePosixPath(path).name.partition(".")[0].replace("-", "_")


def _read(pool: Pool, path: str, base: str) -> _Module:
    content, _ = pool.read(path)
    if path.endswith(".xz"):
        content = lzma.decompress(content)
    info = elf.module_info(content)
    return _Module(
        path.removeprefix(f"{base}/").removesuffix(".xz"),
        content,
        tuple(_name(name) for words in info.get("depends", ()) for name in words.split(",") if name),
        tuple(info.get("alias", ())),
    )


def _dependencies(modules: dict[str, _Module]) -> str:
    """modules.dep: a module's path, a colon, and all that must be loaded before it, the nearest first."""

    def before(name: str) -> list[str]:
        found: list[str] = []
        for needed in modules[name].needs:
            if needed in modules:
                found += [needed, *before(needed)]
        return list(dict.fromkeys(found))

    lines = (f"{modules[name].path}: {' '.join(modules[other].path for other in before(name))}" for name in modules)
    return "".join(sorted(line.rstrip() + "\n" for line in lines))


def _aliases(modules: dict[str, _Module]) -> str:
    return "".join(sorted(f"alias {alias} {name}\n" for name, module in modules.items() for alias in module.aliases))
