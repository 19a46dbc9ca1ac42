"""Changing one setting in a file: the rest stays as it is, and nothing unsound is written."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlog.errors import HyperError, Refused
from hypernode.config_edit import replace_file, to_toml, with_setting
from hypernode.exit_codes import exit_status
from hypernode.settings import BY_NAME
from hypernode.settings_template import make_template
from tests.support.nodes import Node

FILE = """\
# for the whole house
mdns = false  # noisy
upload-limit = '2M'
listen = [
  "/ip4/0.0.0.0/tcp/4001",  # the router forwards it
]

# the end"""


@pytest.mark.parametrize(
    ("name", "value", "old", "new"),
    [
        ("mdns", "true", "mdns = false  # noisy", "mdns = true  # noisy"),
        ("upload-limit", '"3M"', "upload-limit = '2M'", 'upload-limit = "3M"'),
        ("upload-limit", None, "upload-limit = '2M'\n", ""),
        ("listen", "[]", FILE[FILE.index("listen") : FILE.index("\n\n#")], "listen = []"),
        ("dht", "false", "# the end", "# the end\ndht = false"),
    ],
)
def test_one_setting_changes_and_nothing_else(name: str, value: str | None, old: str, new: str) -> None:
    assert with_setting(FILE, name, value) == FILE.replace(old, new) + "\n"


def test_a_template_gets_it_where_it_is_explained() -> None:
    changed = with_setting(make_template(), "upnp", "false").splitlines()
    at = changed.index("upnp = false")
    assert changed[at - 1].startswith("# upnp = ")


@pytest.mark.parametrize("text", ["mdns = ", "[table]\nx = 1\n", 'x = """\nmdns = false\n"""\nmdns = false\n'])
def test_what_cannot_be_done_without_harm_is_not_done(text: str) -> None:
    with pytest.raises(Refused):
        with_setting(text, "mdns", "true")


@settings(deadline=None)
@given(st.text(max_size=200), st.sampled_from(["mdns", "listen"]), st.sampled_from(["true", '["a"]', None]))
def test_of_any_text_it_says_what_it_said(text: str, name: str, value: str | None) -> None:
    try:
        changed = with_setting(text, name, value)
    except Refused:
        return
    before, after = tomllib.loads(text), tomllib.loads(changed)
    assert {key: each for key, each in after.items() if key != name} == {
        key: each for key, each in before.items() if key != name
    }


def test_values_are_those_that_flags_take() -> None:
    assert to_toml(BY_NAME["mdns"], ("off",)) == "false"
    assert to_toml(BY_NAME["upload-limit"], ("2M",)) == '"2M"'
    assert to_toml(BY_NAME["listen"], ("/ip4/0.0.0.0/tcp/1", "/ip4/0.0.0.0/tcp/2")) == json.dumps(
        ["/ip4/0.0.0.0/tcp/1", "/ip4/0.0.0.0/tcp/2"]
    )
    for texts in ((), ("on", "off"), ("",), ("perhaps",), ("\0",)):
        with pytest.raises(HyperError):
            to_toml(BY_NAME["mdns"], texts)


def test_a_file_is_replaced_as_it_was(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.toml", tmp_path / "config.toml"
    real.write_text("mdns = false\n")
    real.chmod(0o640)
    link.symlink_to(real)
    replace_file(link, "mdns = true\n")
    assert link.is_symlink()
    assert (real.read_text(), real.stat().st_mode & 0o777) == ("mdns = true\n", 0o640)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "dotfiles.toml"]
    with pytest.raises(Refused):
        replace_file(tmp_path / "config.toml/none", "")


def test_the_commands(tmp_path: Path) -> None:
    path = tmp_path / "own/config.toml"
    node = Node(tmp_path / "home", environment={"HYPERNODE_CONFIG": str(path)})

    def run(*words: str, status: int = 0) -> str:
        done = node.run("config", *words)
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    refused, not_found = exit_status("refused"), exit_status("not_found")
    assert "mdns = false" in run("set", "mdns", "off")
    assert path.read_text() == "mdns = false\n"
    assert "did you mean mdns" in run("set", "mdsn", "on", status=not_found)
    assert "neither on nor off" in run("set", "mdns", "perhaps", status=refused)
    run("set", "leech-only", "on")
    assert str(path) in run("set", "upload-only", "on", status=refused)
    assert path.read_text() == "mdns = false\nleech-only = true\n"
    run("unset", "leech-only")
    run("unset", "leech-only", status=not_found)
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "$WORDS" >> "$1"\n')
    editor.chmod(0o755)
    for words, status in (("dht = 7", refused), ("dht = false", 0)):
        node = Node(node.home, environment={**node.environment, "EDITOR": os.fspath(editor), "WORDS": words})
        told = run("edit", status=status)
        if status:
            draft = Path(told.split()[-1])
            assert draft.read_text().endswith("dht = 7\n")
            draft.unlink()
    assert path.read_text() == "mdns = false\ndht = false\n"
