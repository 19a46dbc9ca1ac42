"""`hypernode completion` and `install-man`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hyperlog.errors import Refused
from hypernode.cli.command_table import command_table
from hypernode.cli.completion_scripts import SCRIPTS
from hypernode.cli.man_pages import man_pages
from hypernode.exit_codes import EXIT_OK


def completion(arguments: Mapping[str, Any]) -> int:
    """The script."""
    script = SCRIPTS[arguments["shell"]]
    sys.stdout.write(json.dumps({"script": script}) + "\n" if arguments["as_json"] else script)
    return EXIT_OK


def install_man(arguments: Mapping[str, Any]) -> int:
    """Write the pages; say where they are."""
    directory: Path | None = arguments["directory"]
    if directory is None:
        above = Path("/usr/local/share/man") if os.geteuid() == 0 else Path.home() / ".local/share/man"
        directory = above / "man1"
    pages = man_pages(command_table(), version("hypernode"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            (directory / name).write_text(text)
    except OSError as error:
        raise Refused(
            f"{directory} cannot be written: {error.strerror}", "choose another directory with --dir"
        ) from None
    if arguments["as_json"]:
        print(json.dumps({"directory": str(directory.absolute()), "pages": sorted(pages)}))
    else:
        print(f"{len(pages)} pages are in {directory}")
    return EXIT_OK
