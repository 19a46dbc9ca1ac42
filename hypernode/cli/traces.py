"""Whether a boot is to be told to a collector of traces, and telling it. Without the variables nothing is imported."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial

import trio

from hypernode.cli.progress import note


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the standard variables of OpenTelemetry name a collector and do not switch it off."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() != "otlp":
        return False
    return any(environment.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))


async def send_boot(timings: Mapping[str, float], figures: Mapping[str, object]) -> None:
    """Send the stages of a boot that has just ended, if that is wanted. A collector that is not there costs a note."""
    if not is_wanted(os.environ):
        return
    try:
        from hypernode.telemetry import export_boot
    except ImportError:
        note("a trace is wanted, but OpenTelemetry is not installed: pip install 'hypernode[telemetry]'")
        return
    stages = {stage: seconds for stage, seconds in timings.items() if stage != "total"}
    attributes = {name: value for name, value in figures.items() if name != "timings"}
    send = partial(export_boot, dict(os.environ), time.time(), stages, attributes)
    if not await trio.to_thread.run_sync(send):
        note("the trace of this boot was not taken by the collector")
