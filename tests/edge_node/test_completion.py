"""One path from a request to a text: what `ask` and `batch` show of it, event by event."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any

import pytest

from edge_node.cli.texts import events
from edge_node.completion.generator import CompletionGenerator
from edge_node.completion.options import CompletionOptions
from edge_node.energy import EnergyMeter
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.errors import TimeIsOver, UsageError, WorkerError
from flexspec_mq.models.text import Turn
from lab.simulator.world import EOS, FINGERPRINT
from lab.testbed.memory_broker import MemoryBroker
from tests.daemons import FakeEngine, link_to, worker_at
from tests.edge_node.api.served import expected, ids_of, shown, speech

HELLO = (Turn("user", "hello"),)
WHOLE: dict[str, Any] = {"temperature": 0.0, "seed": 4, "limit": 60, "ignore_eos": True}


@asynccontextmanager
async def generator(
    broker: MemoryBroker, energy: EnergyMeter | None = None
) -> AsyncIterator[CompletionGenerator]:
    """An edge that drafts by lookup alone."""
    drafter = PromptLookupDrafter(max_context=500)
    node = EdgeNode(EdgeSettings(edge="edge"), drafter, FINGERPRINT, (EOS,), energy=energy)
    async with node.running(broker.link, link_to("e-edge")):
        policy = partial(FixedPolicy, Plan(8, 1, 1))
        with closing(CompletionGenerator(node, speech(), policy, lambda: 5.0)) as by:
            yield by
        assert not node.sessions


async def written(
    by: CompletionGenerator, prompt: Any = HELLO, found: list[dict[str, Any]] | None = None, **options: Any
) -> list[dict[str, Any]]:
    """All events of a text, also in `found`, where they stay if it fails."""
    found = [] if found is None else found
    async for one in events(by, prompt, CompletionOptions(**options), found.append):
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
            await written(by, found=found, **WHOLE, wait=0.5)
    assert [one["type"] for one in found] == ["start", "no_worker", "finish"]
    assert found[1] == {"type": "no_worker", "version": "base", "online": [], "seconds": 0.5}
    assert (found[2]["reason"], found[2]["error"]) == ("failed", "no worker serves base")
    assert found[2]["stats"]["seconds"] < 2.5


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
