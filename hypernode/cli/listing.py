"""`hypernode images`, `log` and `status`: what the node says, as a table for people or JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from hypernode.api.requests import Images, ShowLog, Status
from hypernode.cli.progress import EventPrinter
from hypernode.cli.reach import reach_node
from hypernode.cli.tables import plain, print_table, size_text
from hypernode.cli.versions import usage
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK

_LEAST = (16, 8, 8, 6, 20)
"""Characters of each column of `images` on a narrow terminal."""


async def images(config: Config, arguments: Mapping[str, Any]) -> int:
    """One line an image, or what each takes of the disk."""
    if arguments["usage"]:
        return await usage(config, arguments)
    async with reach_node(config) as node:
        result = await node.client.call(Images())
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    rows = [
        (
            plain(image["name"] or "-"),
            str(image["versions"]),
            size_text(image["image_bytes"]),
            _percent(image),
            image["link"],
        )
        for image in result["images"]
    ]
    print_table(("NAME", "VERSIONS", "SIZE", "LOCAL", "LINK"), rows, None if arguments["full"] else _LEAST)
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
            size_text(version["image_bytes"]),
            " ".join(version["tags"]) or "-",
            plain(version["message"] or ""),
        )
        for version in reversed(result["versions"])
    ]
    print_table(("VERSION", "ENTRY", "CREATED", "SIZE", "TAGS", "MESSAGE"), rows)
    for fork in result["forks"]:
        print(f"hypernode: {plain(fork['message'])}\n  hint: {plain(fork['hint'])}", file=sys.stderr)
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
    if result["running"]:
        print(f"finding    {_finding_text(result['finding'])}")
    for entry in result["logs"]:
        name = plain(entry["name"] or "-")
        print(f"log        {entry['link']}  {name}  {entry['entries']} entries, {entry['peers']} peers{_rates(entry)}")
        for image in entry.get("images", ()):
            print(f"  image    {image['manifest'][:12]}…  {image['blocks_here']} of {image['blocks']} blocks here")
        for fork in entry["forks"]:
            print(f"fork       {fork['message']}; {fork['hint']}")
    for peer in result["peers"]:
        moved = f"in {size_text(peer['bytes_in'])}, out {size_text(peer['bytes_out'])}"
        print(f"peer       {peer['peer']}  {peer['address']}  {moved}")
    if result["running"]:
        for line in _block_lines(result["blocks"]):
            print(f"blocks     {line}")
    if refused := _refused_text(result["protection"]):
        print(f"refused    {refused}")
    for directory in result["mounts"]:
        print(f"mount      {directory}")
    return EXIT_OK


def _refused_text(counts: Mapping[str, Any]) -> str:
    """What was not taken or not kept, in words; nothing when that never happened."""
    told = {
        "connections too many of one address": counts["refused_rate"] + counts["refused_full"],
        "handshakes failed": counts["handshakes_failed"],
        "connections made room for others": counts["evicted"],
        "sessions made room for others": counts["sessions_crowded_out"],
        "waits of peers that took too much time": counts["held_up"],
        "peers banned now": counts["bans"],
    }
    return ", ".join(f"{count} {what}" for what, count in told.items() if count)


def _rates(entry: Mapping[str, Any]) -> str:
    """What a log moves now, if anything, and whether it is served no more."""
    done = f", done: gave {size_text(entry['given_bytes'])}" if entry.get("is_done") else ""
    if not entry.get("rate_in") and not entry.get("rate_out"):
        return done
    return f", in {size_text(entry['rate_in'])}/s, out {size_text(entry['rate_out'])}/s{done}"


def _block_lines(blocks: Mapping[str, Any]) -> Iterator[str]:
    """What was moved, for whom, and what holds it up."""
    ratio = "" if blocks["ratio"] is None else f", ratio {blocks['ratio']:.2f}"
    yield f"in {size_text(blocks['bytes_in'])}, out {size_text(blocks['bytes_out'])}{ratio}"
    lanes = [(name, lane) for name, lane in blocks["lanes"].items() if lane["blocks"] or lane["waiting"]]
    if lanes:
        yield ", ".join(f"{name} {lane['blocks']} came, {lane['waiting']} awaited" for name, lane in lanes)
    limits = [
        f"{way} at most {size_text(blocks[f'{way}_limit'])}/s, waited {blocks[f'{way}_waits']} times"
        for way in ("upload", "download")
        if blocks[f"{way}_limit"] is not None
    ]
    limits += ["only takes"] if blocks["leech_only"] else []
    limits += ["only gives"] if blocks["upload_only"] else []
    if limits:
        yield ", ".join(limits)


def _finding_text(finding: Mapping[str, Any]) -> str:
    """How peers are found, and through how many others."""
    swarm = "in a private swarm, " if finding["is_private"] else ""
    near = "on the local network only, " if finding["lan_only"] else ""
    ways = ", ".join(finding["ways"]) or "links only"
    others = f"{finding['known']} nodes known, {finding['nodes']} of the DHT, {finding['records']} records kept"
    return f"{swarm}{near}{ways}; {others}"


def _percent(image: Mapping[str, Any]) -> str:
    stored = image["stored_bytes"]
    return f"{100 * image['local_bytes'] // stored} %" if stored else "-"
