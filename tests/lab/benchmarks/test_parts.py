"""Parts of benchmarks: what agents are asked with, replicas that are wanted, streams, and the client of all."""

import asyncio
import json

import pytest

from broker.launcher import PrivateBroker
from edge_node.api.openai.requests import chat_request
from flexspec_mq.models.text import Turn
from lab.bench.client import ask, ask_all, unbounded
from lab.bench.figures import Sample
from lab.bench.measuring import Answered
from lab.bench.options import build_parser
from lab.bench.strategies import STREAMING
from lab.benchmarks.exact.texts import Asked
from lab.benchmarks.fleet import wanted
from lab.benchmarks.serving import DEFAULT, ratio
from lab.benchmarks.tools import CALLS, JSON, workload
from lab.simulator.world import EOS
from tests.edge_node.api.served import expected, served, shown

OPTIONS = build_parser().parse_args(["--tokens", "99"])
GOOD = json.dumps({"name": "lamp", "domain": ["light"]})


def answered(question: int, text: str) -> Answered:
    return Answered([Sample(question, STREAMING, text, 1.0, None, 9, None, None)], [])


def test_an_agent_goes_on_from_its_own_calls_that_were_not_cut() -> None:
    asked = workload(CALLS, [STREAMING], OPTIONS)
    assert len(asked.questions) == 60
    for number, (tools, tool) in enumerate(asked.wanted):
        assert tool in tools
        request = chat_request(asked.body(asked.questions[number].text, number + 1))
        assert request.spec.tools is not None
        assert request.spec.tools.required
        assert [each.name for each in request.spec.tools.tools] == [each.name for each in tools]
        turns = [turn for turn in request.spec.prompt if isinstance(turn, Turn)]
        mine = [at for at in (number - 2, number - 1) if at >= 0 and asked.wanted[at][0] is tools and at % 9]
        assert [call.name for turn in turns for call in turn.calls] == [f"f{at}" for at in mine]
        asked.answered.append(answered(number, f'f{number}{{"a": 1' + ("}" if number % 9 else "")))


@pytest.mark.parametrize(("kind", "text"), [(CALLS, f"HassTurnOn{GOOD}"), (JSON, GOOD)])
def test_answers_that_are_cut_or_free_are_told_apart(kind: str, text: str) -> None:
    asked = workload(kind, [STREAMING], OPTIONS)
    place = next(at for at, (_, tool) in enumerate(asked.wanted) if tool.name == "HassTurnOn")
    texts = (text, text[:-1], "Turning on the lamp is a metaphor.", text)
    assert asked.valid([answered(place, each).samples[0] for each in texts]) == 0.5


def test_answers_by_schemas_are_asked_for_without_tools() -> None:
    asked = workload(JSON, [STREAMING], OPTIONS)
    request = chat_request(asked.body(asked.questions[3].text, 4))
    assert request.spec.tools is None
    assert request.spec.grammar is not None


@pytest.mark.parametrize(
    ("kind", "value", "threshold", "replicas", "result"),
    [
        ("AverageValue", 0.0, 4.0, 1, 0),
        ("AverageValue", 4.3, 4.0, 1, 1),  # within the tolerance
        ("AverageValue", 4.5, 4.0, 1, 2),
        ("AverageValue", 9.0, 4.0, 2, 3),
        ("AverageValue", 8.1, 4.0, 2, 2),
        ("AverageValue", 4.0, 4.0, 3, 1),
        ("Value", 2.5, 1.0, 1, 3),
        ("Value", 2.5, 1.0, 2, 5),
        ("Value", 0.95, 1.0, 3, 3),
        ("Value", 0.3, 1.0, 3, 1),
    ],
)
def test_replicas_that_a_metric_wants(
    kind: str, value: float, threshold: float, replicas: int, result: int
) -> None:
    assert wanted(kind, value, threshold, replicas) == result


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
