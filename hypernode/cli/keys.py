"""What `hypernode keys …` and `hypernode writers …` do: ask the node, show the answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import NotFound, Refused
from hyperlog.keys import write_secret
from hyperlog.limits import EXPORT_TEXT_MAX
from hypernode.api.codec import Json
from hypernode.api.key_requests import (
    AskToWrite,
    ExportKey,
    GrantWriter,
    ImportKey,
    KeyRequest,
    Keys,
    RevokeWriter,
    RotateKey,
    Writers,
)
from hypernode.cli.passphrase import read_passphrase
from hypernode.cli.progress import EventPrinter, note
from hypernode.cli.reach import reach_node
from hypernode.cli.tables import plain, print_table
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK

_TEXT_MAX: Final = 2 * EXPORT_TEXT_MAX

Arguments = Mapping[str, Any]


async def _ask(config: Config, request: KeyRequest) -> Json:
    async with reach_node(config) as node:
        with EventPrinter() as printer:
            return await node.client.call(request, printer)


def _answer(arguments: Arguments, result: Json, text: str) -> int:
    print(json.dumps(result) if arguments["as_json"] else text, flush=True)
    return EXIT_OK


async def keys_ls(config: Config, arguments: Arguments) -> int:
    """One key a line."""
    result = await _ask(config, Keys())
    if arguments["as_json"]:
        return _answer(arguments, result, "")
    rows = [
        (plain(key["name"] or "-"), key["state"], str(key["entries"]), key["key"], key["link"])
        for key in result["keys"]
    ]
    print_table(("NAME", "STATE", "ENTRIES", "KEY", "LINK"), rows)
    return EXIT_OK


async def keys_export(config: Config, arguments: Arguments) -> int:
    """The sealed key, on standard output or in a new file."""
    output = None if arguments["output"] is None else await trio.Path(arguments["output"]).absolute()
    if output is not None and await output.exists():
        raise Refused(f"{output} exists already", "name a file that is not there yet")
    passphrase = await read_passphrase(arguments["passphrase_file"], arguments["passphrase_fd"], is_new=True)
    result = await _ask(config, ExportKey(arguments["link"], passphrase))
    if output is None:
        return _answer(arguments, result, result["text"].rstrip("\n"))
    try:
        await trio.to_thread.run_sync(write_secret, Path(output), result["text"].encode())
    except OSError as error:
        raise Refused(f"{output} cannot be written: {error.strerror}", "name another file") from None
    note(f"the key of {result['link']} is in {output}; without its passphrase it is of no use")
    if arguments["as_json"]:
        print(json.dumps({"link": result["link"], "key": result["key"], "output": str(output)}))
    return EXIT_OK


async def keys_import(config: Config, arguments: Arguments) -> int:
    """The link that can be written to now."""
    text = await trio.to_thread.run_sync(_read, str(arguments["file"]), abandon_on_cancel=True)
    passphrase = await read_passphrase(arguments["passphrase_file"], arguments["passphrase_fd"], is_new=False)
    result = await _ask(config, ImportKey(text, passphrase, arguments["link"]))
    note("nobody may go on writing with this key elsewhere; `keys rotate` makes sure of it")
    return _answer(arguments, result, result["link"])


def _read(name: str) -> str:
    try:
        if name == "-":
            raw = sys.stdin.buffer.read(_TEXT_MAX + 1)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(_TEXT_MAX + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {name}", "`hypernode keys export` makes one") from None
    except OSError as error:
        raise Refused(f"{name} cannot be read: {error.strerror}", "- reads standard input") from None
    if len(raw) > _TEXT_MAX:
        raise Refused(f"{name} is no exported key: it is too long", "`hypernode keys export` makes one")
    return raw.decode("utf-8", "replace")


async def keys_rotate(config: Config, arguments: Arguments) -> int:
    """The new key."""
    result = await _ask(config, RotateKey(arguments["link"]))
    note(f"{result['before']} may not write any more; the link stays the same")
    return _answer(arguments, result, result["key"])


async def writers_ls(config: Config, arguments: Arguments) -> int:
    """One writer a line."""
    result = await _ask(config, Writers(arguments["link"]))
    if arguments["as_json"]:
        return _answer(arguments, result, "")
    rows = [
        (
            writer["key"],
            writer["state"],
            str(writer["entries"]),
            "yes" if writer["is_here"] else "no",
            plain(writer["label"]) or "-",
        )
        for writer in result["writers"]
    ]
    print_table(("KEY", "STATE", "ENTRIES", "HERE", "LABEL"), rows)
    return EXIT_OK


async def writers_ask(config: Config, arguments: Arguments) -> int:
    """The key to tell the owner."""
    result = await _ask(config, AskToWrite(arguments["link"], tuple(arguments["peers"])))
    if result["state"] == "not admitted":
        note(f"the image's owner can admit it: hypernode writers grant {result['link']} {result['key']}")
    return _answer(arguments, result, result["key"])


async def writers_grant(config: Config, arguments: Arguments) -> int:
    """Say what holds now."""
    result = await _ask(config, GrantWriter(arguments["link"], arguments["key"], arguments["label"] or ""))
    return _answer(arguments, result, f"{result['key']} may write to {result['link']}")


async def writers_revoke(config: Config, arguments: Arguments) -> int:
    """Say what holds now."""
    result = await _ask(config, RevokeWriter(arguments["link"], arguments["key"], arguments["reason"] or ""))
    return _answer(
        arguments, result, f"{result['key']} may not write any more; entries of it that count: {result['entries']}"
    )
