"""Where the `hypernode` command begins: `boot` is handed to a daemon's starter if there is one, all else is done here.

Python needs longer to import what a boot takes than the container needs to start. A daemon keeps a process that has
imported it (starter.py), so here nothing is imported before it is clear that there is none.
"""

from __future__ import annotations

import gc
import os
import sys

from hypernode.cli.output import guard_output
from hypernode.home import SYSTEM_CONFIG, default_home, user_config

TYPE_CHECKING = False  # typing's takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SWITCHES = ("--mdns", "--no-mdns")
_ALLOCATED = 50_000
"""Objects more than before when garbage is looked for, instead of 700: some 5 MB."""


def main() -> None:
    """Entry point of the `hypernode` command. Interrupted while it is still importing, it ends as it does later."""
    _open_streams()
    guard_output()
    try:
        _main()
    except KeyboardInterrupt:
        from hypernode.exit_codes import EXIT_INTERRUPTED

        sys.exit(EXIT_INTERRUPTED)


def _main() -> None:
    if sys.argv[1:2] == ["__complete"] and len(sys.argv) > 2:
        from hypernode.cli.complete import main as complete

        sys.exit(complete(sys.argv[2:], _home(os.environ)))
    home = home_of_boot(sys.argv[1:])
    if home is not None:
        from hypernode.cli.warm import boot_warm

        status = boot_warm(f"{home}/start.sock", sys.argv[1:])
        if status is not None:
            sys.exit(status)
    # What is imported stays. To look through it for garbage again and again took a fifteenth of that time, and once it
    # is all there, 60 ms in the middle of a boot.
    gc.set_threshold(_ALLOCATED)
    from hypernode.cli.main import main as run

    run()


def _open_streams() -> None:
    """What the caller closed of the three streams leads to nowhere, instead of to whatever is opened next."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)  # the lowest free number
            os.set_inheritable(number, True)
            setattr(sys, name, open(nowhere, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  (for good)


def home_of_boot(argv: Sequence[str]) -> str | None:
    """The home, if this is a `boot` with nothing unusual before that word; options after it are not looked at."""
    home = None
    words = iter(argv)
    for word in words:
        if word == "boot":
            return _home(os.environ) if home is None else os.path.abspath(os.path.expanduser(home)) if home else None
        if word == "--home":
            home = next(words, "")
        elif word.startswith("--home="):
            home = word.partition("=")[2]
        elif word not in _SWITCHES:
            return None
    return None


def _home(environment: Mapping[str, str]) -> str | None:
    """What the environment or a configuration file says; None if that cannot be read, which the command then tells."""
    if home := environment.get("HYPERNODE_HOME", "").strip():
        return os.path.abspath(os.path.expanduser(home))
    named = environment.get("HYPERNODE_CONFIG")
    if named or os.path.exists(SYSTEM_CONFIG) or os.path.exists(user_config(environment)):
        from hyperlog.errors import HyperError
        from hypernode.config_files import read_files

        try:
            found = read_files(environment).get("home")
        except HyperError:
            return None
        if found is not None:
            return str(found.value)
    return default_home(environment)
