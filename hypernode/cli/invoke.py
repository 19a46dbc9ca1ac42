"""Read a command line and run what it says; wrong usage is told as every other failure is: a line, a hint, a status."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Final

import click

from hyperlog.errors import HyperError
from hypernode.cli.other_words import meant
from hypernode.exit_codes import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, exit_status

_PROGRAM: Final = "hypernode"
_GUESS: Final = re.compile(r"[. ]*\(?Did you mean(?: one of:)? ([^?]*)\?\)?")
"""How click ends a message when something is spelled nearly so."""


def invoke(command: click.Command, argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`. What runs may raise SystemExit too."""
    try:
        status = command.main(args=list(argv), prog_name=_PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError:
        return EXIT_USAGE  # the help was shown when it was raised
    except click.ClickException as error:
        _tell(error, argv)
        return EXIT_USAGE
    except HyperError as error:  # a help that could not be printed
        from hypernode.cli.run_command import print_error

        print_error(error)
        return exit_status(error.code)
    except click.Abort:
        return EXIT_INTERRUPTED
    return status if isinstance(status, int) else EXIT_OK


def _tell(error: click.ClickException, argv: Sequence[str]) -> None:
    context = error.ctx if isinstance(error, click.UsageError) else None
    message, *guesses = _GUESS.split(" ".join(error.format_message().split()))
    message = message.strip().rstrip(".") or "which command?"
    message = message[0].lower() + message[1:]
    path = context.command_path if context else _PROGRAM
    hint = f"{path} --help"
    if (here := meant(path, message)) is not None:
        hint = f"here that is {here}; {hint}"
    elif guesses:
        hint = f"did you mean {guesses[0].replace(', ', ' or ')}? {hint}"
    if _wants_json(argv):
        print(json.dumps({"error": {"code": "usage", "message": message, "hint": hint}}), file=sys.stderr)
    else:
        print(f"{_PROGRAM}: {message}\n  hint: {hint}", file=sys.stderr)


def _wants_json(argv: Sequence[str]) -> bool:
    words = list(argv)
    return "--json" in words[: words.index("--") if "--" in words else None]
