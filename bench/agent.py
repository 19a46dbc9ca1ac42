#!/usr/bin/env python3
"""How quickly does a guest's agent answer, and how much goes through it?

    .venv/bin/python bench/agent.py [--rounds 5] [--mebibytes 64] [--accelerator tcg] [--json]

Boots the built guest (`hypernode guest build`) with one processor, and asks through its virtio-serial line: a ping;
`true` to its exit code; the output of dd, read by the host; as much sent to cat; both with eight sessions at once.
Medians of the rounds; the same program without a virtual machine, over a socket pair, is told for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.vmhost.agent.support import running_agent
from vmhost.agent import protocol
from vmhost.agent.client import Agent, open_agent
from vmhost.guest.cache import default_cache, find_guest
from vmhost.machines.platforms import host_arch
from vmhost.machines.qemu_argv import Platform, channel_socket, choose_model, qemu_argv
from vmhost.machines.spec import Accelerator, MachineSpec
from vmhost.machines.tsc import measure_tsc_khz

_SESSIONS: Final = 8
_BOOT_SECONDS: Final = 300.0
_MEBIBYTE: Final = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement (default 5)")
    parser.add_argument("--mebibytes", type=int, default=64, help="moved each way in a round (default 64)")
    parser.add_argument("--accelerator", choices=["tcg", "kvm"], default="tcg")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    figures = trio.run(_measure_all, options.rounds, options.mebibytes, Accelerator(options.accelerator))
    for key, value in figures.items():
        print(f"{key:28} {value:9.2f}")
    if options.json:
        print(json.dumps(figures))


async def _measure_all(rounds: int, mebibytes: int, accelerator: Accelerator) -> dict[str, float]:
    figures: dict[str, float] = {}
    started = time.perf_counter()
    async with _guest(accelerator) as agent:
        figures["boot_to_agent_s"] = time.perf_counter() - started
        figures |= await _measure(agent, rounds, mebibytes)
    async with running_agent(_BOOT_SECONDS) as agent:
        local = await _measure(agent, rounds, mebibytes)
    return figures | {f"without_machine_{key}": value for key, value in local.items()}


@asynccontextmanager
async def _guest(accelerator: Accelerator) -> AsyncIterator[Agent]:
    arch, tsc = host_arch(), measure_tsc_khz()
    guest = find_guest(arch, "fast", default_cache(os.environ))
    spec = MachineSpec("bench", str(guest.kernel), str(guest.initrd), channels=(protocol.PORT_NAME,))
    model = choose_model(arch, accelerator, tsc_khz=tsc, needs_pci=False)
    argv = qemu_argv(spec, Platform(arch, accelerator, model, tsc_khz=tsc))
    with tempfile.TemporaryDirectory() as directory:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        with subprocess.Popen(argv, cwd=directory, **quiet) as process:  # type: ignore[call-overload]  # noqa: ASYNC220
            try:
                socket = Path(directory, channel_socket(protocol.PORT_NAME))
                async with open_agent(socket, deadline=_BOOT_SECONDS, silence=_BOOT_SECONDS) as agent:
                    yield agent
            finally:
                process.kill()


async def _measure(agent: Agent, rounds: int, mebibytes: int) -> dict[str, float]:
    async def true() -> None:
        async with await agent.exec(["true"]) as session:
            await session.wait()

    async def several(move: Callable[[Agent, int], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(_SESSIONS):
                nursery.start_soon(move, agent, mebibytes // _SESSIONS)

    amount = mebibytes * _MEBIBYTE / 1e6
    return {
        "ping_ms": 1e3 * await _median(agent.ping, 4 * rounds),
        "true_ms": 1e3 * await _median(true, 2 * rounds),
        "out_mb_per_s": amount / await _median(lambda: _read(agent, mebibytes), rounds),
        "in_mb_per_s": amount / await _median(lambda: _write(agent, mebibytes), rounds),
        "out_8_sessions_mb_per_s": amount / await _median(lambda: several(_read), rounds),
        "in_8_sessions_mb_per_s": amount / await _median(lambda: several(_write), rounds),
    }


async def _median(act: Callable[[], Awaitable[None]], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        await act()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


async def _read(agent: Agent, mebibytes: int) -> None:
    async with await agent.exec(["dd", "if=/dev/zero", "bs=64k", f"count={mebibytes * 16}"]) as session:
        size = 0
        async for data in session.stdout:
            size += len(data)
        assert size == mebibytes * _MEBIBYTE


async def _write(agent: Agent, mebibytes: int) -> None:
    async with await agent.exec(["sh", "-c", "cat > /dev/null"]) as session:
        for _ in range(mebibytes):
            await session.stdin.send_all(bytes(_MEBIBYTE))
        await session.stdin.aclose()
        assert await session.wait() == 0


if __name__ == "__main__":
    main()
