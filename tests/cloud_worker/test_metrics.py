"""Figures and readiness of a worker, over real HTTP and a real broker."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.launcher import PrivateBroker
from cloud_worker.metrics import WorkerMetrics
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from flexspec_mq.daemon import probes
from flexspec_mq.errors import UsageError
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.memory_broker import MemoryBroker
from tests.cloud_worker.test_prefix_reuse import START, edge, engine_of, turn
from tests.cloud_worker.test_prefix_reuse import serving as working
from tests.daemons import PATIENCE, FakeEngine, check, edge_at, link_to, until, wanting


async def ask(port: int, request: bytes) -> tuple[int, Mapping[str, str], str]:
    """Status, headers and body of one answer; the connection must end by itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    head, _, body = answer.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


async def get(port: int, path: str) -> tuple[int, str]:
    status, _, body = await ask(port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return status, body


async def figures(port: int) -> dict[str, float]:
    """Each sample of the page by its name and labels."""
    status, page = await get(port, "/metrics")
    assert status == 200
    return {
        sample.name.removeprefix("flexspec_worker:")
        + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def serving(daemon: CloudWorker, **where: Any) -> AbstractAsyncContextManager[int]:
    return probes.serving(WorkerMetrics(daemon).pages(), **where)


async def test_the_figures_are_those_of_what_happened(mosquitto: PrivateBroker) -> None:
    async with (
        working(mosquitto, "oa0", kv_bytes=2**30) as daemon,
        serving(daemon) as port,
        edge(mosquitto, "oa0") as node,
    ):
        nothing = await figures(port)
        assert nothing["generation_tokens_total/oa0"] == 0
        assert nothing["kv_bytes"] == 0
        first = await turn(node, START, 1)
        await turn(node, (*START, *first.machine.committed, 1), 2)
        await until(lambda: daemon.machine.counters.closed == 2)
        seen = await figures(port)
        counters = daemon.machine.counters
    prompts = len(START) + len(START) + 12 + 1
    assert seen["generation_tokens_total/oa0"] == 24
    assert seen["prompt_tokens_total/oa0"] == seen["prefix_cache_queries_total/oa0"] == prompts
    assert seen["prefix_cache_hits_total/oa0"] == len(START) + 12
    assert seen["rounds_total"] == counters.items == 24
    assert (
        seen["edge_draft_tokens_total"] == seen["spec_decode_num_drafts_total/oa0"] == counters.drafted == 0
    )
    assert seen["sessions_total/opened"] == 2
    assert seen["sessions_total/closed"] == 2
    assert seen["sessions_total/inherited"] == 1
    assert seen["refusals_total/busy"] == 0
    assert seen["num_requests_running/oa0"] == seen["num_requests_waiting/oa0"] == 0
    assert seen["kept_texts"] == 1  # the first text went on in the second
    assert 0 < seen["kv_bytes"] <= seen["kv_limit_bytes"] == 2**30
    assert seen["kv_cache_usage_perc/oa0"] == seen["kv_bytes"] / 2**30
    assert seen["num_preemptions_total/oa0"] == 0
    assert seen["round_queue_seconds_count"] == 24
    assert seen["request_queue_time_seconds_count/oa0"] == 2
    # Each item is decided in one forward; the first prompt may be read in more than one.
    assert seen["compute_seconds_count"] >= 24
    assert seen["batch_sessions_sum"] == seen["compute_seconds_count"]
    assert seen["iteration_tokens_total_sum/oa0"] == len(START) + 11 + 2 + 11
    assert seen["oldest_wait_seconds"] == 0
    assert seen["ready"] == 1
    assert nothing["protocol_violations_total"] == 0


async def test_busy_answers_and_shared_forwards_are_counted() -> None:
    broker = MemoryBroker()
    fake = FakeEngine()
    daemon = CloudWorker(WorkerSettings(worker="w1", capacity=1, drain=0.0), fake)
    run = asyncio.create_task(daemon.run(broker.link, link_to("w-w1")))
    async with serving(daemon) as port:
        async with edge_at(broker.link) as node:
            await check(node, [wanting(number, limit=10) for number in range(3)])
        seen = await figures(port)
        assert seen["tasks"] > 4  # four loops, and this test
        assert seen["process_open_fds"] > 0
        assert seen["refusals_total/busy"] == daemon.machine.counters.busy > 0
        assert "kv_bytes" not in seen  # this engine does not tell
        daemon.stop()
        await asyncio.wait_for(run, PATIENCE)


async def test_readiness_follows_the_link_and_the_drain(own_mosquitto: PrivateBroker) -> None:
    settings = WorkerSettings(worker="oc0", version="oc0", drain=PATIENCE)
    daemon = CloudWorker(settings, engine_of("oc0"))
    async with serving(daemon) as port:
        assert await get(port, "/healthz") == (200, "ok\n")
        assert await get(port, "/readyz") == (503, "not connected to the broker\n")
        link = LinkSettings(host=own_mosquitto.host, port=own_mosquitto.port, client_id="w-oc0")
        run = asyncio.create_task(daemon.run(mqtt_link, link))
        await asyncio.wait_for(daemon.ready.wait(), PATIENCE)
        assert await get(port, "/readyz") == (200, "ready\n")
        daemon.machine.drain(0.0)
        assert await get(port, "/readyz") == (503, "draining\n")
        own_mosquitto.stop()
        await until(lambda: daemon.not_ready == "not connected to the broker")
        assert (await get(port, "/readyz"))[0] == 503
        assert (await get(port, "/healthz"))[0] == 200
        run.cancel()
        await asyncio.wait([run])


@asynccontextmanager
async def idle() -> AsyncIterator[int]:
    async with serving(CloudWorker(WorkerSettings(worker="w"), FakeEngine())) as port:
        yield port


async def test_anything_else_is_refused_in_the_words_of_http() -> None:
    async with idle() as port:
        assert (await get(port, "/"))[0] == 404
        assert (await get(port, "/metrics/x"))[0] == 404
        assert (await get(port, "/healthz?verbose=1"))[0] == 200
        status, headers, _ = await ask(port, b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        status, headers, body = await ask(port, b"HEAD /healthz HTTP/1.1\r\n\r\n")
        assert (status, headers["Content-Length"], body) == (200, "3", "")
        assert (await ask(port, b"\r\n\r\n"))[0] == 405


async def closed(reader: asyncio.StreamReader) -> bool:
    """Whether the other side ends without an answer. It may reset: it has not read all that was sent."""
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE) == b""
    except ConnectionResetError:
        return True


async def test_bad_clients_disturb_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexspec_mq.waiting.CONNECT", 0.2)
    async with idle() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /" + b"x" * 100_000)
        assert await closed(reader)
        writer.close()
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        for reader, writer in silent:  # those beyond the bound at once, the others when their time is over
            assert await closed(reader)
            writer.close()
        assert (await get(port, "/healthz"))[0] == 200


async def test_it_ends_although_a_client_hangs() -> None:
    async with idle() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics")
        await asyncio.sleep(0.01)
    assert await closed(reader)
    writer.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", ""])  # noqa: S104
async def test_beyond_this_machine_only_in_as_many_words(host: str) -> None:
    daemon = CloudWorker(WorkerSettings(worker="w"), FakeEngine())
    with pytest.raises(UsageError, match="read by others"):
        async with serving(daemon, host=host):
            pass
    async with serving(daemon, host="0.0.0.0", anywhere=True) as port:  # noqa: S104
        assert (await get(port, "/healthz"))[0] == 200


async def test_a_port_that_cannot_be_had_is_an_error_with_its_number() -> None:
    daemon = CloudWorker(WorkerSettings(worker="w"), FakeEngine())
    async with idle() as taken:
        for port in (taken, 70_000):
            with pytest.raises(UsageError, match=str(port)):
                async with serving(daemon, port=port):
                    pass
