"""Texts with grammars, behind a real broker: the default target alone writes the same, whoever drafts."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from broker.launcher import PrivateBroker
from edge_node.generation import GenerationRequest
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.drafting.load import DraftModel
from flexspec_mq.drafting.load import load as load_draft
from flexspec_mq.errors import GrammarError, WorkerError
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.models.text import decode
from flexspec_mq.protocol.effects import Finish
from flexspec_mq.sampling.params import SamplingParams
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from schemas.messages import Open
from tests.integration.processes import CODEC, edge_of, start_worker, status
from tests.integration.test_exactness import PLANS, alone, prompt_of, read
from tests.transport.reading import linked

pytestmark = [pytest.mark.model, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

CALL = Grammar.from_json_schema({
    "type": "object",
    "properties": {
        "name": {"const": "light.turn_on"},
        "arguments": {
            "type": "object",
            "properties": {
                "entity_id": {"enum": ["light.kitchen", "light.bed_room", "light.hall"]},
                "brightness": {"type": "integer", "minimum": 0, "maximum": 255},
                "note": {"type": "string", "maxLength": 20},
            },
            "required": ["entity_id", "brightness", "note"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
})  # fmt: skip
ASKED = "Turn on the kitchen light at half brightness."
PARAMS = (SamplingParams(), SamplingParams(0.9, 40, 0.95, 11))


@pytest.fixture(scope="module")
def draft() -> DraftModel:
    return load_draft(EdgeSettings(edge="test"), lambda _: None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers(module_mosquitto: PrivateBroker) -> AsyncIterator[PrivateBroker]:
    worker = await start_worker(module_mosquitto, "w1", "--draft", "default", "--draft-rows", "all")
    told = await status(module_mosquitto, "w1", lambda found: found.state == "online")
    assert told.grammar == engine_name() != ""
    yield module_mosquitto
    await worker.kill()


@pytest.mark.parametrize("params", PARAMS)
async def test_the_text_is_what_the_target_alone_writes_under_the_mask(
    workers: PrivateBroker, draft: DraftModel, params: SamplingParams
) -> None:
    prompt, limit = prompt_of(draft, ASKED), 80
    grammars = draft.loaded.grammars()
    assert grammars is not None
    compiled = grammars.compile(CALL)
    wish = GenerationRequest(
        prompt=prompt, sampling=params, limit=limit, policy=FixedPolicy(Plan(4, 1, 1)), grammar=CALL,
        engine=engine_name(), compiled=compiled,
    )  # fmt: skip
    async with edge_of(workers, "edge", draft.drafter, draft.loaded) as node:
        asked = {who: node.generate(replace(wish, policy=FixedPolicy(plan))) for who, plan in PLANS.items()}
        asked["a device that reads no grammars"] = node.generate(replace(wish, compiled=None))
        texts = await asyncio.gather(*map(read, asked.values()))
    expected = alone(prompt, params, limit, draft.loaded.eos, CALL.source)
    assert dict(zip(asked, texts, strict=True)) == dict.fromkeys(asked, expected)
    assert max(each.machine.counters.forced for each in asked.values()) > 30
    assert asked["each token asked for"].machine.counters.rounds <= len(expected) - 30
    assert asked["device"].machine.counters.rounds < asked["each token asked for"].machine.counters.rounds
    json.loads(decode(draft.loaded.tokenizer, expected))


async def test_a_grammar_travels_once_and_a_wrong_one_is_told(
    workers: PrivateBroker, draft: DraftModel
) -> None:
    """Also by a device that reads none itself."""
    prompt = prompt_of(draft, ASKED)
    wish = GenerationRequest(
        prompt=prompt, sampling=SamplingParams(), limit=80, policy=FixedPolicy(Plan(4, 1, 1)), grammar=CALL,
        engine=engine_name(),
    )  # fmt: skip
    asks = (Subscription("f1/o/+/+"), Subscription("f1/d/+/+"))
    listens = LinkSettings(port=workers.port, client_id="hears", subscriptions=asks)
    async with edge_of(workers, "edge", draft.drafter, draft.loaded) as node, linked(listens) as link:
        first = node.generate(wish)
        text = await read(first)
        again = node.generate(replace(wish, prompt=(*prompt, *text, *prompt)))
        await read(again)
        assert (again.machine.counters.named, again.machine.counters.misses) == (1, 0)
        carried = dict[int, list[bytes]]()
        async for event in link.events():
            if isinstance(event, Inbound) and isinstance(opened := CODEC.decode(event.payload), Open):
                carried.setdefault(opened.session, []).append(opened.grammar)
                if opened.session == again.session:
                    break
        assert set(carried[first.session]) == {CALL.pack()}
        assert carried[again.session] == [b""]
        wrong = node.generate(replace(wish, grammar=Grammar.from_json_schema({"type": "strin"})))
        told = await anext(aiter(wrong))
        assert isinstance(told, Finish)
        assert isinstance(told.error, GrammarError)
        assert "strin" in told.error.message
        other = node.generate(replace(wish, engine="another 1", wait=3.0))
        busy = await anext(aiter(other))
        assert isinstance(busy, Finish)
        assert isinstance(busy.error, WorkerError)
        assert other.machine.counters.busy > 0
