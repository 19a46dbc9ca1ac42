"""Where the `hypernode` command begins: `boot` is handed to a daemon's starter if there is one, all else is done here.

Python needs longer to import what a boot takes than the container needs to start. A daemon keeps a process that has
imported it (starter.py), so here nothing is imported before it is clear that there is none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hypernode.home import default_home

_SWITCHES = ("--mdns", "--no-mdns")


def main() -> None:
    """Entry point of the `hypernode` command."""
    home = home_of_boot(sys.argv[1:])
    if home is not None:
        from hypernode.cli.warm import boot_warm

        status = boot_warm(f"{home}/start.sock", sys.argv[1:])
        if status is not None:
            sys.exit(status)
    from hypernode.cli.main import main as run

    run()


def home_of_boot(argv: Sequence[str]) -> str | None:
    """The home, if this is a `boot` with nothing unusual before that word; options after it are not looked at."""
    home = None
    words = iter(argv)
    for word in words:
        if word == "boot":
            return os.path.abspath(home) if home else default_home(os.environ)
        if word == "--home":
            home = next(words, "")
        elif word.startswith("--home="):
            home = word.partition("=")[2]
        elif word not in _SWITCHES:
            return None
    return None
