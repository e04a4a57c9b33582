"""OpenTelemetry, where `otel` is set: a span of each text at its device and at each worker that holds it, and metrics.

Names are those of the conventions for generative AI; what these have no name for begins with ``flexspec.``. Prompts
and texts are in none of it. Where things go is said by the variables of every OpenTelemetry SDK (``OTEL_…``). No
package of OpenTelemetry is imported before `exporting` is entered with `otel` set.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

from flexspec_mq import __version__, waiting
from flexspec_mq.daemon.expiring import LogThrottle
from flexspec_mq.errors import UsageError, how_to_install
from flexspec_mq.settings import Section, Setting
from schemas.messages import PartialSampling, Sampling

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

    Value = str | bool | int | float | Sequence[str]

Carrier = tuple[tuple[str, str], ...]
"""A trace context as it travels: pairs of name and value, as User Properties of MQTT 5 are."""

_CONTEXT = ("traceparent", "tracestate")
_LONGEST = 512
"""Characters of a value of these; a longer one is ignored."""
NO_ERRORS = frozenset(("client", "done", "cancelled", "elsewhere", "released"))
"""Who or what may end a text that has not failed: its reader, its device, or a worker that lets it go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryOptions(Section):
    """Whether traces and metrics are exported."""

    otel: Annotated[
        bool,
        Setting(
            help="export traces and metrics by OpenTelemetry (extra otel), as its OTEL_… variables say "
            "(docs/observability.md)"
        ),
    ] = False

    def __post_init__(self) -> None:
        """Refuse what is not installed before anything is loaded.

        Raises:
            UsageError: a package is missing.
        """
        try:
            missing = self.otel and find_spec("opentelemetry.sdk") is None
        except ModuleNotFoundError:
            missing = True
        if missing:
            raise UsageError("otel needs the OpenTelemetry SDK", hint=f"install it, {how_to_install('otel')}")


class Side(NamedTuple):
    """How a daemon takes part in a text.

    Attributes:
        service: name of the service where ``OTEL_SERVICE_NAME`` says none.
        kind: kind of its spans.
        duration, first, each: names of the histograms of a text's time, of the time to the first tokens, and of that
            between two messages with tokens (``per_output_chunk``) or, on average over a text, between tokens.
    """

    service: str
    kind: str
    duration: str
    first: str
    each: str


EDGE = Side(
    "flexspec-edge",
    "CLIENT",
    "gen_ai.client.operation.duration",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.client.operation.time_per_output_chunk",
)
WORKER = Side(
    "flexspec-cloud",
    "SERVER",
    "gen_ai.server.request.duration",
    "gen_ai.server.time_to_first_token",
    "gen_ai.server.time_per_output_token",
)
_USAGE = "gen_ai.client.token.usage"
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(4**power for power in range(14))


class Telemetry:
    """Spans and metrics of one daemon.

    Args:
        side: how it takes part.
        tracing, metering: where they go.

    Attributes:
        failed: status of a span whose text failed.
    """

    def __init__(self, side: Side, tracing: TracerProvider, metering: MeterProvider) -> None:
        from opentelemetry import propagate, trace

        self.side = side
        self._tracer = tracing.get_tracer("flexspec_mq", __version__)
        self.failed = trace.StatusCode.ERROR
        self._trace, self._propagate = trace, propagate
        meter = metering.get_meter("flexspec_mq", __version__)
        self._histograms = {
            name: meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=buckets)
            for name, unit, buckets in (
                (side.duration, "s", _SECONDS),
                (side.first, "s", _FIRST),
                (side.each, "s", _EACH),
                (_USAGE, "{token}", _TOKENS),
            )
        }

    def record(self, name: str, value: float, labels: Mapping[str, Value]) -> None:
        """Add a value to a histogram."""
        self._histograms[name].record(value, labels)

    def start(
        self, name: str, kind: str, parent: Iterable[tuple[str, str]], attributes: Mapping[str, Value]
    ) -> tuple[Any, Carrier]:
        """Begin a span.

        Args:
            name: name of the span.
            kind: kind of the span.
            parent: trace context of whoever asked, which nobody vouches for; what is none begins a trace.
            attributes: attributes that samplers see.

        Returns:
            The span, and the context for whoever is asked in turn.
        """
        told = {key: value for key, value in parent if key in _CONTEXT and len(value) <= _LONGEST}
        context = self._propagate.extract(told)
        span = self._tracer.start_span(name, context, self._trace.SpanKind[kind], attributes)
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier, self._trace.set_span_in_context(span, context))
        return span, context_of(carrier)


