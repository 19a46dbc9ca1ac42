"""The import law as tables, and a checker that compares a file's imports with them.

Imports point down; two branches grow on one root and meet only at the top; each foreign library has one door:

    hypernode → vmhost → images → hyperlog          hypernode → swarm → hyperlog

Pure: sources in, complaints out, so that planted violations can be tried.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# package → packages of ours that it may import
MAY_IMPORT: dict[str, frozenset[str]] = {
    "hyperlog": frozenset(),
    "images": frozenset({"hyperlog"}),
    "swarm": frozenset({"hyperlog"}),
    "vmhost": frozenset({"images", "hyperlog"}),
    "hypernode": frozenset({"vmhost", "swarm", "images", "hyperlog"}),
}

# foreign library → path prefixes of the files that may import it
DOORS: dict[str, tuple[str, ...]] = {
    "nacl": ("hyperlog/keys.py",),
    "cryptography": ("hyperlog/sealing.py", "swarm/net/channel.py", "hypernode/remote/noise.py"),
    "rocksdict": ("hyperlog/rocks.py",),
    "blake3": ("hyperlog/hashing.py",),
    "zstandard": ("images/compression.py",),
    "libp2p": ("swarm/net/",),
    "noise": ("hypernode/remote/noise.py",),
    "multiaddr": ("swarm/net/",),
    "zeroconf": ("swarm/net/",),
    "h11": ("hypernode/http/server.py",),
    "opentelemetry": ("hypernode/telemetry.py",),
    "prometheus_client": ("hypernode/http/metrics.py",),
    "starlette": ("hypernode/http/",),
    "google": ("swarm/net/nat/messages.py",),
    "miniupnpc": ("swarm/net/nat/gateway.py",),
    "pyfuse3": ("vmhost/view_process.py",),
    "typer": ("hypernode/cli/",),
    "click": ("hypernode/cli/",),
    "rich": ("hypernode/cli/",),
    "hypothesis": ("hyperlog/testing.py", "images/testing.py", "swarm/testing.py", "vmhost/testing.py"),
}

# Where waiting is allowed. hyperlog, swarm/replication and swarm/discovery are values and rules: no clock, no sockets,
# no tasks.
TRIO = ("images/source.py", "images/reader.py", "images/hot.py", "images/testing.py", "swarm/", "vmhost/", "hypernode/")
NO_TRIO = ("swarm/replication/", "swarm/discovery/")

# Modules that load libp2p (seconds): nobody but themselves imports them when the program starts.
HEAVY = "swarm.net"
# The command line loads a command's modules when it is called, so that --help is quick. Elsewhere imports stand at
# the top of the module, but for what a node does beside booting.
LAZY_IMPORTS = ("hypernode/cli/", "hypernode/operations/__init__.py")
# import_module: the command line's table of commands, the network when it is first needed, mDNS once that is up,
# hyperlog's public names.
DYNAMIC_IMPORTS = ("hypernode/cli/", "swarm/network.py", "swarm/net/libp2p_network.py", "hyperlog/__init__.py")


@dataclass(frozen=True)
class Import:
    """One imported module. `lazy`: inside a function. `typing`: under `if TYPE_CHECKING`."""

    module: str
    line: int
    lazy: bool
    typing: bool


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(source: str, modules: frozenset[str]) -> list[Import]:
    """All imports of a source. `modules` (dotted) tells `from package import module` from `from module import name`."""
    return list(_walk(ast.parse(source), modules, lazy=False, typing=False))


def _walk(node: ast.AST, modules: frozenset[str], *, lazy: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, child.lineno, lazy, typing)
            case ast.ImportFrom(module=module, names=names):
                for name in {_resolve(module or "", alias.name, modules) for alias in names}:
                    yield Import(name, child.lineno, lazy, typing)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _walk(child, modules, lazy=True, typing=typing)
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=orelse):
                yield from _walk(ast.Module(body, []), modules, lazy=lazy, typing=True)
                yield from _walk(ast.Module(orelse, []), modules, lazy=lazy, typing=typing)
            case _:
                yield from _walk(child, modules, lazy=lazy, typing=typing)


def _resolve(module: str, name: str, modules: frozenset[str]) -> str:
    return f"{module}.{name}" if f"{module}.{name}" in modules else module


def complaints(sources: Mapping[str, str]) -> list[str]:
    """Every breach of the law in the sources (path → text), as `path:line: reason`, cycles last."""
    modules = frozenset(map(module_name, sources))
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for path, source in sorted(sources.items()):
        file_imports = imports(source, modules)
        found += [f"{path}:{i.line}: {reason}" for i in file_imports for reason in _breaches(path, i, modules)]
        found += _dynamic(path, source)
        graph[module_name(path)] = {i.module for i in file_imports if not i.lazy and not i.typing} & modules
    return [*found, *(f"import cycle: {' → '.join(cycle)}" for cycle in _cycles(graph))]


def _breaches(path: str, imported: Import, modules: frozenset[str]) -> Iterator[str]:
    own = path.split("/")[0]
    top = imported.module.split(".")[0]
    if top in MAY_IMPORT:
        if top != own and top not in MAY_IMPORT[own]:
            yield f"{own} may not import {top}"
        if imported.module not in modules:
            yield f"there is no module {imported.module}"
        elif imported.module == own and not path.endswith("__init__.py"):
            yield f"names are imported from where they are defined, not from {own}/__init__.py"
        if _is_heavy(imported.module) and not imported.lazy and not _is_heavy(module_name(path)):
            yield f"{imported.module} loads libp2p, so nothing outside swarm/net imports it at the start"
    elif top == "trio":
        if not path.startswith(TRIO) or path.startswith(NO_TRIO):
            yield "no trio here: this file is values and rules"
    elif top in DOORS:
        if not path.startswith(DOORS[top]):
            yield f"{top} is imported only in {', '.join(DOORS[top])}"
    elif top not in sys.stdlib_module_names:
        yield f"{top} has no door: give it one in tests/support/layering.py"
    if imported.lazy and not path.startswith(LAZY_IMPORTS):
        yield f"{imported.module} is imported inside a function"


def _is_heavy(module: str) -> bool:
    return module == HEAVY or module.startswith(f"{HEAVY}.")


def _dynamic(path: str, source: str) -> Iterator[str]:
    if path.startswith(DYNAMIC_IMPORTS):
        return
    for node in ast.walk(ast.parse(source)):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name in {"import_module", "__import__"}:
            yield f"{path}:{getattr(node, 'lineno', 0)}: {name} hides an import from this law"


def _cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """One path for each cycle that a depth-first walk meets; empty when the imports are a DAG."""
    found: list[list[str]] = []
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append([*trail[trail.index(module) :], module])
        elif module not in finished:
            for target in sorted(graph[module]):
                visit(target, [*trail, module])
            finished.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found
