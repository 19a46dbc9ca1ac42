"""`hypernode guest build|ls|info|rm`: the guests that were built here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from hyperlog.errors import Refused
from hypernode.cli.progress import note
from hypernode.cli.tables import print_table, size_text
from hypernode.config import Config
from hypernode.containers.snapshots import SnapshotStore
from hypernode.exit_codes import EXIT_OK
from vmhost.guest.cache import (
    Guest,
    build_guest,
    default_cache,
    find_guest,
    guests,
    is_current,
    remove_guest,
    remove_sources,
    unused_guests,
)
from vmhost.machines.pci import obstacle, read_devices
from vmhost.machines.platforms import host_arch


def guest_fields(guest: Guest) -> dict[str, Any]:
    """A guest, for programs."""
    info = guest.info
    return {
        "name": guest.kernel.parent.name,
        "arch": info.arch,
        "profile": info.profile,
        "kernel": str(guest.kernel),
        "initrd": str(guest.initrd),
        "kernel_release": info.kernel_release,
        "packed_bytes": info.packed_bytes,
        "include": info.include,
        "files": {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in info.files.items()},
    }


async def guest_build(config: Config, arguments: Mapping[str, Any]) -> int:
    guest = await build_guest(
        arguments["arch"] or host_arch(),
        arguments["profile"],
        include=arguments["include"],
        sources=arguments["sources"],
        say=note,
    )
    if arguments["as_json"]:
        print(json.dumps(guest_fields(guest)))
    else:
        print(f"{guest.kernel.parent.name}  {size_text(guest.info.packed_bytes)}  Linux {guest.info.kernel_release}")
        print(guest.kernel.parent)
    return EXIT_OK


async def guest_ls(config: Config, arguments: Mapping[str, Any]) -> int:
    cache = default_cache(os.environ)
    found = await trio.to_thread.run_sync(guests, cache)
    if arguments["as_json"]:
        print(json.dumps([{**guest_fields(guest), "current": is_current(guest, cache)} for guest in found]))
        return EXIT_OK
    rows = [
        (
            f"{guest.kernel.parent.name}{' *' if is_current(guest, cache) else ''}",
            size_text(guest.info.packed_bytes),
            guest.info.kernel_release,
            "yes" if guest.info.include else "",
        )
        for guest in found
    ]
    print_table(("NAME", "SIZE", "KERNEL", "INCLUDE"), rows)
    return EXIT_OK


async def guest_gpus(config: Config, arguments: Mapping[str, Any]) -> int:
    devices = await trio.to_thread.run_sync(read_devices)
    found = [(device, obstacle(device, devices)) for device in devices if device.is_gpu]
    if arguments["as_json"]:
        keys = ("address", "vendor", "device", "group", "driver")
        print(json.dumps([{**{key: getattr(one, key) for key in keys}, "obstacle": why} for one, why in found]))
        return EXIT_OK
    rows = [
        (one.address, f"{one.vendor}:{one.device}", "" if one.group is None else str(one.group), why or "ready")
        for one, why in found
    ]
    print_table(("PCI", "DEVICE", "GROUP", "FOR A MACHINE"), rows)
    return EXIT_OK


async def guest_info(config: Config, arguments: Mapping[str, Any]) -> int:
    arch, profile = arguments["arch"] or host_arch(), arguments["profile"]
    guest = await trio.to_thread.run_sync(find_guest, arch, profile)
    packages, modules = dict(guest.info.packages), list(guest.info.modules)
    if arguments["as_json"]:
        print(json.dumps({**guest_fields(guest), "packages": packages, "modules": modules}))
        return EXIT_OK
    print(f"{guest.kernel.parent.name}: {size_text(guest.info.packed_bytes)} packed, Linux {guest.info.kernel_release}")
    for name, file in guest.info.files.items():
        print(f"  {name}  {size_text(file.bytes)}  sha256 {file.sha256}")
    print(f"  {len(packages)} packages: {', '.join(f'{name} {version}' for name, version in packages.items())}")
    print(f"  {len(modules)} kernel modules: {', '.join(modules)}")
    return EXIT_OK


async def guest_rm(config: Config, arguments: Mapping[str, Any]) -> int:
    cache: Path = default_cache(os.environ)
    names: list[str] = arguments["names"]
    if [bool(names), arguments["everything"], arguments["unused"]].count(True) != 1:
        raise Refused("say which guests to remove, or --unused, or --all", hint="`hypernode guest ls` lists them")
    if arguments["unused"]:
        saved = {snapshot.about.get("guest", "") for snapshot in SnapshotStore(config.snapshots).list()}
        names = await trio.to_thread.run_sync(unused_guests, cache, saved)
    if arguments["everything"]:
        names = [guest.kernel.parent.name for guest in await trio.to_thread.run_sync(guests, cache)]
        await trio.to_thread.run_sync(remove_sources, cache)
    for name in names:
        await trio.to_thread.run_sync(remove_guest, name, cache)
    if arguments["as_json"]:
        print(json.dumps({"removed": names}))
    elif arguments["unused"]:
        print(*names, sep="\n", end="\n" if names else "")
    return EXIT_OK