class TextSpan:
    """The span of a text, and what the text adds to the metrics. As a context it ends with the block, by its error.

    Args:
        by: the daemon's telemetry.
        operation: `chat` or `text_completion`.
        model: name of the model as it was asked for.
        parent: trace context of whoever asked.
        attributes: further attributes.

    Attributes:
        carrier: context for whoever is asked in turn.
    """

    def __init__(
        self,
        by: Telemetry,
        operation: str,
        model: str,
        parent: Iterable[tuple[str, str]],
        attributes: Mapping[str, Value],
    ) -> None:
        self._by = by
        self._labels: dict[str, Value] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "flexspec",
            "gen_ai.request.model": model,
        }
        self._span, self.carrier = by.start(
            f"{operation} {model}", by.side.kind, parent, {**self._labels, **attributes}
        )
        self._began = time.monotonic()
        self._first = self._last = 0.0
        self._tokens = self._after_first = 0
        self._worker = ""
        self._events = Counter[str]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end()
        else:
            self.end(kind.__name__ if issubclass(kind, Exception) else "client")

    def event(self, name: str, **attributes: Value) -> None:
        """Something happened to the text."""
        self._events[name] += 1
        self._span.add_event(name, attributes)

    def note(self, attributes: Mapping[str, Value | None]) -> None:
        """Set attributes; those that are None or empty are left out."""
        told = {key: value for key, value in attributes.items() if value is not None and value != ""}
        self._span.set_attributes(told)

    def committed(self, count: int, worker: str | None = None) -> None:
        """Tokens came, from a worker at a device."""
        now, each = time.monotonic(), self._by.side.each
        if worker is not None and worker != self._worker:
            if self._worker:
                self.event("flexspec.failover", worker=worker, left=self._worker)
            self._worker = worker
        if not self._tokens:
            self._first = now
            self.event("flexspec.first_token")
        else:
            self._after_first += count
            if self._by.side is EDGE:
                self._by.record(each, now - self._last, self._labels)
        self._last = now
        self._tokens += count

    def used(self, model: str, read: int, written: int) -> None:
        """Note which model wrote how many tokens after a prompt of how many."""
        self._labels["gen_ai.response.model"] = model
        self.note(
            {
                "gen_ai.response.model": model,
                "gen_ai.usage.input_tokens": read,
                "gen_ai.usage.output_tokens": written,
            }
        )
        if self._by.side is EDGE:
            for kind, count in (("input", read), ("output", written)):
                self._by.record(_USAGE, count, {**self._labels, "gen_ai.token.type": kind})

    def end(self, error: str = "") -> None:
        """End the span; `error` is the class of the error that ended the text, or who did without it (`NO_ERRORS`)."""
        side, labels = self._by.side, self._labels
        if error in NO_ERRORS:
            self.note({"flexspec.ended_by": error})
        elif error:
            labels["error.type"] = error
            self.note({"error.type": error})
            self._span.set_status(self._by.failed)
        if side is EDGE and "gen_ai.response.model" not in labels:
            del labels["gen_ai.request.model"]  # a name that nobody serves would be one more series for ever
        self._by.record(side.duration, time.monotonic() - self._began, labels)
        if self._tokens:
            first = self._first - self._began
            self._by.record(side.first, first, labels)
            if side is EDGE:
                self.note({"gen_ai.response.time_to_first_chunk": first})
            elif self._after_first:
                self._by.record(side.each, (self._last - self._first) / self._after_first, labels)
        self.note(
            {
                "flexspec.worker": self._worker,
                "flexspec.link.losses": self._events["flexspec.link.lost"] or None,
                "flexspec.failovers": self._events["flexspec.failover"] or None,
            }
        )
        self._span.end()


