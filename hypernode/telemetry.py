"""A boot as an OpenTelemetry trace, sent by OTLP over HTTP. Imported only when the standard variables ask for it.

One span for the boot and one inside it for each stage that `boot --timings` prints, in their order and with their
times. Where to, with which headings and how long to try is the exporter's to read (OTEL_EXPORTER_OTLP_*), what the
service is called too (OTEL_SERVICE_NAME); TRACEPARENT makes the boot a part of the caller's trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hypernode.logs import without_secrets

_NANO: Final = 1_000_000_000
_SECONDS: Final = 3.0


def export_boot(
    environment: Mapping[str, str], ended: float, stages: Mapping[str, float], attributes: Mapping[str, object]
) -> bool:
    """Send a boot that ended at `ended` (seconds since 1970) with its stages (seconds); whether a collector took it.

    Blocks for as long as OTEL_EXPORTER_OTLP_TIMEOUT says, 3 s if it says nothing.
    """
    resource = Resource.create({} if environment.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "hypernode"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    collected = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(collected))
    tracer = provider.get_tracer("hypernode")
    parent = TraceContextTextMapPropagator().extract({"traceparent": environment.get("TRACEPARENT", "")})
    moment = int((ended - sum(stages.values())) * _NANO)
    boot = tracer.start_span("boot", context=parent, start_time=moment)
    for name, value in attributes.items():
        if isinstance(value, str | bool | int | float):
            boot.set_attribute(f"hypernode.{name}", without_secrets(value) if isinstance(value, str) else value)
    inside = set_span_in_context(boot)
    for stage, seconds in stages.items():
        span = tracer.start_span(stage, context=inside, start_time=moment)
        moment += int(seconds * _NANO)
        span.end(moment)
    boot.end(moment)
    given = {"OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"} & environment.keys()
    exporter = OTLPSpanExporter() if given else OTLPSpanExporter(timeout=_SECONDS)
    try:
        return exporter.export(collected.get_finished_spans()) is SpanExportResult.SUCCESS
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
