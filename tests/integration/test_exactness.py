"""The default model and draft behind a real broker: the text is what the target alone writes."""

import asyncio
import sys
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import torch

from broker.launcher import PrivateBroker
from edge_node.generation import Generation, GenerationRequest
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.drafting.load import DraftModel
from flexspec_mq.drafting.load import load as load_draft
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.text import Turn, encode_turns
from flexspec_mq.protocol.effects import Finish
from lab.benchmarks.exact.dice import Dice
from lab.benchmarks.exact.reference import Reference, Text
from lab.testbed.process import Process
from schemas.messages import Sampling
from tests.integration.processes import PATIENCE, edge_of, events_of, start_worker, status

pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
    # Its new name is not known to all versions of transformers that we support.
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
]

SKY = "Why is the sky blue? Answer in two sentences."
SEA = "List three facts about the sea."
GREEDY = Sampling()
WARM = Sampling(0.8, 0, 1.0, 20_240_229)
PLAIN = Plan(draft_length=4, in_flight=1, qos=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(module_mosquitto: PrivateBroker) -> AsyncIterator[PrivateBroker]:
    """A broker with a worker that has the default model and its draft."""
    drafts = ("--draft", "default", "--draft-rows", "all")
    worker = await start_worker(module_mosquitto, "w1", "--lease", "6", *drafts)
    assert (await status(module_mosquitto, "w1", lambda found: found.state == "online")).draft
    yield module_mosquitto
    await worker.kill()


@pytest.fixture(scope="module")
def draft() -> DraftModel:
    return load_draft(EdgeSettings(edge="test"), lambda _: None)


def prompt_of(draft: DraftModel, text: str) -> tuple[int, ...]:
    return encode_turns(draft.loaded.tokenizer, [Turn("user", text)], max_context=draft.loaded.max_context)


def request(prompt: tuple[int, ...], params: Sampling, limit: int, plan: Plan = PLAIN) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, sampling=params, limit=limit, policy=FixedPolicy(plan))


@lru_cache
def reference() -> Reference:
    torch.set_num_threads(1)
    return Reference(str(default_model_path()), "bfloat16")


@lru_cache
def alone(
    prompt: tuple[int, ...], params: Sampling, limit: int, eos: tuple[int, ...], grammar: str = ""
) -> tuple[int, ...]:
    """Reference text: the target alone, by transformers' own code, llguidance's, and a second writing of sampling."""
    dice = Dice(*msgspec.structs.astuple(params))
    return tuple(reference().write(Text(0, prompt, dice, limit, eos, grammar)).tokens)


async def read(generation: Generation) -> tuple[int, ...]:
    """All tokens."""
    async with asyncio.timeout(PATIENCE):
        async for event in generation:
            if isinstance(event, Finish):
                assert event.error is None
    return tuple(generation.machine.committed)


def check(generation: Generation, tokens: tuple[int, ...], draft: DraftModel) -> None:
    wish = generation.request
    assert tokens == alone(wish.prompt, wish.sampling, wish.limit, draft.loaded.eos)


PLANS = {
    "each token asked for": Plan(0, 1, 0),
    "device": Plan(4, 1, 1),
    "device, two in flight": Plan(4, 2, 1),
    "device, many in flight": Plan(8, 4, 0),
    "device, worker runs ahead": Plan(4, 1, 2, 16),
    "worker": Plan(0, 1, 1, 64, worker_draft=4),
    "both": Plan(2, 2, 1, 8, worker_draft=8),
}


async def test_it_is_the_targets_text_whoever_drafts(broker: PrivateBroker, draft: DraftModel) -> None:
    """Drawn texts by all plans in one batch, beside a greedy one and one with `min_p`."""
    prompt = prompt_of(draft, SEA)
    async with edge_of(broker, "edge", draft.drafter, draft.loaded) as node:
        asked = {who: node.generate(request(prompt, WARM, 28, plan)) for who, plan in PLANS.items()}
        sky = prompt_of(draft, SKY)
        others = [
            node.generate(request(sky, params, 24)) for params in (GREEDY, Sampling(1.2, seed=7, min_p=0.05))
        ]
        texts = await asyncio.gather(*map(read, (*asked.values(), *others)))
    for generation, tokens in zip((*asked.values(), *others), texts, strict=True):
        check(generation, tokens, draft)
    length = len(texts[0])
    assert asked["device"].machine.counters.accepted > 0
    assert asked["device"].machine.counters.rounds < length
    # A forward takes longer than verdicts wait for each other, so a token more than verdicts is one that was drafted.
    assert asked["worker"].machine.counters.drafted == 0
    assert asked["worker"].machine.counters.rounds < 0.8 * length


WITHOUT_TORCH = (
    "import sys\n"
    "absent = 'torch', 'transformers', 'safetensors', 'accelerate', 'gguf', 'onnx'\n"
    "sys.modules.update(dict.fromkeys(absent))\n"
    "from edge_node.__main__ import main\n"
    "sys.exit(main(sys.argv[1:]))"
)
"""A device where importing torch, transformers or what writes graphs is an error."""


async def test_the_command_of_a_device_without_torch_prints_the_targets_text(
    broker: PrivateBroker, draft: DraftModel
) -> None:
    # Here, and in all tests of this file.
    assert draft.engine == "ONNX Runtime, mixed weights, 16,384 token ids"
    folder = str(draft.loaded.source)
    finishes: list[dict[str, Any]] = []
    for drafts in (("--draft", folder), ("--draft", "none", "--tokenizer", folder, "--draft-length", "0")):
        asked = await Process.start(
            "edge",
            (
                *(sys.executable, "-c", WITHOUT_TORCH, "ask", SEA, *drafts, "--no-lookup", "--events"),
                *("--broker", f"{broker.host}:{broker.port}", "--max-tokens", "28"),
                *("--temperature", str(WARM.temperature), "--seed", str(WARM.seed)),
            ),
        )
        finishes.append((await events_of(asked))[-1])
    drafted, undrafted = finishes
    expected = alone(prompt_of(draft, SEA), WARM, 28, draft.loaded.eos)
    assert tuple(drafted["tokens"]) == tuple(undrafted["tokens"]) == expected
    assert drafted["stats"]["accepted"] > 0 == undrafted["stats"]["accepted"]
