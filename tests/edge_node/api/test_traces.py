"""The trace of a text through client, device, broker and worker, with the SDK's own exporters in memory."""

import asyncio
import logging
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from paho.mqtt import MQTTException

from broker.launcher import PrivateBroker
from edge_node.asking.request import AskReader
from flexspec_mq import topics, waiting
from flexspec_mq.errors import UsageError, WorkerError
from flexspec_mq.telemetry import EDGE, WORKER, Side, Telemetry, TelemetryOptions, TextSpan, exporting
from flexspec_mq.transport.base import Inbound, LinkSettings, Outbound, Subscription, UserProperties
from flexspec_mq.transport.mqtt import mqtt_link
from flexspec_mq.transport.properties import packed, publish_properties, read_properties
from tests.daemons import PATIENCE, read, until, wanting, world
from tests.edge_node.api.served import Served, alone, content, served, waiting_engine

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Recorded:
    """Spans and metrics of one daemon, as the SDK has them."""

    def __init__(self, side: Side) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracing = TracerProvider(shutdown_on_exit=False)
        tracing.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = Telemetry(side, tracing, MeterProvider([self.reader], shutdown_on_exit=False))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def counts(self) -> dict[str, int]:
        """How many values each histogram has."""
        data = self.reader.get_metrics_data()
        assert data is not None
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        points = ((metric.name, point) for metric in metrics for point in metric.data.data_points)
        counts = Counter[str]()
        for name, point in points:
            assert isinstance(point, HistogramDataPoint)
            counts[name] += point.count
        return dict(counts)


def ids(span: ReadableSpan) -> tuple[str, str | None]:
    """Trace of a span, and the parent's id."""
    return f"{span.context.trace_id:032x}", None if span.parent is None else f"{span.parent.span_id:016x}"


@asynccontextmanager
async def opens(broker: PrivateBroker, here: Served) -> AsyncIterator[list[UserProperties]]:
    """User Properties of the messages that open sessions, as anybody at the broker sees them."""
    told: list[UserProperties] = []
    only = (Subscription(topics.open_topic(here.version, here.node.name)),)
    async with mqtt_link(LinkSettings(port=broker.port, client_id="spy", subscriptions=only)) as link:
        await link.wait_up()

        async def listen() -> None:
            async for event in link.events():
                if isinstance(event, Inbound):
                    told.append(read_properties(event.properties).user)  # noqa: PERF401  while it goes on

        task = asyncio.create_task(listen())
        yield told
        task.cancel()