def sampling_attributes(sampling: Sampling) -> dict[str, float]:
    """Attributes of a span that say how its tokens are chosen, but for the seed."""
    conventional = ("temperature", "top_k", "top_p")
    return {
        f"{'gen_ai.request' if name in conventional else 'flexspec'}.{name}": getattr(sampling, name)
        for name in PartialSampling.__struct_fields__
    }


def context_of(values: Mapping[str, str]) -> Carrier:
    """The trace context among headers, or among User Properties."""
    return tuple((key, values[key]) for key in _CONTEXT if key in values)


def context_of_environment() -> Carrier:
    """The trace context in ``TRACEPARENT`` and ``TRACESTATE``, by which a program that starts others hands it on."""
    return context_of({key: os.environ[key.upper()] for key in _CONTEXT if key.upper() in os.environ})


@contextmanager
def exporting(options: TelemetryOptions, side: Side, instance: str) -> Iterator[Telemetry | None]:
    """Export what the block does, if that is wanted; what is left at its end has a moment to go.

    Args:
        options: whether.
        side: how the daemon takes part.
        instance: name of the daemon.

    Yields:
        Where to say it; None if it is not wanted.

    Raises:
        UsageError: a variable names what is not there, or has an impossible value.
    """
    if not options.otel:
        yield None
        return
    try:
        providers = _providers(side, instance)
        telemetry = Telemetry(side, *providers)
    except (ValueError, ImportError) as error:
        why = f"OpenTelemetry does not take what its variables say: {error}"
        raise UsageError(why, hint="docs/observability.md lists those that matter") from error
    logger, throttled = logging.getLogger("opentelemetry"), _Throttled()
    logger.addHandler(throttled)
    logger.propagate = False
    try:
        yield telemetry
    finally:
        _shut_down(*providers)
        logger.removeHandler(throttled)
        logger.propagate = True


def _providers(side: Side, instance: str) -> tuple[TracerProvider, MeterProvider]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = {"service.name": side.service, "service.instance.id": instance, "service.version": __version__}
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())
    readers = [PeriodicExportingMetricReader(exporter) for exporter in _exporters("metrics")]
    tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in _exporters("traces"):
        tracing.add_span_processor(BatchSpanProcessor(exporter))
    return tracing, MeterProvider(readers, resource, shutdown_on_exit=False)


def _exporters(signal: str) -> Iterator[Any]:
    """Exporters of `traces` or `metrics` that the environment names."""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    for name in os.environ.get(variable, "otlp").split(","):
        wanted = name.strip()
        if wanted in {"", "none"}:
            continue
        if wanted == "otlp":
            protocols = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
            protocol = next(filter(None, map(os.environ.get, protocols)), "http/protobuf")
            wanted = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
        found = entry_points(group=f"opentelemetry_{signal}_exporter", name=wanted)
        if not found:
            raise UsageError(
                f"{variable} or its protocol means the exporter {wanted}, which is not installed",
                hint=f"otlp over http/protobuf and console come with the extra otel, {how_to_install('otel')}",
            )
        yield next(iter(found)).load()()


def _shut_down(*providers: TracerProvider | MeterProvider) -> None:
    """Export what is left, but wait no longer for a collector that is away than `2 * waiting.FAREWELL`."""
    ends = [threading.Thread(target=provider.shutdown, daemon=True) for provider in providers]
    until = time.monotonic() + 2 * waiting.FAREWELL
    for end in ends:
        end.start()
    for end in ends:
        end.join(max(0.0, until - time.monotonic()))


class _Throttled(logging.Handler):
    """Hands on the first of many like records: a collector that is away is told of with each batch."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = LogThrottle()

    def emit(self, record: logging.LogRecord) -> None:
        if self._throttle.due(record.name, str(record.msg), time.monotonic()):
            logging.getLogger().handle(record)
