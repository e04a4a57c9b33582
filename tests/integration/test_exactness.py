"""The default model and draft behind a real broker: the text is what the target alone writes, whatever happens."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import torch

from broker.launcher import PrivateBroker
from edge_node.generation import Generation, GenerationRequest
from edge_node.settings import EdgeSettings
from flexspec_mq.codec import Codec
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
from tests.daemons import until
from tests.integration.processes import (
    PATIENCE,
    edge_of,
    events_of,
    start_worker,
    status,
)
from tests.models.tiny_checkpoints import save_base

CODEC = Codec()

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


class Pool:
    """Workers that have the default model and its draft; tests may kill them and say how many they need."""

    def __init__(self, broker: PrivateBroker) -> None:
        self.broker = broker
        self._workers: dict[str, Process] = {}
        self._started = 0

    async def at_least(self, number: int) -> list[str]:
        """Names of the workers that run, at least so many."""
        self._workers = {name: worker for name, worker in self._workers.items() if worker.runs}
        while len(self._workers) < number:
            self._started += 1
            name = f"w{self._started}"
            drafts = ("--draft", "default", "--draft-rows", "all")
            self._workers[name] = await start_worker(self.broker, name, "--lease", "6", "--verbose", *drafts)
        for name in self._workers:
            await status(self.broker, name, lambda found: found.state == "online")
        return list(self._workers)

    def __getitem__(self, name: str) -> Process:
        return self._workers[name]

    async def close(self) -> None:
        for worker in self._workers.values():
            await worker.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(module_mosquitto: PrivateBroker) -> AsyncIterator[Pool]:
    workers = Pool(module_mosquitto)
    yield workers
    await workers.close()


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


async def begun(generation: Generation, tokens: int) -> asyncio.Task[tuple[int, ...]]:
    """Task that reads a text to its end, returned once at least so many tokens have come."""
    reading = asyncio.create_task(read(generation))
    await until(lambda: len(generation.machine.committed) >= tokens, PATIENCE)
    return reading


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


@pytest.mark.parametrize("params", [GREEDY, WARM, Sampling(1.2, seed=7, min_p=0.05)])
async def test_it_is_the_targets_text_whoever_drafts(pool: Pool, draft: DraftModel, params: Sampling) -> None:
    (name, *_) = await pool.at_least(1)
    assert (await status(pool.broker, name, lambda _: True)).draft
    prompt = prompt_of(draft, SEA)
    async with edge_of(pool.broker, "edge", draft.drafter, draft.loaded) as node:
        asked = {who: node.generate(request(prompt, params, 28, plan)) for who, plan in PLANS.items()}
        other = node.generate(request(prompt_of(draft, SKY), Sampling(0.8, 0, 1.0, 1), 24))
        texts = await asyncio.gather(*map(read, (*asked.values(), other)))
    for generation, tokens in zip((*asked.values(), other), texts, strict=True):
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
    pool: Pool, draft: DraftModel
) -> None:
    assert (
        draft.engine == "ONNX Runtime, mixed weights, 16,384 token ids"
    )  # here, and in all tests of this file
    await pool.at_least(1)
    folder = str(draft.loaded.source)
    finishes: list[dict[str, Any]] = []
    for drafts in (("--draft", folder), ("--draft", "none", "--tokenizer", folder, "--draft-length", "0")):
        asked = await Process.start(
            "edge",
            (
                *(sys.executable, "-c", WITHOUT_TORCH, "ask", SEA, *drafts, "--no-lookup", "--events"),
                *("--broker", f"{pool.broker.host}:{pool.broker.port}", "--max-tokens", "28"),
                *("--temperature", str(WARM.temperature), "--seed", str(WARM.seed)),
            ),
        )
        finishes.append((await events_of(asked))[-1])
    drafted, undrafted = finishes
    expected = alone(prompt_of(draft, SEA), WARM, 28, draft.loaded.eos)
    assert tuple(drafted["tokens"]) == tuple(undrafted["tokens"]) == expected
    assert drafted["stats"]["accepted"] > 0 == undrafted["stats"]["accepted"]


async def test_a_target_in_few_bits_goes_on_at_another_worker(
    pool: Pool, draft: DraftModel, tmp_path: Path
) -> None:
    """Drafts and a worker that is killed change no token of what it streams."""
    weights = "int4"  # each kind of them alone: tests/cloud_worker/test_engine.py
    target = ("--target", str(save_base(tmp_path / "target", 6)))
    flags = (*target, "--version", weights, "--weights", weights, "--lease", "6", "--draft", "none")
    workers = {name: await start_worker(pool.broker, name, *flags) for name in ("few-1", "few-2")}
    for name in workers:
        await status(pool.broker, name, lambda found: found.weights == weights and found.exactness == "exact")
    prompt, texts = prompt_of(draft, SKY), []
    async with edge_of(pool.broker, "edge", draft.drafter, draft.loaded) as node:
        for plan in (replace(PLAIN, draft_length=0), PLAIN):
            generation = node.generate(replace(request(prompt, WARM, 40, plan), version=weights))
            reading = await begun(generation, 8)
            if plan == PLAIN:
                await workers[generation.machine.worker or ""].kill()
            texts.append(await reading)
    assert generation.machine.counters.reopens >= 1
    assert texts[0] == texts[1]
    for worker in workers.values():
        await worker.kill()


async def test_a_broker_and_a_worker_that_are_killed_in_mid_answer(pool: Pool, draft: DraftModel) -> None:
    names = await pool.at_least(2)
    async with edge_of(pool.broker, "edge", draft.drafter, draft.loaded) as node:
        generation = node.generate(request(prompt_of(draft, SKY), WARM, 40))
        reading = await begun(generation, 8)
        pool.broker.kill()
        assert not reading.done()
        await asyncio.to_thread(pool.broker.start)
        await until(lambda: len(generation.machine.committed) >= 20, PATIENCE)
        holder = generation.machine.worker
        assert holder in names
        pool[holder].send_signal(signal.SIGKILL)
        assert not reading.done()
        check(generation, await reading, draft)
        assert generation.machine.counters.reopens >= 1
    assert (await status(pool.broker, holder, lambda found: found.state == "gone")).worker == holder