async def test_one_trace_from_client_to_both_workers_of_a_failover(mosquitto: PrivateBroker) -> None:
    edge, cloud, engine = Recorded(EDGE), Recorded(WORKER), waiting_engine()
    async with served(mosquitto, workers=2, engine=engine, worker={"telemetry": cloud.telemetry}) as here:
        here.node.telemetry = edge.telemetry
        context = {"traceparent": TRACEPARENT, "tracestate": "k=v"}
        async with opens(mosquitto, here) as seen:
            asked = asyncio.create_task(here.chat("a secret", context, seed=5, max_tokens=40))
            await until(lambda: any(daemon.kept for daemon in here.daemons))
            await next(daemon for daemon in here.daemons if daemon.kept).kill()
            await until(lambda: any(daemon.kept for daemon in here.daemons if not daemon.run.done()))
            engine.gate.set()
            assert content(await asked) == alone("a secret", 5, 40)
            await until(lambda: len(seen) == 2)
    text, request = edge.spans
    assert (request.name, request.kind) == ("POST /v1/chat/completions", SpanKind.SERVER)
    assert ids(request) == (TRACE, PARENT)
    assert (text.name, text.kind) == (f"chat {here.version}", SpanKind.CLIENT)
    assert ids(text) == (TRACE, f"{request.context.span_id:016x}")
    own = f"{text.context.span_id:016x}"
    told = (("traceparent", f"00-{TRACE}-{own}-01"), ("tracestate", "k=v"))
    assert seen == [told] * 2
    first, second = cloud.spans
    assert ids(first) == ids(second) == (TRACE, own)
    assert first.kind is second.kind is SpanKind.SERVER
    assert all("secret" not in span.to_json() for span in (text, first, second))
    assert {"flexspec.worker.gone", "flexspec.first_token"} <= {event.name for event in text.events}
    noted, last = dict(text.attributes or {}), dict(second.attributes or {})
    assert noted["gen_ai.usage.output_tokens"] == last["gen_ai.usage.output_tokens"] == 40
    assert noted["gen_ai.response.finish_reasons"] == last["gen_ai.response.finish_reasons"] == ("length",)
    assert (noted["flexspec.reopens"], noted["flexspec.worker"]) == (1, last["flexspec.worker"])
    assert (first.status.status_code, text.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    counts = edge.counts()
    assert counts.pop("gen_ai.client.operation.time_per_output_chunk") + 1 == noted["flexspec.rounds"]
    assert counts == {
        "gen_ai.client.operation.duration": 1,
        "gen_ai.client.operation.time_to_first_chunk": 1,
        "gen_ai.client.token.usage": 2,
    }
    assert cloud.counts() == {
        "gen_ai.server.request.duration": 2,
        "gen_ai.server.time_to_first_token": 1,
        "gen_ai.server.time_per_output_token": 1,
    }


async def test_nothing_travels_where_it_is_off_and_a_client_that_goes_is_no_error(
    mosquitto: PrivateBroker,
) -> None:
    edge, engine = Recorded(EDGE), waiting_engine()
    async with served(mosquitto, engine=engine) as here, opens(mosquitto, here) as seen:
        async with asyncio.timeout(PATIENCE):
            for number, by in enumerate((None, edge.telemetry), 1):
                here.node.telemetry = by
                asked = asyncio.create_task(here.chat("hello", {"traceparent": TRACEPARENT}))
                await until(lambda number=number: len(seen) == number)  # type: ignore[misc]
                asked.cancel()
                await until(lambda: not here.node.sessions)
        await until(lambda: len(edge.spans) == 2)
    assert [len(user) for user in seen] == [0, 1]
    noted = {key: value for span in edge.spans for key, value in (span.attributes or {}).items()}
    assert {span.status.status_code for span in edge.spans} == {StatusCode.UNSET}
    assert (noted["flexspec.ended_by"], noted["http.response.status_code"]) == ("client", 499)


async def test_an_outage_is_told() -> None:
    recorded = Recorded(EDGE)
    async with world() as (broker, (worker,), node):
        worker.engine.gate.clear()
        with TextSpan(recorded.telemetry, "chat", "base", (), {}) as span:
            generation = node.generate(replace(wanting(1), span=span))
            await until(lambda: worker.kept)
            broker.cut("e-edge")
            await until(lambda: not node.link.is_up)
            await until(lambda: node.link.is_up)
            worker.engine.gate.set()
            await read(generation)
    (text,) = recorded.spans
    assert [event.name for event in text.events] == ["flexspec.link.lost", "flexspec.link.up"]
    assert (text.attributes or {})["flexspec.link.losses"] == 1


contexts = st.builds(
    "{}-{:032x}-{:016x}-{:02x}".format,
    st.sampled_from(("00", "01", "ff")),
    *(st.integers(0, 2**bits - 1) for bits in (128, 64, 1)),
)


@cache
def made_up() -> Recorded:
    return Recorded(WORKER)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(("traceparent", "tracestate", "baggage")), st.text(max_size=80) | contexts),
        max_size=4,
    )
)
def test_a_context_that_somebody_made_up_is_a_parent_at_most(pairs: list[tuple[str, str]]) -> None:
    recorded = made_up()
    recorded.exporter.clear()
    message = Outbound("t", b"", user=tuple(pairs))
    try:
        raw = packed(publish_properties(message))
    except (UnicodeEncodeError, ValueError, MQTTException):
        return
    told = read_properties(raw).user
    with TextSpan(recorded.telemetry, "text_completion", "base", told, {}) as span:
        pass
    assert {name for name, _ in span.carrier} <= {"traceparent", "tracestate"}
    _, trace, own, flags = span.carrier[0][1].split("-")
    sampled = int(flags, 16) & 1
    parents = [parent for _, parent in map(ids, recorded.spans)]
    assert [f"{made.context.span_id:016x}" for made in recorded.spans] == [own] * sampled
    assert parents == [None] * sampled or trace in dict(told)["traceparent"]


def test_names_that_clients_made_up_are_no_series_of_the_metrics() -> None:
    recorded = Recorded(EDGE)
    for number in range(9):
        with pytest.raises(WorkerError), TextSpan(recorded.telemetry, "chat", f"nobody-{number}", (), {}):
            raise WorkerError("nothing goes by that name")
    assert [span.name for span in recorded.spans] == [f"chat nobody-{number}" for number in range(9)]
    data = recorded.reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert len(metric.data.data_points) == 1


def test_an_ask_by_mqtt_goes_on_with_the_trace_of_whoever_asks() -> None:
    properties = packed(publish_properties(Outbound("t", b"", user=(("traceparent", TRACEPARENT),))))
    asked = AskReader("anybody", "e").read(Inbound("f1/ask/e", b"hello", properties=properties), most=99)
    assert asked is not None
    assert asked.spec.trace_context == (("traceparent", TRACEPARENT),)


def test_a_collector_that_does_not_answer_costs_a_line_of_the_log_and_a_moment_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setattr(waiting, "FAREWELL", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with exporting(TelemetryOptions(otel=True), EDGE, "e") as by:
            assert by is not None
            for _ in range(100):
                with TextSpan(by, "chat", "base", (), {}) as span:
                    span.committed(3, "w1")
            time.sleep(0.1)
            for _ in range(100):  # with each batch
                logging.getLogger("opentelemetry.exporter").warning("Failed to export")
            began = time.monotonic()
        assert 0.2 <= time.monotonic() - began < 50.0, "its own time for an answer is 100 s"
        # Before its connection breaks, which is told as well.
        assert [record.msg for record in caplog.records] == ["Failed to export"]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger", "exporter jaeger"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc", "otlp_proto_grpc"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "interval value 0"),
    ],
)
def test_variables_that_cannot_be_followed_are_told(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=words), exporting(TelemetryOptions(otel=True), EDGE, "e"):
        pass


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(UsageError, match="OpenTelemetry SDK") as refused:
        TelemetryOptions(otel=True)
    assert "[otel]" in refused.value.hint
