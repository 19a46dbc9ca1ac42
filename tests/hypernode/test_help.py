"""The help of every command can be shown: a bracket too many in a text would end it with a traceback."""

from __future__ import annotations

import subprocess
import sys

from tests.support.sources import TOP

# In a process of its own: typer makes warnings, which are errors here.
_PROGRAM = """
import click, typer.main
from typer.testing import CliRunner
from hypernode.cli.main import app

def commands(command, path=()):
    yield path
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, (*path, name))

for path in commands(typer.main.get_command(app)):
    shown = CliRunner().invoke(app, [*path, "--help"])
    print(*(path or ["hypernode"]), shown.exit_code, repr(shown.exception))
"""


def test_help_of_every_command() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=TOP, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) > 25
    assert [line for line in lines if not line.endswith((" 0 None", " 0 SystemExit(0)"))] == []
