"""Run one command: configuration, signals, and the one table from failures to exit statuses.

Ctrl-C, SIGTERM and SIGHUP cancel the command, whose clean-up then runs; nobody sees a traceback for them. A command
that stays (a daemon, a seeder) ends its own waiting on these signals instead, and with status 0.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import HyperError, Refused
from hypernode.api.codec import error_fields
from hypernode.cli.progress import Speech
from hypernode.cli.stop_signals import stop_signals
from hypernode.cli.tables import in_a_line
from hypernode.config import Config, make_config
from hypernode.errors import expected
from hypernode.exit_codes import EXIT_BOOT_FAILED, EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, exit_status
from hypernode.logs import set_up_logging

_MODULES: Final = {
    "share": "hypernode.cli.share",
    "boot": "hypernode.cli.boot",
    "trace": "hypernode.cli.trace",
    "daemon": "hypernode.cli.daemon",
    "images": "hypernode.cli.listing",
    "log": "hypernode.cli.listing",
    "status": "hypernode.cli.listing",
    "mount": "hypernode.cli.mount",
    "unmount": "hypernode.cli.mount",
    "serve-mounts": "hypernode.cli.serve_mounts",
    "export": "hypernode.cli.export",
    "peers": "hypernode.cli.peers",
    "doctor": "hypernode.cli.doctor",
    "events": "hypernode.cli.events",
    "top": "hypernode.cli.top",
    "dashboard": "hypernode.cli.dashboard",
    **dict.fromkeys(("seed-add", "seed-rm", "seed-ls"), "hypernode.cli.seeds"),
    **dict.fromkeys(("token-add", "token-ls", "token-revoke"), "hypernode.cli.tokens"),
    **dict.fromkeys(("traces-ls", "traces-rm"), "hypernode.cli.trace_lists"),
    **dict.fromkeys(
        (
            "keys-ls",
            "keys-export",
            "keys-import",
            "keys-rotate",
            "writers-ls",
            "writers-ask",
            "writers-grant",
            "writers-revoke",
        ),
        "hypernode.cli.keys",
    ),
    **dict.fromkeys(("guest-build", "guest-ls", "guest-info", "guest-rm", "guest-gpus"), "hypernode.cli.guest"),
    **dict.fromkeys(
        ("guest-boot", "guest-status", "guest-ps", "guest-ip", "guest-ssh", "guest-halt", "guest-kill"),
        "hypernode.cli.guest_machines",
    ),
    **dict.fromkeys(
        (
            "ps",
            "start",
            "stop",
            "restart",
            "kill",
            "rm",
            "rename",
            "update",
            "prune",
            "wait",
            "pause",
            "unpause",
            "inspect",
            "stats",
            "processes",
        ),
        "hypernode.cli.containers",
    ),
    **dict.fromkeys(("snapshot", "snapshots-ls", "snapshots-rm", "restore"), "hypernode.cli.snapshots"),
    **dict.fromkeys(("logs", "attach", "exec", "cp"), "hypernode.cli.container_streams"),
    **dict.fromkeys(
        (
            "show",
            "diff",
            "tag",
            "ls",
            "cat",
            "checkout",
            "fork",
            "commit",
            "pull",
            "verify",
            "pin",
            "unpin",
            "collect",
            "volumes",
            "volume-rm",
        ),
        "hypernode.cli.versions",
    ),
}
_SPELLED: Final = {"install_service": "install-service", "install_man": "install-man"}
_GROUPS: Final = ("guest-", "keys-", "seed-", "token-", "traces-", "volume-", "writers-")
"""How people write a command, where that is not how it is called here: `guest-boot` is `guest boot`."""
_STAYING: Final = frozenset({"daemon"})

Command = Callable[[Config, Mapping[str, Any]], Awaitable[int]]


def run_command(
    verb: str, *, config_file: Path | None, flags: Mapping[str, object], arguments: Mapping[str, Any]
) -> int:
    """Run `verb`; its exit status. Failures are told on standard error, with --json as an object."""
    Speech.as_json = bool(arguments.get("as_json"))
    command: Command = getattr(import_module(_MODULES[verb]), verb.replace("-", "_"))
    try:
        _check_numbers(arguments)
        config = make_config(os.environ, flags, config_file)
        set_up_logging(config.log_level, config.log_format, with_tracebacks=verb in _STAYING)
        status = trio.run(_interruptible, command, config, arguments, verb in _STAYING)
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:  # noqa: BLE001  # sorted by _told
        status = _told(error, verb)
    return _flush(verb) or status


def run_function(function: str, arguments: Mapping[str, Any]) -> int:
    """Call `module:name` with `arguments`; its exit status. Failures are told as those of commands are."""
    Speech.as_json = bool(arguments.get("as_json"))
    module, _, name = function.partition(":")
    try:
        status: int = getattr(import_module(module), name)(arguments)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # sorted by _told
        status = _told(error, name)
    return _flush(name) or status


def _check_numbers(arguments: Mapping[str, Any]) -> None:
    """Refuse what floating point can spell and nothing here can mean; limits let `nan` through."""
    for name, value in arguments.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused(f"{value} makes no sense as {name.replace('_', ' ')}")


async def _interruptible(command: Command, config: Config, arguments: Mapping[str, Any], stays: bool) -> int:
    """Run `command`, cancelled by a stop signal unless it handles them itself."""
    if stays:
        return await command(config, arguments)
    status = EXIT_INTERRUPTED
    async with trio.open_nursery() as nursery:

        async def watch(task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(*stop_signals()) as signals:
                task_status.started()
                async for number in signals:
                    nonlocal status
                    status = 128 + number
                    nursery.cancel_scope.cancel()

        await nursery.start(watch)
        status = await command(config, arguments)
        nursery.cancel_scope.cancel()
    return status


def _spelled(verb: str) -> str:
    return verb.replace("-", " ", 1) if verb.startswith(_GROUPS) else _SPELLED.get(verb, verb)


def _told(error: BaseException, verb: str) -> int:
    known = expected(error)
    if known is None:
        if _only(error, (BrokenPipeError,)):
            return EXIT_BUG
        if _only(error, (KeyboardInterrupt,)):
            return EXIT_INTERRUPTED
        raise error
    if known.hint is None:
        known.hint = f"hypernode {_spelled(verb)} --help"
    print_error(known)
    return EXIT_BOOT_FAILED if verb == "boot" else exit_status(known.code)


def print_error(error: HyperError) -> None:
    """One line, and one with what to do, neither of which drives the terminal; or an object."""
    if Speech.as_json:
        print(json.dumps({"error": error_fields(error)}), file=sys.stderr)
        return
    print(f"hypernode: {in_a_line(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {in_a_line(error.hint)}", file=sys.stderr)


def _only(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only(leaf, kinds) for leaf in error.exceptions)
    return isinstance(error, kinds)


def _flush(verb: str) -> int:
    """What was printed, here, so that a closed pipe (`| head`) is no traceback at exit; the status of a failure."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except HyperError as error:
        return _told(error, verb)
    return EXIT_OK
