"""Requests wait out what happens, in a deployment by `flexspec-broker init`, whose daemons are killed for good."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from broker.deployment.bundles import SETTINGS
from broker.settings import Role
from flexspec_mq import waiting
from lab.testbed.secured import SecuredDeployment, secured_deployment
from tests.daemons import until
from tests.integration.processes import events_of, start

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

AWAY = [float(each) for each in os.environ.get("FLEXSPEC_WORKER_AWAY", "12").split(",")]
"""Seconds without any worker; `FLEXSPEC_WORKER_AWAY=25,35,100` takes four minutes."""
STREAMS = 5
ASKED = {"prompt": "hello", "max_tokens": 150, "ignore_eos": True, "temperature": 0.7, "stream": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployed(tiny: Path) -> AsyncIterator[SecuredDeployment]:
    edge = ("--draft", str(tiny), "--policy", "fixed", "--draft-length", "2", "--ahead", "0")
    more = {"worker_flags": worker(tiny), "edge_flags": edge, "more_devices": ["phone"]}
    async with secured_deployment(["truck"], **more) as made:  # type: ignore[arg-type]
        yield made


def worker(tiny: Path) -> tuple[str, ...]:
    return ("--target", str(tiny), "--draft", "none")


@dataclass
class Stream:
    """An answer as it comes.

    Attributes:
        comments: lines that say whom it waits for.
        at: when its newest token came.
        error: object in place of the end.
    """

    text: str = ""
    comments: list[str] = field(default_factory=list)
    at: float = 0.0
    error: dict[str, Any] = field(default_factory=dict)

    async def read(self, url: str, **asked: Any) -> None:
        http = httpx2.AsyncClient(timeout=None, trust_env=False)
        async with http, http.stream("POST", f"{url}/v1/completions", json={**ASKED, **asked}) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                if line.startswith(": waiting"):
                    self.comments.append(line)
                elif line.startswith("data: {"):
                    body = json.loads(line.removeprefix("data: "))
                    self.error = body.get("error", {})
                    self.text += "".join(choice["text"] for choice in body.get("choices", ()))
                    self.at = time.monotonic()


async def texts(deployed: SecuredDeployment) -> list[str]:
    """Texts of all seeds that nothing happens to."""
    streams = [Stream() for _ in range(STREAMS)]
    reading = (stream.read(deployed.edges[0].url, seed=seed) for seed, stream in enumerate(streams))
    await asyncio.gather(*reading)
    return [stream.text for stream in streams]


async def refused(deployed: SecuredDeployment, **asked: Any) -> tuple[httpx2.Response, float]:
    """An answer that is an error, and the seconds that it took."""
    began = time.monotonic()
    async with httpx2.AsyncClient(timeout=60.0, trust_env=False) as http:
        body = {**ASKED, "max_tokens": 5, "stream": False, **asked}
        answer = await http.post(f"{deployed.edges[0].url}/v1/completions", json=body)
    return answer, time.monotonic() - began


@pytest.mark.parametrize("away", AWAY)
async def test_texts_outlive_the_only_worker_and_go_on_with_the_next(
    deployed: SecuredDeployment, tiny: Path, away: float
) -> None:
    """With the same text; while they wait they say for whom."""
    alone = await texts(deployed)
    streams = [Stream() for _ in range(STREAMS)]
    url = deployed.edges[0].url
    async with asyncio.TaskGroup() as reading:
        for seed, stream in enumerate(streams):
            reading.create_task(stream.read(url, seed=seed))
        await until(lambda: all(len(stream.text) > 50 for stream in streams))
        await deployed.worker.process.kill()
        killed = time.monotonic()
        answer, _ = await refused(deployed)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
        await asyncio.sleep(killed + away - time.monotonic())
        before = [stream.text for stream in streams]
        assert all(len(text) < len(whole) for text, whole in zip(before, alone, strict=True))
        await deployed.start_worker(*worker(tiny))
        online = time.monotonic()
        await until(lambda: all(stream.at > online for stream in streams))
    for stream, whole in zip(streams, alone, strict=True):
        assert not stream.error
        assert stream.text == whole
        assert "waiting for a worker of base (versions online: none), up to 1" in stream.comments[0]


async def test_without_the_broker_a_text_waits_as_long_as_a_user_would_or_as_it_says(
    deployed: SecuredDeployment,
) -> None:
    os.kill(deployed.broker.mosquitto, signal.SIGKILL)
    await deployed.broker.process.wait()
    async with asyncio.TaskGroup() as asking:
        waits, gives_up = (asking.create_task(refused(deployed, wait=wait)) for wait in (30.0, 3.0))
        answer, took = await refused(deployed)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_unreachable")
        assert "is the broker running?" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) >= 1
        assert took > waiting.UNLINKED
        answer, took = await gives_up
        assert answer.status_code == 503
        assert took > 3.0
        await deployed.broker.start()
    answer, took = waits.result()
    assert answer.status_code == 200
    assert took > 3.0


async def test_the_request_that_finds_out_that_the_broker_hangs_is_refused_too(
    deployed: SecuredDeployment,
) -> None:
    """The link says nothing of it until something is sent."""
    os.kill(deployed.broker.mosquitto, signal.SIGSTOP)
    try:
        answer, took = await refused(deployed)
    finally:
        os.kill(deployed.broker.mosquitto, signal.SIGCONT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_unreachable")
    assert took > waiting.UNLINKED
    answer, _ = await refused(deployed, wait=10.0)
    assert answer.status_code == 200


async def test_a_command_outlives_an_outage_of_the_broker(deployed: SecuredDeployment, tiny: Path) -> None:
    """Once a text is being written, the outage may be longer than the command waits for its first connection."""
    config = str(deployed.bundle(Role.EDGE, "phone") / SETTINGS[Role.EDGE])
    flags = ("--draft", str(tiny), "--ignore-eos", "--max-tokens", "150", "--seed", "7", "--ahead", "0")
    said: list[list[dict[str, Any]]] = []
    for away in (False, True):
        asked = await start("edge_node", "ask", "hello", "--config", config, "--events", *flags)
        events = [await asked.event(lambda event: event["type"] == "text")]
        if away:
            os.kill(deployed.broker.mosquitto, signal.SIGKILL)
            await deployed.broker.process.wait()
            await asyncio.sleep(waiting.UNLINKED + 1.0)
            await deployed.broker.start()
        said.append(events + await events_of(asked))
    (*_, alone), (*others, finish) = said
    assert finish["tokens"] == alone["tokens"]
    (wait,) = (event for event in others if event["type"] == "waiting")
    assert (wait["for"], 110 < wait["seconds"] < 120) == ("the broker", True)
