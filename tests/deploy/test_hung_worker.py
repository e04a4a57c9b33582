"""A deployment by `init` with two workers, one of which hangs: texts go on at the other, and are what they were."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

from flexspec_mq.demo.recording import until_ready
from lab.bench.client import StreamedAnswer, ask, unbounded
from lab.testbed.process import Process
from tests.broker.deployments import good, made, running
from tests.integration.processes import ended, start

HANGS = float(os.environ.get("FLEXSPEC_WORKER_HANGS", "6"))
"""Seconds for which a worker hangs: beyond that of its connection's keep-alive where it is set so."""
SILENCE = 3.0
"""Seconds that a text or a request may be silent at most."""
TEXTS = 4


@asynccontextmanager
async def two_workers(folder: Path, tiny: Path) -> AsyncIterator[tuple[list[Process], str]]:
    """Run them with TLS and keys; their processes, and the URL of a device's API."""
    directory = made(folder / "d", "--keys")
    for name in ("w1", "w2"):
        good("add-worker", directory, name, "--version", "tiny")
    good("add-device", directory, "alice")
    hand_out = directory / "hand-out"
    with running(directory, folder / "log"):
        started: list[Process] = []
        try:
            for name in ("w1", "w2"):
                config = ("--config", str(hand_out / "worker" / name / "cloud.toml"))
                flags = (*config, "--target", str(tiny), "--threads", "1", "--ready-json")
                started.append(await start("lab.slowed", "20", *flags))
            for worker in started:
                await worker.event(lambda line: bool(line.get("ready")))
            config = ("--config", str(hand_out / "edge" / "alice" / "edge.toml"))
            own = ("--draft", "none", "--tokenizer", str(tiny), "--api-port", "0", "--ready-json")
            started.append(await start("edge_node", "serve", *config, *own))
            port = (await started[-1].event(lambda line: "port" in line))["port"]
            await until_ready("alice", f"http://127.0.0.1:{port}")
            yield started[:2], f"http://127.0.0.1:{port}"
        finally:
            for process in started:
                process.resume()
                process.send_signal(signal.SIGTERM)
            for process in started:
                await ended(process)


def longest_silence(answer: StreamedAnswer) -> float:
    moments = [answer.began, *answer.times, answer.ended]
    return max(later - earlier for earlier, later in pairwise(moments))


async def test_no_text_waits_for_a_worker_that_hangs_beside_a_healthy_one(tmp_path: Path, tiny: Path) -> None:
    bodies = [
        {
            "prompt": f"text {number}",
            "seed": number,
            "max_tokens": 100,
            "temperature": 0.8,
            "ignore_eos": True,
        }
        for number in range(TEXTS)
    ]
    async with two_workers(tmp_path, tiny) as (workers, url), unbounded() as http:
        own = [answer.text for answer in await asyncio.gather(*(ask(http, url, body) for body in bodies))]
        over = asyncio.Event()
        found: list[StreamedAnswer] = []

        async def user(number: int) -> None:
            while not over.is_set():
                answer = await ask(http, url, bodies[number])
                found.append(answer)
                assert (answer.error, answer.text) == ("", own[number])

        async with asyncio.TaskGroup() as users:
            for number in range(TEXTS):
                users.create_task(user(number))
            await asyncio.sleep(1.0)
            workers[0].pause()
            await asyncio.sleep(HANGS)
            workers[0].resume()
            await asyncio.sleep(3.0)
            over.set()
        silences = sorted(map(longest_silence, found))
        assert len(found) > 2 * TEXTS
        assert silences[-1] <= SILENCE, silences
