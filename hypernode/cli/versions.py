"""What the commands about versions and about what is kept do: ask the node, show the answer."""

from __future__ import annotations

import base64
import json
import stat
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from hypernode.api.codec import Json
from hypernode.api.version_requests import (
    Cat,
    CheckOut,
    Collect,
    Commit,
    Diff,
    Fork,
    List,
    Pin,
    Pull,
    RemoveVolume,
    SetTag,
    Show,
    Usage,
    Verify,
    VersionRequest,
    Volumes,
)
from hypernode.cli.progress import EventPrinter, note
from hypernode.cli.reach import reach_node
from hypernode.cli.tables import plain, print_table, size_text
from hypernode.config import Config
from hypernode.exit_codes import EXIT_BY_CODE, EXIT_OK

_PARTS: Final = frozenset({"changes", "data", "entries", "version"})
_LETTERS: Final = {"added": "A", "removed": "D", "changed": "M", "metadata": "m"}

Arguments = Mapping[str, Any]


async def _ask(config: Config, request: VersionRequest, hear: Callable[[str, Json], None] | None = None) -> Json:
    """The result; events that are parts of it go to `hear`, others show as progress."""
    async with reach_node(config) as node:
        with EventPrinter() as printer:

            def heard(kind: str, fields: Json) -> None:
                if hear is not None and kind in _PARTS:
                    hear(kind, fields)
                else:
                    printer(kind, fields)

            return await node.client.call(request, heard)


def _answer(arguments: Arguments, result: Json, text: str) -> int:
    print(json.dumps(result) if arguments["as_json"] else text, flush=True)
    return EXIT_OK


