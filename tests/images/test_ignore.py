"""Patterns of .hyperignore, and what an import leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperlog.repository import open_repository
from images.errors import ImportRefused
from images.ignore import parse_ignore
from images.import_dir import import_directory


@pytest.mark.parametrize(
    ("patterns", "excluded", "kept"),
    [
        ("*.pyc", ["a.pyc"], ["d/a.pyc", "a.py"]),
        ("**/*.pyc", ["a.pyc", "d/a.pyc", "d/e/a.pyc"], ["a.py"]),
        ("/var/cache", ["var/cache"], ["var", "cache", "x/var/cache"]),
        ("var/cache/*\n!var/cache/kept", ["var/cache/other"], ["var/cache", "var/cache/kept"]),
        ("a?c\n[0-9]*\n[!x]y", ["abc", "7up", "ay"], ["ac", "a/c", "xy"]),
        ("# comment\n\n  spaced  \n", ["spaced"], ["# comment"]),
        ("proc/**", ["proc/1", "proc/1/fd"], ["proc"]),
        (r"\*", ["*"], ["x"]),
        ("", [".hyperignore"], ["x/.hyperignore"]),
    ],
)
def test_patterns(patterns: str, excluded: list[str], kept: list[str]) -> None:
    rules = parse_ignore(patterns.encode())
    assert [path for path in excluded if not rules.excludes(path.encode())] == []
    assert [path for path in kept if rules.excludes(path.encode())] == []


@pytest.mark.parametrize("patterns", ["../x", "a/../b", "/", "!", "[z-a]", "a\n" * 2000])
def test_what_is_no_pattern_is_named(patterns: str) -> None:
    with pytest.raises(ImportRefused, match=r"\.hyperignore line"):
        parse_ignore(patterns.encode())


def test_an_import_leaves_out_what_the_tree_says(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "cache" / "deep").mkdir(parents=True)
    (tree / "cache" / "deep" / "x").write_text("x")
    (tree / "kept").write_text("kept")
    (tree / ".hyperignore").write_text("cache\n")
    with open_repository(tmp_path / "home") as home:
        made = import_directory(
            str(tree), home.blocks, home.ingest_index, progress=lambda _: None, should_stop=lambda: False
        )
    assert [path for path, _ in made.manifest.walk()] == [b"", b"kept"]
