"""Every command there is: help with an example, JSON for programs, and nonsense told as such."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hypernode.cli.other_words import COMMANDS, OPTIONS
from tests.support.sources import TOP

# In a process of its own: typer makes warnings, which are errors here. Each command line runs in a fork of it, as the
# starter's doubles do.
_PROGRAM = """
import contextlib, io, json, os, sys, tempfile, time
import typer.main
from hypernode.cli.invoke import invoke
from hypernode.cli.main import app

def walk(command, path=()):
    if not getattr(command, "commands", {}):
        yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from walk(each, (*path, name))

def run(argv):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.monotonic()
        if not (pid := os.fork()):
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = 99
            try:
                status = invoke(command, argv)
            except SystemExit as end:
                status = end.code or 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        return {"status": os.waitstatus_to_exitcode(status), "out": out.read(), "err": err.read()}

command = typer.main.get_command(app)
found = []
for path, each in walk(command):
    options = [name for one in each.params for name in one.opts]
    more = {"json": run([*path, "--json", "--there-is-no-such-option"])} if "--json" in options else {}
    found.append({
        "name": " ".join(path), "help": each.help or "", "options": options, "hidden": each.hidden,
        "arguments": [(one.metavar, one.help) for one in each.params if one.param_type_name == "argument"],
        "shown": run([*path, "--help"]), "nonsense": run([*path, "--there-is-no-such-option"]), **more,
    })
print(json.dumps(found))
"""


@cache
def commands() -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=TOP, check=True, capture_output=True, text=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(found) > 30
    return found


def test_help_of_every_command_can_be_shown() -> None:
    """A bracket too many in a text would end it with a traceback."""
    assert [one["name"] for one in commands() if one["shown"]["status"] or one["shown"]["err"]] == []
    assert [one["name"] for one in commands() if "Usage: hypernode" not in one["shown"]["out"]] == []


def test_every_argument_is_explained() -> None:
    assert [(one["name"], form) for one in commands() for form, meaning in one["arguments"] if not meaning] == []


def test_every_command_has_an_example_of_itself() -> None:
    without = [
        one["name"]
        for one in commands()
        if not one["hidden"]
        and not any(
            line.startswith("    ") and "hypernode " in line and f" {one['name']}" in line
            for line in one["help"].partition("[bold]Examples[/bold]")[2].splitlines()
        )
    ]
    assert without == []


def test_every_command_speaks_json() -> None:
    """Those whose output is a program's, or a file's, say what else there is to say as JSON."""
    assert [one["name"] for one in commands() if "--json" not in one["options"] and not one["hidden"]] == []


def test_nonsense_is_wrong_usage() -> None:
    for one in commands():
        said = one["nonsense"]
        assert (said["status"], said["out"]) == (2, ""), one["name"]
        first, second = said["err"].splitlines()
        assert first == "hypernode: no such option '--there-is-no-such-option'"
        assert second.startswith("  hint: "), said


def test_nonsense_is_told_to_programs_in_json() -> None:
    for one in commands():
        if "json" in one:
            assert (one["json"]["status"], one["json"]["out"]) == (2, ""), one["name"]
            error = json.loads(one["json"]["err"])["error"]
            assert error["code"] == "usage"
            assert error["hint"].endswith(f"hypernode {one['name']} --help")


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["boots"], "no such command 'boots'", "did you mean 'boot'? hypernode --help"),
        (["--lan-onyl", "images"], "no such option '--lan-onyl'", "did you mean '--lan-only'"),
        (
            ["run", "-it", "web"],
            "no such command 'run'",
            "here that is hypernode boot LINK -- COMMAND; hypernode --help",
        ),
        (["volume", "ls"], "no such command 'ls'", "here that is hypernode volumes; hypernode volume --help"),
        (["boot", "--publish", "80:80", "x"], "no such option '--publish'", "here that is --port HOST:INSIDE; "),
        (["diff", "one"], "missing argument 'NEW'", "hypernode diff --help"),
        (["boot", "x", "--read-deadline", "soon"], "'soon' is not a valid float", "hypernode boot --help"),
    ],
)
def test_what_is_nearly_right_is_named(argv: list[str], message: str, hint: str) -> None:
    done = subprocess.run([sys.executable, "-m", "hypernode", *argv], cwd=TOP, capture_output=True, text=True)
    first, second = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert first.startswith("hypernode: ")
    assert message in first
    assert second.startswith(f"  hint: {hint}")


def test_what_is_said_of_other_names_is_there() -> None:
    names = {one["name"] for one in commands()}
    for text in (*COMMANDS.values(), *OPTIONS.values()):
        for name in re.findall(r"hypernode ([a-z]+(?: add)?)", text):
            assert name in names, text
    options = {one["name"]: one["options"] for one in commands()}
    assert {word for text in OPTIONS.values() for word in re.findall(r"--[a-z-]+", text)} <= set(options["boot"])
    assert not set(COMMANDS) & names
    assert not set(OPTIONS) & set(options["boot"])


def test_an_error_does_not_drive_the_terminal(tmp_path: Path) -> None:
    strange = tmp_path / "\x1b[31mred\x9b1m\n\u202e"
    argv = [sys.executable, "-m", "hypernode", "--home", str(tmp_path / "home"), "share", str(strange)]
    done = subprocess.run(argv, cwd=TOP, capture_output=True, text=True, check=False)
    first, second = done.stderr.splitlines()
    assert done.returncode == 3
    assert "[31mred" in first
    assert second.startswith("  hint: ")
    assert all(line.isprintable() for line in (first, second))
