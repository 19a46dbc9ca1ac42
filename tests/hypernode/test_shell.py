"""Completion as shells ask for it, and manual pages, both made from the commands themselves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hypernode.cli.complete import complete
from hypernode.names import read_names, remember_names
from tests.support.sources import TOP

LINK = "hyper://8m7771qsxss56kyobodxdrtb4n7i1hr8u4wpmyzajctgn7fbjqgo"
OTHER = "hyper://ekr7ihg331hyza6dr1m5bym397hqdmt53z1ffx5mdyt35gwi65go"


@cache
def table() -> dict[str, Any]:
    """In a process of its own: typer makes warnings, which are errors here."""
    program = "import json; from hypernode.cli.command_table import command_table as t; print(json.dumps(t().fields()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=TOP, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    (path / "volumes/build").mkdir(parents=True)
    for number, name in enumerate(("web", "worker")):
        container = path / f"containers/{number}"
        container.mkdir(parents=True)
        (container / "spec.json").write_text(json.dumps({"name": name}))
        (container / "state.json").write_text(json.dumps({"status": "running"}))
    (path / "containers/broken").mkdir()
    (path / "containers/broken/spec.json").write_text("[")
    remember_names(str(path), [(LINK, "debian"), (OTHER, None)])
    return path


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("bo", ["boot"]),
        ("config ", ["check", "edit", "path", "set", "show", "template", "unset"]),
        ("config set lan", ["lan-only"]),
        ("--no-mdns --listen-is-not-one bo", ["boot"]),
        ("boot --pre", ["--prefetch", "--prefetch-rate"]),
        ("boot ", ["debian", OTHER]),
        ("boot deb", ["debian"]),
        ("boot hyper://8", [LINK]),
        ("boot hyper://e", [OTHER]),
        ("--home /nowhere boot ", []),
        ("--home=/nowhere boot ", []),
        ("diff x ", ["debian", OTHER]),
        ("diff x y ", []),
        ("boot --keep ", ["build"]),
        ("boot --keep=b", ["--keep=build"]),
        ("boot --keep build deb", ["debian"]),
        ("commit b", ["build"]),
        ("stop w", ["web", "worker"]),
        ("stop web wo", ["worker"]),
        ("logs we", ["web"]),
        ("exec we", ["web"]),
        ("cp wo", [":file", "worker:"]),
        ("mount x ", [":dir"]),
        ("--config ", [":file"]),
        ("boot x -- ", []),
        ("nonsense ", []),
        ("images --there-is-no ", []),
        ("images --js", ["--json"]),
    ],
)
def test_what_could_come_next(home: Path, line: str, values: list[str]) -> None:
    assert [value for value, _ in complete(table(), line.split(" "), str(home))] == values


def test_candidates_are_described(home: Path) -> None:
    assert complete(table(), ["boot", "deb"], str(home)) == [("debian", LINK)]
    ((_, words),) = complete(table(), ["doct"], str(home))
    assert words.startswith("Say what works from here")


@pytest.mark.parametrize("text", ["", "{", "[1]", '[["a"]]', "[" * 5000, "\0"])
def test_names_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.json").write_text(text)
    assert read_names(str(tmp_path)) == []


def test_bash_completes_what_it_splits_at_colons(home: Path, tmp_path: Path) -> None:
    program = tmp_path / "hypernode"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={TOP} exec {sys.executable} -m hypernode "$@"\n')
    program.chmod(0o755)
    (tmp_path / "some file").touch()
    script = f"""
source <({program} completion bash)
compopt() {{ :; }}
complete_line() {{ COMP_LINE=$1 COMP_POINT=${{#1}}; _hypernode; printf '%s\\n' "${{COMPREPLY[*]}}"; }}
for line in "bo" "boot deb" "boot hyper://8" "boot --pre" "boot --keep "; do complete_line "{program} $line"; done
cd {tmp_path} && complete_line "{program} --config som" && complete_line "{program} mount x hom"
"""
    environment = {**os.environ, "HYPERNODE_HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    rest = LINK.partition(":")[2]
    assert done.stdout.splitlines() == [
        "boot",
        "debian",
        rest,
        "--prefetch --prefetch-rate",
        "build",
        "some file",
        "home",
    ]
    assert done.stderr == ""
    assert json.loads((tmp_path / "cache/hypernode/commands.json").read_text())["table"] == table()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_their_script(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    argv = [sys.executable, "-m", "hypernode", "completion", shell]
    script = subprocess.run(argv, cwd=TOP, check=True, capture_output=True).stdout
    assert subprocess.run([shell, "-n"], input=script, check=False, capture_output=True).returncode == 0


def test_every_command_has_a_manual_page_that_groff_understands(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "hypernode", "install-man", "--dir", str(tmp_path / "man"), "--json"]
    done = subprocess.run(argv, cwd=TOP, check=True, capture_output=True, text=True)
    pages = {path.name: path.read_text() for path in (tmp_path / "man").iterdir()}
    assert sorted(pages) == json.loads(done.stdout)["pages"]
    assert len(pages) > 35
    requests = {".TH", ".SH", ".PP", ".TP", ".B", ".BR", ".I", ".EX", ".EE"}
    for name, text in pages.items():
        assert text.isascii(), name
        assert {line.split()[0] for line in text.splitlines() if line.startswith(".")} <= requests, name
        assert not [line for line in text.splitlines() if line.startswith("'") or re.search(r"\\[^e&()\[fu-]", line)]
        if groff := shutil.which("groff"):
            said = subprocess.run([groff, "-ww", "-man", "-Tutf8", "-z"], input=text, capture_output=True, text=True)
            assert said.stderr == "", name
    assert ".B \\-\\-read\\-deadline SECONDS" in pages["hypernode-boot.1"]
    assert "hyper://KEY@VERSION" in pages["hypernode-boot.1"]
    assert "HYPERNODE_LAN_ONLY" in pages["hypernode.1"]


def test_where_man_pages_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    argv = [sys.executable, "-m", "hypernode", "install-man", "--dir", str(tmp_path / "file/man")]
    done = subprocess.run(argv, cwd=TOP, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.endswith("  hint: choose another directory with --dir\n")
