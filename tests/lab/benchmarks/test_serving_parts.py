"""The client of benchmarks, which notices what goes wrong, and how streams are compared."""

import asyncio

from broker.launcher import PrivateBroker
from lab.bench.client import ask, ask_all, unbounded
from lab.benchmarks.exact.texts import Asked
from lab.benchmarks.serving import DEFAULT, STREAMING, ratio
from lab.simulator.world import EOS
from tests.edge_node.api.served import expected, served, shown

PROMPT = (1, 2, 3)


def asked(seed: int) -> Asked:
    return Asked(PROMPT, 12, 0.0, 1.0, seed)


def test_streams_are_compared_turn_by_turn() -> None:
    assert ratio({DEFAULT: [10.0, 40.0, 9.0], STREAMING: [20.0, 40.0, 10.0]}) == 0.9


async def test_the_client_reads_what_the_api_writes(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api, unbounded() as http:
        asks = [asked(seed) for seed in range(5)]
        answers = await ask_all(http, [api.url], [one.body() for one in asks])
        for one, found in zip(asks, answers, strict=True):
            tokens, _ = expected(PROMPT, one.seed, one.limit)
            assert not found.error
            assert found.text == shown([token for token in tokens if token != EOS])
            assert found.usage["completion_tokens"] == len(tokens)
            assert found.began <= found.times[0] <= found.times[-1] <= found.ended
        chat = await ask(http, api.url, {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5})
        assert chat.text
        assert not chat.error


async def test_what_goes_wrong_is_in_the_answer(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api, unbounded() as http:
        found = await ask(http, api.url, {**asked(1).body(), "model": "no-such"})
        assert found.error.startswith("404")
        long = asyncio.create_task(
            ask(http, api.url, {**asked(2).body(), "max_tokens": 20_000, "ignore_eos": True})
        )
        while not api.node.sessions:  # noqa: ASYNC110  another task
            await asyncio.sleep(0.01)
        api.run.cancel()  # the server ends streams that are open with an error
        found = await long
        await asyncio.wait([api.run])  # leaving cancels it again: its end in order would be cut off
        assert found.error
        assert "stopping" in found.error or "503" in found.error


async def test_nobody_there_is_an_error_too() -> None:
    async with unbounded() as http:
        found = await ask(http, "http://127.0.0.1:9", asked(1).body())
    assert "ConnectError" in found.error
