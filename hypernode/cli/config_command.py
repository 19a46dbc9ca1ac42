"""`hypernode config`: what the settings are, and whence. Reads, never writes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypernode.cli.tables import plain, print_table
from hypernode.config import Source, choose
from hypernode.config_files import files, read_file
from hypernode.doctor.settings import slips
from hypernode.exit_codes import EXIT_OK
from hypernode.setting_values import as_json
from hypernode.settings import BY_NAME, SETTINGS, as_text
from hypernode.settings_template import make_template


def show(arguments: Mapping[str, Any]) -> int:
    """A line a setting."""
    chosen = choose(os.environ, arguments["flags"], arguments["config_file"])
    wanted = {name: one for name, one in chosen.items() if one.source is not Source.DEFAULT or not arguments["changed"]}
    if arguments["as_json"]:
        settings = [
            {
                "name": name,
                "value": as_json(one.value),
                "source": one.source,
                "place": one.place or None,
                "type": BY_NAME[name].kind,
                "variable": BY_NAME[name].variable,
                "flag": BY_NAME[name].flag,
                "meaning": BY_NAME[name].meaning,
            }
            for name, one in wanted.items()
        ]
        print(json.dumps({"settings": settings, "files": _files(arguments)}))
        return EXIT_OK
    rows = [(name, plain(as_text(one.value)), plain(one.place) or one.source) for name, one in wanted.items()]
    print_table(("SETTING", "VALUE", "FROM"), rows)
    return EXIT_OK


def path(arguments: Mapping[str, Any]) -> int:
    """A line a file."""
    found = _files(arguments)
    if arguments["as_json"]:
        print(json.dumps({"files": found}))
        return EXIT_OK
    for one in found:
        print(f"{plain(one['path'])}{'' if one['exists'] else '  (not there)'}")
    return EXIT_OK


def _files(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"path": str(one), "exists": one.exists()} for one in files(os.environ, arguments["config_file"])]


def check(arguments: Mapping[str, Any]) -> int:
    """Raises what is wrong."""
    file: Path | None = arguments["file"]
    if file is not None:
        count = len(read_file(file.absolute()))
        found = []
    else:
        chosen = choose(os.environ, arguments["flags"], arguments["config_file"])
        count = sum(one.source is not Source.DEFAULT for one in chosen.values())
        found = slips(os.environ, arguments["config_file"])
    if arguments["as_json"]:
        print(json.dumps({"ok": True, "set": count, "warnings": [{"message": one, "hint": two} for one, two in found]}))
        return EXIT_OK
    for message, hint in found:
        print(f"hypernode: {message}\n  hint: {hint}", file=sys.stderr)
    print(f"{count} of {len(SETTINGS)} settings are set, and all are sound")
    return EXIT_OK


def template(arguments: Mapping[str, Any]) -> int:
    """The whole table as a file."""
    text = make_template()
    sys.stdout.write(json.dumps({"template": text}) + "\n" if arguments["as_json"] else text)
    return EXIT_OK
