"""The command `ask`: its input, its output event by event, and how it ends."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from edge_node.cli import texts
from edge_node.cli.main import build_parser
from edge_node.cli.texts import events
from edge_node.energy import EnergyMeter
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from edge_node.text.generator import CompletionGenerator
from edge_node.text.spec import TextSpec
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.errors import FlexSpecError, TimeIsOver, UsageError, WorkerError
from flexspec_mq.models.text import Turn, read_prompts
from lab.simulator.world import EOS, FINGERPRINT
from lab.testbed.memory_broker import MemoryBroker
from schemas.messages import PartialSampling
from tests.daemons import FakeEngine, link_to, worker_at
from tests.edge_node.api.served import expected, ids_of, shown, speech

NOTHING: Any = cast("Any", None)


class FakeEvents:
    """Answers each prompt with its own words, or with an error.

    Args:
        fails: errors by prompt.
        stats: figures of each text.
    """

    def __init__(self, fails: dict[str, FlexSpecError] | None = None, **stats: object) -> None:
        self._fails = fails or {}
        self._stats = {"energy_j": None, "limits": [], **stats}

    async def __call__(self, _by: object, spec: TextSpec, *_tell: object) -> AsyncGenerator[dict[str, Any]]:
        turn = spec.prompt[0]
        assert isinstance(turn, Turn)
        said = turn.content
        yield {"type": "start"}
        finish = {"type": "finish", "stats": self._stats}
        if said in self._fails:
            error = self._fails[said]
            why = {"error": error.message, "hint": error.hint}
            yield {**finish, "reason": "failed", "tokens": [], "text": "", **why}
            raise error
        yield {"type": "text", "pieces": [(said.upper(), "device")]}
        yield {**finish, "reason": "length", "tokens": [1, 2, 3], "text": said.upper()}


async def run(monkeypatch: pytest.MonkeyPatch, events: FakeEvents, *arguments: str, **options: Any) -> None:
    monkeypatch.setattr(texts, "events", events)
    args = build_parser().parse_args(arguments)
    await texts.ask(NOTHING, TextSpec(prompt=texts.prompt_of(args.prompt), **options), as_json=args.events)


def test_lines_of_prompts_end_where_json_lines_end_and_one_that_json_cannot_read_is_named(
    tmp_path: Path,
) -> None:
    text = '\ufeff{"prompt": "a\u2028b"}\r\n{"prompt": "c"}\n'
    (tmp_path / "prompts").write_text(text, encoding="utf-8", newline="")
    assert read_prompts(tmp_path / "prompts") == [("1", "a\u2028b"), ("2", "c")]
    (tmp_path / "prompts").write_text('{"prompt": "a"}\n' + "[" * 200_000)
    with pytest.raises(UsageError, match="line 2 is no JSON object"):
        read_prompts(tmp_path / "prompts")


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "cut at the limit of 3 tokens; --max-tokens N sets another\n"), ({"ignore_eos": True}, "")],
)
async def test_an_answer_is_its_text_and_says_where_it_was_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: dict[str, Any], said: str
) -> None:
    await run(monkeypatch, FakeEvents(), "ask", "hello", **options)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("HELLO\n", said)


async def test_a_text_that_failed_says_what_it_took_and_which_limit_it_broke(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = {"name": "energy_budget", "limit": 0.3, "unit": "J per token", "state": "exceeded", "value": 2.0}
    spent: dict[str, Any] = {"energy_j": 2.0, "energy_j_per_100": None, "energy_source": "measured: battery"}
    events = FakeEvents({"hello": WorkerError("no worker serves base")}, **spent, limits=[limit])
    with pytest.raises(WorkerError):
        await run(monkeypatch, events, "ask", "hello")
    said = "2.0 J (measured: battery)\nenergy budget of 0.3 J per token is exceeded: 2 so far\n"
    assert capsys.readouterr().err == said


async def test_for_programs_an_answer_is_its_events(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await run(monkeypatch, FakeEvents(), "ask", "hello", "--events")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["type"] for event in events] == ["start", "text", "finish"]


def test_whoever_scripts_gets_the_same_text_each_time() -> None:
    args = build_parser().parse_args(["ask", "x"])
    assert (args.temperature, args.top_k, args.top_p, args.min_p, args.max_tokens) == (0.0, 0, 1.0, 0.0, 256)


HELLO = (Turn("user", "hello"),)
WHOLE: dict[str, Any] = {"sampling": PartialSampling(0.0), "seed": 4, "limit": 60, "ignore_eos": True}


@asynccontextmanager
async def generator(
    broker: MemoryBroker, energy: EnergyMeter | None = None
) -> AsyncIterator[CompletionGenerator]:
    """An edge that drafts by lookup alone."""
    drafter = PromptLookupDrafter(max_context=500)
    node = EdgeNode(EdgeSettings(edge="edge"), drafter, FINGERPRINT, (EOS,), energy=energy)
    async with node.running(broker.link, link_to("e-edge")):
        policy = partial(FixedPolicy, Plan(8, 1, 1))
        with closing(CompletionGenerator(node, speech(), policy)) as by:
            yield by
        assert not node.sessions


async def written(
    by: CompletionGenerator, prompt: Any = HELLO, found: list[dict[str, Any]] | None = None, **options: Any
) -> list[dict[str, Any]]:
    """All events of a text, also in `found`, where they stay if it fails."""
    found = [] if found is None else found
    async for one in events(by, TextSpec(prompt=prompt, **options), found.append):
        found.append(one)
    return found


async def test_events_of_a_text() -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1"), generator(broker) as by:
        start, *middle, finish = await written(by, **WHOLE)
    tokens, _ = expected(ids_of("hello"), 4, 60, ignore_eos=True)
    assert start == {"type": "start", "prompt_tokens": len(ids_of("hello")), "seed": 4}
    assert {one["type"] for one in middle} == {"text", "stats"}
    text = "".join(piece for one in middle if one["type"] == "text" for piece, _ in one["pieces"])
    assert text == finish["text"] == shown(tokens)
    assert (finish["reason"], tuple(finish["tokens"]), finish["stats"]["tokens"]) == ("length", tokens, 60)
    assert finish["stats"]["looked_up"] == finish["stats"]["accepted"]
    assert (middle[-3]["worker"], finish["stats"]["version"]) == ("w1", "base")


async def test_a_predicted_text_takes_fewer_rounds_and_is_the_same() -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1"), generator(broker) as by:
        plain = (await written(by, **WHOLE))[-1]
        predicted = (await written(by, **WHOLE, prediction=plain["text"]))[-1]
        wrong = (await written(by, **WHOLE, prediction="not at all " * 100_000))[-1]
    assert plain["tokens"] == predicted["tokens"] == wrong["tokens"]
    assert predicted["stats"]["rounds"] < plain["stats"]["rounds"]
    assert predicted["stats"]["looked_up"] > plain["stats"]["looked_up"]


async def test_a_text_that_fails_finishes_with_what_made_it_fail() -> None:
    broker = MemoryBroker()
    found: list[dict[str, Any]] = []
    async with generator(broker) as by:
        with pytest.raises(WorkerError, match="no worker serves base"):
            await written(by, found=found, **WHOLE, wait=5.0)
    assert [one["type"] for one in found] == ["start", "waiting", "finish"]
    assert found[1]["for"] == "a worker of base (versions online: none)"
    assert 0 < found[1]["seconds"] <= 4.0, "it takes a second to be sure"
    assert (found[2]["reason"], found[2]["error"]) == ("failed", "no worker serves base")


async def test_a_text_whose_time_is_over_says_so() -> None:
    broker, engine = MemoryBroker(), FakeEngine()
    engine.gate.clear()
    found: list[dict[str, Any]] = []
    async with worker_at(broker.link, "w1", engine), generator(broker) as by:
        with pytest.raises(TimeIsOver, match=r"not complete after 0\.3 s"):
            await written(by, found=found, **WHOLE, timeout=0.3)
        engine.gate.set()
    assert found[-1]["reason"] == "deadline"


@pytest.mark.parametrize("prompt", ["", (), (Turn("user", " "),), (10**6,), "x" * 60_000])
async def test_prompts_that_cannot_be_taken(prompt: Any) -> None:
    found: list[dict[str, Any]] = []
    async with generator(MemoryBroker()) as by:
        with pytest.raises(UsageError):
            await written(by, prompt, found, **WHOLE)
    assert not found
