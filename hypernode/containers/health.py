"""Whether a container works, as its health check says: Docker's semantics.

    starting ──a check passes──▶ healthy ⇄ unhealthy       unhealthy: so many checks in a row failed

A check is a program run inside every so often; that it fails within the start period counts only once one has passed.
Nothing follows from it by itself but what is said: state, `ps`, and the event `health_status: …`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import trio

from hyperlog.errors import HyperError, Refused
from hypernode.api.container_requests import CreateContainer
from hypernode.limits import EXEC_DRAIN_SECONDS, HEALTH_OUTPUT_BYTES, HEALTH_SECONDS_MAX, HEALTH_SECONDS_MIN
from vmhost.errors import MachineGone
from vmhost.machine import ExecSpec, Machine, Running

STARTING: Final = "starting"
HEALTHY: Final = "healthy"
UNHEALTHY: Final = "unhealthy"
_NANO: Final = 1e-9
_TIMED_OUT: Final = "it did not end in time"


@dataclass(frozen=True, slots=True)
class Check:
    """What is run, and when; times in seconds. Docker's defaults."""

    argv: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    start_period: float = 0.0
    retries: int = 3


@dataclass(frozen=True, slots=True)
class Health:
    """`failures`: in a row."""

    status: str = STARTING
    failures: int = 0


def check_wishes(asked: CreateContainer) -> None:
    """Raises `Refused`."""
    for name, seconds in (("interval", asked.health_interval), ("timeout", asked.health_timeout)):
        if seconds is not None and not HEALTH_SECONDS_MIN <= seconds <= HEALTH_SECONDS_MAX:
            raise Refused(f"--health-{name} {seconds:g} s makes no sense", "choose 0.1s to 1d")
    if asked.health_start_period is not None and not 0 <= asked.health_start_period <= HEALTH_SECONDS_MAX:
        raise Refused(f"--health-start-period {asked.health_start_period:g} s makes no sense", "choose 0s to 1d")
    if asked.health_retries is not None and not 0 < asked.health_retries <= 1000:
        raise Refused(f"--health-retries {asked.health_retries} makes no sense", "choose 1 to 1000")


def wanted_check(asked: CreateContainer, image: Mapping[str, Any] | None) -> Check | None:
    """The one that was asked for, or the image's own (fields of `images.version.Healthcheck`); each wish by itself."""
    if asked.health_command == "":
        return None
    test = ("CMD-SHELL", asked.health_command) if asked.health_command is not None else (image or {}).get("test", ())
    match tuple(test):
        case ("CMD-SHELL", str(line)):
            argv: tuple[str, ...] = ("/bin/sh", "-c", line)
        case ("CMD", *words) if words:
            argv = tuple(map(str, words))
        case _:
            return None
    usual = Check(argv)
    told = image or {}
    return Check(
        argv,
        _first(asked.health_interval, told.get("interval", 0) * _NANO, usual.interval),
        _first(asked.health_timeout, told.get("timeout", 0) * _NANO, usual.timeout),
        _first(asked.health_start_period, told.get("start_period", 0) * _NANO, usual.start_period),
        int(_first(asked.health_retries, told.get("retries", 0), usual.retries)),
    )


def _first(wish: float | None, image: float, usual: float) -> float:
    """An author may write any number: kept within what may be wished."""
    if wish is not None:
        return wish
    return min(max(image, HEALTH_SECONDS_MIN), HEALTH_SECONDS_MAX) if image else usual


def next_health(health: Health, check: Check, ran_seconds: float, *, passed: bool) -> Health:
    """After a check. Pure."""
    if passed:
        return Health(HEALTHY)
    if health.status == STARTING and ran_seconds < check.start_period:
        return health
    failures = health.failures + 1
    return Health(UNHEALTHY if failures >= check.retries else health.status, failures)


async def run_check(machine: Machine, check: Check) -> tuple[int, str]:
    """Its exit code and what it printed; -1 and why, where it did not end in time or could not be run.

    Raises `MachineGone`.
    """
    output = bytearray()
    with trio.move_on_after(check.timeout):
        try:
            async with machine.open_exec(ExecSpec(check.argv)) as running:
                code = await follow(running, output)
        except MachineGone:
            raise
        except HyperError as error:  # there is no such program, say
            return -1, error.message
        return code, output.decode("utf-8", "replace")
    return -1, _TIMED_OUT


async def follow(running: Running, output: bytearray) -> int:
    """A program that gets no input, to its end; its exit code. The beginning of what it prints is taken as `output`.

    What it started may hold its output open for longer. Raises `MachineGone`.
    """
    await running.stdin.aclose()
    gone: MachineGone | None = None
    code = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_take, running.stdout, output)
        if running.stderr is not None:
            nursery.start_soon(_take, running.stderr, output)
        try:
            code = await running.wait()
        except MachineGone as error:
            gone = error
        nursery.cancel_scope.deadline = trio.current_time() + EXEC_DRAIN_SECONDS
    if gone is not None:
        raise gone
    return code


async def _take(source: trio.abc.ReceiveStream, output: bytearray) -> None:
    """What fits is kept; the rest is read, so that its program need not wait."""
    with suppress(trio.ClosedResourceError, trio.BrokenResourceError, MachineGone):
        async for data in source:
            output += data[: HEALTH_OUTPUT_BYTES - len(output)]
