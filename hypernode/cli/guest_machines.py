"""`hypernode guest boot|status|ps|ip|ssh|run|halt|kill`: machines that run the guest on its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import Refused
from hypernode.cli.progress import note
from hypernode.cli.tables import plain, print_table
from hypernode.config import Config
from hypernode.exit_codes import EXIT_BY_CODE, EXIT_OK
from vmhost.errors import GuestMissing
from vmhost.guest import limits
from vmhost.guest.cache import Guest, build_guest, find_guest
from vmhost.guest.standing import StandingMachine, Wish, standing_machines
from vmhost.machines.platforms import host_arch
from vmhost.machines.spec import parse_port

_ACCELERATORS: Final = ("auto", "kvm", "tcg")


def _base(config: Config) -> Path:
    assert config.state is not None, "it has a default"
    return config.state / "machines"


def _machine(config: Config, arguments: Mapping[str, Any]) -> StandingMachine:
    return StandingMachine(_base(config), arguments["name"])


async def guest_boot(config: Config, arguments: Mapping[str, Any]) -> int:
    machine = _machine(config, arguments)
    if arguments["accelerator"] not in _ACCELERATORS:
        raise Refused(f"there is no accelerator {arguments['accelerator']!r}", hint=f"{', '.join(_ACCELERATORS)}")
    arch = arguments["arch"] or host_arch()
    if arguments["accelerator"] == "kvm" and arch != host_arch():
        raise Refused(f"KVM runs no {arch} guest on this host", hint="--accel tcg does")
    ports = tuple(parse_port(text) for text in arguments["ports"])
    machine.refuse_running()
    guest = await _guest(arch, arguments["profile"])
    wish = Wish(
        guest, arguments["cpus"], arguments["memory"], arguments["accelerator"], tuple(arguments["append"]), ports
    )
    status = await machine.boot(wish, arguments["timeout"] or limits.BOOT_SECONDS)
    if arguments["as_json"]:
        print(json.dumps(asdict(status)))
    else:
        note(f"{status.name} runs ({status.accelerator}); `hypernode guest ssh{_option(status.name)}` logs in")
        print(f"127.0.0.1:{status.port}")
    return EXIT_OK


async def _guest(arch: str, profile: str) -> Guest:
    try:
        return await trio.to_thread.run_sync(find_guest, arch, profile)
    except GuestMissing:
        note(f"no {profile} guest for {arch} here yet: building it")
        return await build_guest(arch, profile, say=note)


async def guest_status(config: Config, arguments: Mapping[str, Any]) -> int:
    status = _machine(config, arguments).status()
    if arguments["as_json"]:
        print(json.dumps(asdict(status)))
    elif status.running:
        print(f"{status.name} runs, pid {status.pid}, {status.accelerator}, ssh at 127.0.0.1:{status.port}")
    else:
        print(f"{status.name} does not run" + (f": {plain(status.ended)}" if status.ended else ""))
    return EXIT_OK if status.running else EXIT_BY_CODE["not_found"]


async def guest_ps(config: Config, arguments: Mapping[str, Any]) -> int:
    found = [machine.status() for machine in standing_machines(_base(config))]
    if arguments["as_json"]:
        print(json.dumps([asdict(status) for status in found]))
        return EXIT_OK
    rows = [
        (
            status.name,
            "running" if status.running else "stopped",
            str(status.pid or ""),
            status.profile or "",
            status.accelerator or "",
            f"127.0.0.1:{status.port}" if status.port else "",
            _moment(status.since),
            plain(status.ended or ""),
        )
        for status in found
    ]
    print_table(("NAME", "STATE", "PID", "PROFILE", "ACCEL", "SSH", "SINCE", "ENDED"), rows)
    return EXIT_OK


async def guest_ip(config: Config, arguments: Mapping[str, Any]) -> int:
    machine = _machine(config, arguments)
    addresses = await machine.addresses()
    status = machine.status()
    if arguments["as_json"]:
        inside = [{"device": device, "address": address} for device, address in addresses]
        print(json.dumps({"inside": inside, "ssh": f"127.0.0.1:{status.port}", "ports": status.ports}))
        return EXIT_OK
    for device, address in addresses:
        print(f"{address} on {device}, inside: QEMU's NAT is between it and this host")
    print(f"127.0.0.1:{status.port} leads to its ssh server; `hypernode guest ssh{_option(status.name)}` logs in")
    for port in status.ports:
        print(f"{port.rpartition(':')[0]} leads to its port {port.rpartition(':')[2]}")
    return EXIT_OK


async def guest_ssh(config: Config, arguments: Mapping[str, Any]) -> int:
    argv = _machine(config, arguments).ssh_command(arguments["command"])
    sys.stdout.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what is ignored stays so
    # ssh takes our place: its streams, terminal and exit status are then the command's own.
    os.execvp(argv[0], argv)


async def guest_halt(config: Config, arguments: Mapping[str, Any]) -> int:
    machine = _machine(config, arguments)
    await machine.halt(arguments["timeout"] or limits.HALT_SECONDS)
    if arguments["as_json"]:
        print(json.dumps(asdict(machine.status())))
    return EXIT_OK


async def guest_kill(config: Config, arguments: Mapping[str, Any]) -> int:
    machine = _machine(config, arguments)
    did_run = await machine.kill()
    if arguments["forget"]:
        await trio.to_thread.run_sync(machine.forget)
    if arguments["as_json"]:
        print(json.dumps({"name": machine.name, "killed": did_run, "forgotten": arguments["forget"]}))
    elif not did_run:
        note(f"{machine.name} did not run")
    return EXIT_OK


def _option(name: str) -> str:
    return "" if name == "hyperos" else f" --name {name}"


def _moment(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if seconds else ""
