"""A trace of one answer through client, device, broker and two workers, of which the first is stopped meanwhile.

``python -m lab.traces`` prints it as a tree. With ``--endpoint http://127.0.0.1:6006`` the spans also go to a backend
that takes OTLP over HTTP there, such as Jaeger, Tempo, Phoenix or a collector. It runs the default model.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openai import AsyncOpenAI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from flexspec_mq.telemetry import EDGE, TelemetryOptions, exporting
from lab.testbed.deployment import Daemon, local_deployment

_PROMPT = "Write a long story about a lighthouse keeper who finds a bottle with a letter."
_TOKENS = 160
_STOP_AFTER = 20
"""Pieces of the answer after which its worker is stopped."""
_SETTLES = 10.0
"""Seconds for the last spans to come."""


class Collector:
    """Takes spans over HTTP, hands them on, and keeps them.

    Attributes:
        spans: pairs of service and span, in the order in which they came.
        port: port of loopback.
    """

    def __init__(self, endpoint: str | None) -> None:
        self.spans: list[tuple[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if endpoint is not None:
                    kind = {"content-type": "application/x-protobuf"}
                    urllib.request.urlopen(urllib.request.Request(endpoint + self.path, body, kind)).close()  # noqa: S310
                collector.take(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port

    def take(self, body: bytes) -> None:
        """Keep the spans of a request."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            name = f"{about['service.name']} {about['service.instance.id']}"
            self.spans += ((name, span) for scope in resource.scope_spans for span in scope.spans)

    @contextmanager
    def running(self) -> Iterator[Collector]:
        """Take requests inside the block."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def tree(self, parent: bytes = b"", depth: int = 0) -> Iterator[str]:
        """Lines of the spans below one, with their events and attributes."""
        for service, span in sorted(self.spans, key=lambda each: each[1].start_time_unix_nano):
            if span.parent_span_id != parent:
                continue
            start, indent = span.start_time_unix_nano, "   " * depth
            seconds = (span.end_time_unix_nano - start) / 1e9
            yield f"{indent}{service}: {span.name}  {seconds:.2f} s  (trace {span.trace_id.hex()})"
            for event in span.events:
                told = ", ".join(f"{each.key}={_value(each)}" for each in event.attributes)
                yield f"{indent}   {(event.time_unix_nano - start) / 1e9:6.2f} s {event.name} {told}"
            for each in span.attributes:
                yield f"{indent}   . {each.key} = {_value(each)}"
            yield from self.tree(span.span_id, depth + 1)


def _value(attribute: Any) -> object:
    value = attribute.value
    kind = value.WhichOneof("value")
    return (
        [each.string_value for each in value.array_value.values]
        if kind == "array_value"
        else getattr(value, kind)
    )


async def _holder(workers: list[Daemon]) -> Daemon:
    """The worker that writes."""
    for worker in workers:
        if any("num_requests_running" in name and value for name, value in (await worker.figures()).items()):
            return worker
    raise RuntimeError("no worker writes")


async def _ask(edge: Daemon, workers: list[Daemon], context: dict[str, str]) -> None:
    client = AsyncOpenAI(base_url=f"{edge.url}/v1", api_key="none", default_headers=context)
    async with (
        client,
        await client.chat.completions.create(
            model="base",
            messages=[{"role": "user", "content": _PROMPT}],
            max_tokens=_TOKENS,
            seed=7,
            stream=True,
            extra_body={"ignore_eos": True},
        ) as answer,
    ):
        pieces = 0
        async for _ in answer:
            pieces += 1
            if pieces == _STOP_AFTER:
                (await _holder(workers)).process.send_signal(signal.SIGTERM)


async def _run() -> None:
    async with local_deployment() as here:
        await here.start_broker()
        workers = [await here.worker(name, "--otel", "--drain", "0") for name in ("w1", "w2")]
        edge = await here.edge("truck-17", "--otel")
        with exporting(TelemetryOptions(otel=True), EDGE._replace(service="client"), "laptop") as telemetry:
            assert telemetry is not None
            span, context = telemetry.start("ask", "CLIENT", (), {})
            await _ask(edge, workers, dict(context))
            span.end()
        for daemon in (edge, *workers):
            if daemon.process.runs:
                await daemon.process.end(patience=_SETTLES)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m lab.traces", description=__doc__)
    parser.add_argument("--endpoint", help="backend that the spans go to as well: the URL before /v1/traces")
    args = parser.parse_args()
    with Collector(args.endpoint).running() as collector:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector.port}"
        os.environ["OTEL_METRICS_EXPORTER"] = "none"
        asyncio.run(_run())
        print("\n".join(collector.tree()))


if __name__ == "__main__":
    main()
