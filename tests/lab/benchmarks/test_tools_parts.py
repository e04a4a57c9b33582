"""The parts of `lab.benchmarks.tools`: what agents are asked with, and which answers are valid."""

import json

import pytest

from edge_node.api.requests import chat_request
from flexspec_mq.models.text import Turn
from lab.bench.figures import Sample
from lab.bench.measuring import Answered
from lab.bench.options import build_parser
from lab.bench.strategies import STREAMING
from lab.benchmarks.tools import CALLS, JSON, workload

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
