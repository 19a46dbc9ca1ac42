"""A boot as a trace, at a collector of this process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial

import pytest
import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hypernode.cli.traces import is_wanted
from hypernode.http.server import Message, Receive, Send, serve_http

LINK = "hyper://ybndrfg8ejkmcpqxot1uwisza345h769ybndrfg8ejkmcpqxot1u"
TIMINGS = {"node": 0.5, "log": 0.25, "first output": 1.0, "total": 1.75}


class Collector:
    """Takes traces in."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.taken: list[ExportTraceServiceRequest] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["more_body"]:
            body += message["body"]
        if scope["path"] == "/v1/traces" and self.status == 200:
            self.taken.append(ExportTraceServiceRequest.FromString(body))
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


PROGRAM = """
import ast, sys, trio
from hypernode.cli.traces import send_boot
trio.run(send_boot, *map(ast.literal_eval, sys.argv[1:]))
"""


async def _send(collector: Collector, **environment: str) -> str:
    """What a process says that sends a boot to `collector`."""
    figures = {"link": LINK, "version": 3, "wire_bytes": 4096, "timings": TIMINGS, "trace": None}
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        await nursery.start(partial(serve_http, listener, collector, None))
        port = listener.socket.getsockname()[1]
        with trio.fail_after(120):
            done = await trio.run_process(
                [sys.executable, "-c", PROGRAM, repr(TIMINGS), repr(figures)],
                env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", **environment},
                capture_stderr=True,
            )
        nursery.cancel_scope.cancel()
    return done.stderr.decode()


async def test_a_boot_is_one_span_with_a_span_for_each_stage() -> None:
    collector = Collector()
    before = time.time()
    said = await _send(collector, TRACEPARENT="00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
    assert said == ""
    (request,) = collector.taken
    (resource,) = request.resource_spans
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "hypernode"
    spans = {span.name: span for scope in resource.scope_spans for span in scope.spans}
    assert set(spans) == {"boot", "node", "log", "first output"}
    boot = spans["boot"]
    assert boot.trace_id.hex() == "0123456789abcdef0123456789abcdef"
    assert boot.end_time_unix_nano - boot.start_time_unix_nano == pytest.approx(1.75e9, abs=1000)
    assert boot.end_time_unix_nano >= before * 1e9 - 1e6
    end = boot.start_time_unix_nano
    for stage in ("node", "log", "first output"):
        assert spans[stage].parent_span_id == boot.span_id
        assert spans[stage].start_time_unix_nano == end
        end = spans[stage].end_time_unix_nano
    told = {one.key: one.value for one in boot.attributes}
    assert told["hypernode.wire_bytes"].int_value == 4096
    assert told["hypernode.link"].string_value == "hyper://ybndrfg8…"


async def test_a_collector_that_refuses_costs_a_note() -> None:
    assert "not taken by the collector" in await _send(Collector(400))


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_decide(environment: dict[str, str], wanted: bool) -> None:
    assert is_wanted(environment) is wanted


def test_nothing_is_imported_that_is_not_switched_on() -> None:
    heavy = ("opentelemetry", "starlette", "h11", "prometheus_client", "pydantic")
    program = (
        "import sys, hypernode.cli.main, hypernode.cli.boot, hypernode.cli.daemon, hypernode.hosting\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
