"""A configuration file with every setting, as comments: where people begin, and what a service is given."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path

from hypernode.settings import SETTINGS, Kind, Setting, Value

_EXAMPLES: Mapping[Kind, str] = {
    Kind.RATE: '"2M"',
    Kind.SIZE: '"20G"',
    Kind.COUNT: "3",
    Kind.FILE: '"swarm.key"',
    Kind.DIRECTORY: '"/srv/hypernode"',
    Kind.ADDRESS: '"127.0.0.1:8080"',
    Kind.PEERS: '["/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"]',
}
"""For settings whose default is that there is none."""


def make_template(given: Mapping[str, Value] | None = None) -> str:
    """TOML in which `given` is set and the rest is commented out."""
    given = given or {}
    lines = ["# Settings of hypernode. `hypernode config check` looks whether this file is sound.", ""]
    group = None
    for setting in SETTINGS:
        if setting.group is not group:
            group = setting.group
            lines += [f"# --- {group.value} ---", ""]
        lines += [f"# {line}" for line in textwrap.wrap(_words(setting), 98)]
        if setting.name in given:
            lines += [f"{setting.name} = {_toml(given[setting.name])}", ""]
        else:
            lines += [f"# {setting.name} = {_example(setting)}", ""]
    return "\n".join(lines)


def _words(setting: Setting) -> str:
    if setting.default_words:
        return f"{setting.meaning} Default: {setting.default_words}."
    return f"{setting.meaning} Default: none." if setting.default in (None, ()) else setting.meaning


def _example(setting: Setting) -> str:
    if setting.default is None or setting.default == ():
        return _EXAMPLES[setting.kind]
    return _toml(setting.default)


def _toml(value: Value) -> str:
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value)  # of these types, JSON is TOML
