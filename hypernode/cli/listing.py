"""`hypernode images`, `log` and `status`: what the node says, as a table for people or JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hypernode.api.requests import Images, ShowLog, Status
from hypernode.cli.progress import EventPrinter
from hypernode.cli.reach import reach_node
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK


async def images(config: Config, arguments: Mapping[str, Any]) -> int:
    """One line an image."""
    async with reach_node(config) as node:
        result = await node.client.call(Images())
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    rows = [
        (image["name"] or "-", str(image["versions"]), _size(image["image_bytes"]), _percent(image), image["link"])
        for image in result["images"]
    ]
    _print_table(("NAME", "VERSIONS", "SIZE", "LOCAL", "LINK"), rows)
    return EXIT_OK


async def log(config: Config, arguments: Mapping[str, Any]) -> int:
    """One line a version, newest first."""
    request = ShowLog(arguments["link"], tuple(arguments["peers"]), arguments["refresh"])
    async with reach_node(config) as node:
        with EventPrinter() as printer:
            result = await node.client.call(request, printer)
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    rows = [
        (
            str(version["number"]),
            version["entry"][:12],
            datetime.fromtimestamp(version["created"], UTC).strftime("%Y-%m-%d %H:%M"),
            _size(version["image_bytes"]),
            _plain(version["message"] or ""),
        )
        for version in reversed(result["versions"])
    ]
    _print_table(("VERSION", "ENTRY", "CREATED", "SIZE", "MESSAGE"), rows)
    return EXIT_OK


async def status(config: Config, arguments: Mapping[str, Any]) -> int:
    """What the node does; a home without a running node has none of it, and says so."""
    async with reach_node(config) as node:
        result = await node.client.call(Status())
        result["running"] = not node.hosted_here
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    print(f"home       {config.home}")
    kind = "daemon" if result["is_daemon"] else "command"
    print(f"node       {kind} {result['pid']}" if result["running"] else "node       not running")
    for address in result["addresses"]:
        print(f"address    {address}")
    for entry in result["logs"]:
        name = _plain(entry["name"] or "-")
        print(f"log        {entry['link']}  {name}  {entry['entries']} entries, {entry['peers']} peers")
    for peer in result["peers"]:
        moved = f"in {_size(peer['bytes_in'])}, out {_size(peer['bytes_out'])}"
        print(f"peer       {peer['peer']}  {peer['address']}  {moved}")
    for directory in result["mounts"]:
        print(f"mount      {directory}")
    return EXIT_OK


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        print("nothing here yet", file=sys.stderr)
        return
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    for row in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _plain(text: str) -> str:
    """Text of an author, with what could drive a terminal made visible."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _percent(image: Mapping[str, Any]) -> str:
    stored = image["stored_bytes"]
    return f"{100 * image['local_bytes'] // stored} %" if stored else "-"


def _size(number: int) -> str:
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