async def show(config: Config, arguments: Arguments) -> int:
    """One fact a line."""
    result = await _ask(config, Show(arguments["link"], tuple(arguments["peers"]), arguments["refresh"]))
    settings = result["config"]
    facts = {
        "version": f"{result['number']} ({result['entry'][:12]})",
        "image": f"{result['link']}  {plain(result['name'] or '-')}",
        "tags": " ".join(result["tags"]) or "-",
        "created": datetime.fromtimestamp(result["created"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "message": plain(result["message"]) or "-",
        "size": f"{size_text(result['image_bytes'])} in {result['inodes']} inodes, "
        f"{size_text(result['stored_bytes'])} stored",
        "command": plain(json.dumps([*settings["entrypoint"], *settings["cmd"]])),
        "user": plain(settings["user"]) or "root",
        "workdir": plain(settings["workdir"]) or "/",
    }
    lines = [f"{name:<10} {fact}" for name, fact in facts.items()]
    further = {
        "env": settings["env"],
        "port": settings["ports"],
        "volume": settings["volumes"],
        "label": [f"{name}={value}" for name, value in settings["labels"].items()],
        "stop with": [settings["stop_signal"]] if settings["stop_signal"] else [],
        "health": [] if settings["healthcheck"] is None else [json.dumps(settings["healthcheck"]["test"])],
    }
    lines += [f"{name:<10} {plain(fact)}" for name, facts_of in further.items() for fact in facts_of]
    return _answer(arguments, result, "\n".join(lines))


async def diff(config: Config, arguments: Arguments) -> int:
    """One path a line."""
    changes: list[Json] = []

    def hear(kind: str, fields: Json) -> None:
        if kind == "changes":
            changes.extend(fields["changes"])
            if not arguments["as_json"]:
                for change in fields["changes"]:
                    print(_change_line(change))

    result = await _ask(config, Diff(arguments["old"], arguments["new"], tuple(arguments["peers"])), hear)
    if arguments["as_json"]:
        print(json.dumps({**result, "changes": changes}))
    return EXIT_OK


def _change_line(change: Json) -> str:
    sizes = [change[side] for side in ("before", "after")]
    shown = " → ".join(size_text(size) for size in sizes if size is not None)
    return f"{_LETTERS[change['kind']]} /{plain(change['path'])}  {shown}"


async def tag(config: Config, arguments: Arguments) -> int:
    """The link with the tag, or nothing after taking it away."""
    result = await _ask(config, SetTag(arguments["link"], arguments["tag"], arguments["remove"]))
    return _answer(arguments, result, result["link"])


async def ls(config: Config, arguments: Arguments) -> int:
    """One entry a line, as `ls -l` has it."""
    entries: list[Json] = []

    def hear(kind: str, fields: Json) -> None:
        if kind == "entries":
            entries.extend(fields["entries"])

    await _ask(config, List(arguments["place"], arguments["recursive"], tuple(arguments["peers"])), hear)
    if arguments["as_json"]:
        print(json.dumps({"entries": entries}))
        return EXIT_OK
    for entry in entries:
        mode = entry["mode"]
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        size = ", ".join(map(str, entry["device"])) if is_device else str(entry["size"])
        modified = datetime.fromtimestamp(entry["mtime_ns"] // 10**9, UTC).strftime("%Y-%m-%d %H:%M")
        target = f" -> {plain(entry['target'])}" if entry["target"] else ""
        owner = f"{entry['uid']:>5} {entry['gid']:>5}"
        print(f"{stat.filemode(mode)} {owner} {size:>10} {modified} {plain(entry['path'])}{target}")
    return EXIT_OK


async def cat(config: Config, arguments: Arguments) -> int:
    """The file's bytes and nothing else."""

    def hear(kind: str, fields: Json) -> None:
        if kind == "data":
            sys.stdout.buffer.write(base64.b64decode(fields["data"]))

    await _ask(config, Cat(arguments["place"], tuple(arguments["peers"])), hear)
    return EXIT_OK


async def checkout(config: Config, arguments: Arguments) -> int:
    """Say what was written."""
    directory = str(arguments["directory"].absolute())
    result = await _ask(config, CheckOut(arguments["link"], directory, tuple(arguments["peers"])))
    text = f"version {result['version']}: {result['files']} files, {size_text(result['bytes'])} in {directory}"
    return _answer(arguments, result, text)


async def fork(config: Config, arguments: Arguments) -> int:
    """The new image's link."""
    request = Fork(arguments["link"], arguments["name"], arguments["message"], tuple(arguments["peers"]))
    result = await _ask(config, request)
    return _answer(arguments, result, result["link"])


async def commit(config: Config, arguments: Arguments) -> int:
    """The new version's link."""
    result = await _ask(config, Commit(arguments["volume"], arguments["message"], arguments["name"]))
    note(f"version {result['version']}, {size_text(result['new_bytes'])} of new blocks")
    return _answer(arguments, result, f"{result['link']}@v{result['version']}")


async def pull(config: Config, arguments: Arguments) -> int:
    """Say what was moved."""
    asked = Pull(arguments["link"], tuple(arguments["peers"]), arguments["refresh"], arguments["unpack"])
    result = await _ask(config, asked)
    moved = f"{result['blocks_fetched']} blocks, {size_text(result['bytes_fetched'])} fetched"
    if result["unpacked_bytes"]:
        moved += f"; unpacked, {size_text(result['unpacked_bytes'])} more"
    return _answer(arguments, result, f"version {result['version']} of {result['link']} is here: {moved}")


async def verify(config: Config, arguments: Arguments) -> int:
    """Say what is sound; with something rotten the status says corrupt."""
    result = await _ask(config, Verify(arguments["link"]))
    text = f"version {result['version']}: {result['blocks']} blocks, {size_text(result['bytes'])} are sound"
    if result.get("resumed_at"):
        text += f" (the first {result['resumed_at']} were verified before)"
    if result["bad"]:
        text += f"; {result['bad']} had rotted and are fetched again by `hypernode pull`"
    elif not result["complete"]:
        text += "; the rest is not here"
    if not result.get("unpacked_sound", True):
        text += "; the plain file of it was damaged, and is removed"
    lying = result.get("lying_traces")
    if lying:
        text += (
            f"; the boot traces of {plain(', '.join(lying))} say other bytes than the version: do not trust its author"
        )
    _answer(arguments, result, text)
    return EXIT_BY_CODE["corrupt"] if result["bad"] or lying else EXIT_OK


async def pin(config: Config, arguments: Arguments) -> int:
    """Say what holds now."""
    result = await _ask(config, Pin(arguments["link"], arguments["remove"]))
    says = "is not pinned any more"
    if result["pinned"]:
        says = (
            "is kept" if result["is_here"] else "will be kept; nothing of it is here yet (`hypernode pull` fetches it)"
        )
    return _answer(arguments, result, f"{result['link']} {says}")


async def unpin(config: Config, arguments: Arguments) -> int:
    """The same, taken back."""
    return await pin(config, arguments)


async def collect(config: Config, arguments: Arguments) -> int:
    """Which versions lose blocks, and how much that is."""
    versions: list[str] = []

    def hear(kind: str, fields: Json) -> None:
        if kind == "version":
            versions.append(fields["link"])

    result = await _ask(config, Collect(arguments["dry_run"]), hear)
    would = "would remove" if result["dry_run"] else "removed"
    lines = [f"{would} {link}" for link in versions]
    lines.append(f"{would} {result['blocks']} blocks, {size_text(result['stored_bytes'])}")
    return _answer(arguments, {**result, "versions": versions}, "\n".join(lines))


async def usage(config: Config, arguments: Arguments) -> int:
    """`images --du`."""
    result = await _ask(config, Usage())
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    rows = [
        (
            plain(image["name"] or "-"),
            str(image["versions"]),
            *(size_text(image[key]) for key in ("stored_bytes", "own_bytes", "shared_bytes", "versions_bytes")),
            "yes" if image["pinned"] else "no",
            image["link"],
        )
        for image in result["images"]
    ]
    print_table(("NAME", "VERSIONS", "STORED", "OWN", "SHARED", "UNSHARED WOULD BE", "KEPT", "LINK"), rows)
    print(
        f"in all {size_text(result['stored_bytes'])} stored, {size_text(result['disk_bytes'])} of disk; "
        f"{size_text(result['unreached_bytes'])} belong to no version"
    )
    return EXIT_OK


async def volumes(config: Config, arguments: Arguments) -> int:
    """One line a volume."""
    result = await _ask(config, Volumes())
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    rows = [
        (
            volume["name"],
            size_text(volume["disk_bytes"]),
            datetime.fromtimestamp(volume["created"], UTC).strftime("%Y-%m-%d %H:%M"),
            "yes" if volume["in_use"] else "no",
            volume["base"],
        )
        for volume in result["volumes"]
    ]
    print_table(("NAME", "SIZE", "CREATED", "IN USE", "OVER"), rows)
    return EXIT_OK


async def volume_rm(config: Config, arguments: Arguments) -> int:
    """Silent, as rm is."""
    await _ask(config, RemoveVolume(arguments["volume"]))
    if arguments["as_json"]:
        print(json.dumps({"volume": arguments["volume"]}))
    return EXIT_OK
