"""Recoveries as OpenTelemetry traces: one for each, with a span for each stage, sent as OTLP over HTTP.

An extra: it needs `opentelemetry-sdk` and `opentelemetry-exporter-otlp-proto-http`, which read the usual variables
(OTEL_EXPORTER_OTLP_ENDPOINT and others). Spans are written once the recovery is over, with the times of its events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nebula.elastic.controller.journal import Happened
from nebula.elastic.controller.metrics import STAGES
from nebula.errors import BadInput

EXTRA = "install the extra: pip install 'paddle-nebula[traces]'"


def stages(event: Happened) -> Iterator[tuple[str, float, float]]:
    """The stages of a recovery that ended with an event, in order: name, begin and end in seconds since 1970."""
    took: Mapping[str, float] = event.seconds
    at_s = event.wall_s - took["all"]
    for stage, name in STAGES.items():
        if stage in took and stage != "all":
            yield name, at_s, at_s + took[stage]
            at_s += took[stage]


class Tracer:
    """Writes traces; see nebula.elastic.controller.watch.Watch."""

    def __init__(self, job: str, exporter: Any = None) -> None:
        """Makes ready.

        Args:
            exporter: of spans; None: OTLP over HTTP, as the environment says.

        Raises:
            BadInput: the extra is not installed.
        """
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                exporter = OTLPSpanExporter()
        except ImportError as error:
            raise BadInput(f"--traces: there is no {error.name}; {EXTRA}") from None
        resource = Resource.create({"service.name": "nebula-controller", "nebula.job": job})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("nebula.elastic")

    def happened(self, event: Happened) -> None:
        """Writes a trace where a recovery is over."""
        if event.kind == "stepping" and event.trace and "all" in event.seconds:
            self._write(event)

    def _write(self, event: Happened) -> None:
        from opentelemetry import trace

        parent = trace.SpanContext(
            trace_id=int(event.trace, 16),
            span_id=int(event.trace[:16], 16) or 1,
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        )
        around = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        facts: dict[str, Any] = {
            "nebula.generation": event.generation,
            "nebula.step": event.step,
            "nebula.lost_steps": event.seconds.get("lost_steps", 0),
            "nebula.because": event.because,
        }
        begin_ns = _ns(event.wall_s - event.seconds["all"])
        whole = self._tracer.start_span("recovery", context=around, start_time=begin_ns, attributes=facts)
        inside = trace.set_span_in_context(whole)
        for name, from_s, to_s in stages(event):
            self._tracer.start_span(name, context=inside, start_time=_ns(from_s)).end(end_time=_ns(to_s))
        whole.end(end_time=_ns(event.wall_s))

    def stepped(self, steps: int, step_s: float) -> None:
        """Steps are no part of traces."""

    def saved(self, stall_s: float) -> None:
        """Saves are no part of traces."""

    def wrote(self, tier: str, nbytes: int) -> None:
        """Copies are no part of traces."""

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def _ns(at_s: float) -> int:
    return round(at_s * 1e9)
