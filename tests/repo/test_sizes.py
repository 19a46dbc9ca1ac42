"""Files and functions stay small enough to be read at once: aim at 400 and 70 lines, never beyond 450 and 90."""

from __future__ import annotations

import ast

from tests.support.sources import TOP, package_files, python_files

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 90


def long_functions(source: str) -> list[tuple[str, int]]:
    """(name, lines) of each function over the limit; decorators and docstring count."""
    functions = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    sizes = ((f.name, (f.end_lineno or f.lineno) - f.lineno + 1) for f in functions)
    return [(name, lines) for name, lines in sizes if lines > FUNCTION_LINES_MAX]


def test_files_are_short() -> None:
    sizes = {path: len((TOP / path).read_text().splitlines()) for path in python_files()}
    assert {path: lines for path, lines in sizes.items() if lines > FILE_LINES_MAX} == {}


def test_functions_fit_a_screen() -> None:
    found = {path: long_functions((TOP / path).read_text()) for path in package_files()}
    assert {path: names for path, names in found.items() if names} == {}


def test_a_long_function_is_found() -> None:
    assert long_functions("class A:\n  def f(self):\n" + "    x = 1\n" * 90) == [("f", 91)]
    assert long_functions("def f():\n" + "    x = 1\n" * 89) == []
