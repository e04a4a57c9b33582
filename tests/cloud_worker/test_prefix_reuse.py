"""Chats over a real broker with a real engine: a later turn sends and reads only what is new, and says the same."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.launcher import PrivateBroker
from cloud_worker.engine.engine import ModelEngine, build_engine
from cloud_worker.engine.target import Target
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from edge_node.generation import Generation, GenerationRequest
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.errors import UsageError
from flexspec_mq.models.invariance.proof import Proof
from flexspec_mq.models.kv import GRAIN
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.protocol.effects import FinishReason
from flexspec_mq.sampling.choose import choose
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.messages import Sampling
from schemas.status import TokenizerStatus
from tests.cloud_worker.test_engine import model_of
from tests.daemons import PATIENCE, until
from tests.keys.deployments_of_keys import KeyedDeployment
from tests.models.tiny_checkpoints import byte_level_tokenizer
from tests.models.tiny_packed import VOCABULARY

FINGERPRINT = bytes(range(16))
LIMIT = 12


def engine_of(worker: str, generation: Mapping[str, Any] | None = None, **options: Any) -> ModelEngine:
    """The real one, on a tiny model that was not loaded from anywhere."""
    loaded = SimpleNamespace(
        grammars=lambda: None,
        fingerprint=FINGERPRINT, max_context=1024, vocab_size=VOCABULARY, eos=(), name="tiny",
        generation=generation or {}, tokenizer=byte_level_tokenizer(),
        tokenizer_status=TokenizerStatus(tokens=1, vocabulary="0" * 32),
    )  # fmt: skip
    target = Target(
        cast("Any", loaded), model_of(), Proof(True, 1, 0, 0.0, 0.0), "transformers",
        cast("Any", SimpleNamespace(kind="native")),
    )  # fmt: skip
    return build_engine(target, WorkerSettings(worker=worker, version=worker[:3]), **options)


@asynccontextmanager
async def serving(
    broker: PrivateBroker, worker: str, *, keys: Path | None = None, **options: Any
) -> AsyncIterator[CloudWorker]:
    """A worker of a version of its own, so that tests on one broker do not meet."""
    link = LinkSettings(host=broker.host, port=broker.port, client_id=f"w-{worker}")
    settings = WorkerSettings(worker=worker, version=worker[:3], drain=0.0, keys=keys)
    daemon = CloudWorker(settings, engine_of(worker, **options))
    run = asyncio.create_task(daemon.run(mqtt_link, link))
    try:
        await asyncio.wait_for(daemon.ready.wait(), PATIENCE)
        yield daemon
    finally:
        daemon.stop()
        await asyncio.wait_for(run, PATIENCE)


@asynccontextmanager
async def edge(
    broker: PrivateBroker, version: str, *, reuse: bool = True, keys: Path | None = None, deaf: bool = False
) -> AsyncIterator[EdgeNode]:
    """An edge node; a deaf one hears of no worker that goes, as behind a broker that shows no statuses."""
    name = f"edge-{version}"
    settings = EdgeSettings(edge=name, version=version, keys=keys, reuse=reuse)
    node = EdgeNode(settings, None, FINGERPRINT, ())
    if deaf:
        node.directory.take = lambda *_, **_more: None  # type: ignore[method-assign]
    async with node.running(
        mqtt_link, LinkSettings(host=broker.host, port=broker.port, client_id=f"e-{name}")
    ):
        yield node


def alone(prompt: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """Text that the target writes, one token at a time, from an empty cache."""
    kv, tokens = model_of().new_kv(), list(prompt)
    model_input = ModelInput(kv, prompt)
    for _ in range(LIMIT):
        row = to_numpy(model_of().forward([model_input]))[0]
        tokens.append(choose(row, Sampling(0.8, 0, 1.0, seed), len(tokens)))
        model_input = ModelInput(kv, tokens[-1:])
    return tuple(tokens[len(prompt) :])


async def turn(node: EdgeNode, prompt: tuple[int, ...], seed: int, qos: int = 1) -> Generation:
    """Write one text, and compare it."""
    generation = node.generate(
        GenerationRequest(
            prompt=prompt,
            sampling=Sampling(0.8, 0, 1.0, seed),
            limit=LIMIT,
            policy=FixedPolicy(Plan(0, 1, qos)),
            timeout=PATIENCE,
        )
    )
    async for _ in generation:
        pass
    assert generation.machine.finished is FinishReason.LENGTH
    assert generation.machine.committed == alone(prompt, seed)
    return generation


START = tuple(random.Random(1).choices(range(VOCABULARY), k=200))


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_later_turn_sends_and_reads_only_what_is_new(
    mosquitto: PrivateBroker, monkeypatch: pytest.MonkeyPatch, qos: int
) -> None:
    fed: list[int] = []
    step = ModelEngine.step

    def counted(self: ModelEngine) -> Any:
        done = step(self)
        fed.append(done.fed)
        return done

    monkeypatch.setattr(ModelEngine, "step", counted)
    prompt = START
    up = []
    async with serving(mosquitto, f"pa{qos}") as daemon, edge(mosquitto, f"pa{qos}") as node:
        for number in range(4):
            before = sum(fed)
            generation = await turn(node, prompt, number, qos)
            counters = generation.machine.counters
            assert (counters.opens, counters.named, counters.misses) == (1, min(number, 1), 0)
            # The last token of the turn before was decided and never read, and one is new.
            assert sum(fed) - before == (len(prompt) if not number else 2) + LIMIT - 1
            up.append(generation.bytes_up)
            prompt = (*prompt, *generation.machine.committed, 99)
        assert daemon.machine.counters.inherited == 3
        assert all(later + 120 < up[0] for later in up[1:]), up  # payload bytes; the prompts get longer


async def test_under_keys_too(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    """An open to a worker's own topic names its version in its introduction."""
    keys, prompt = KeyedDeployment(tmp_path), START
    file = keys.worker_file("pk0")
    async with edge(mosquitto, "pk0", keys=keys.edge_file("edge-pk0"), deaf=True) as node:
        for number, named in enumerate((0, 1)):
            async with serving(mosquitto, "pk0", keys=file) as daemon:
                first = await turn(node, prompt, 2 * number)
                assert (first.machine.counters.named, first.machine.counters.misses) == (named, named)
                prompt = (*prompt, *first.machine.committed, 99)
                again = await turn(node, prompt, 2 * number + 1)
                assert (again.machine.counters.named, again.machine.counters.misses) == (1, 0)
                assert daemon.machine.counters.inherited == 1
                prompt = (*prompt, *again.machine.committed, 99)
                assert not node.refused
                assert not daemon.refused


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_worker_that_is_gone_costs_nothing_and_a_restarted_one_asks_unless_that_is_heard(
    mosquitto: PrivateBroker, deaf: bool
) -> None:
    async with edge(mosquitto, "pd0", deaf=deaf) as node:
        async with serving(mosquitto, "pd0"):
            first = await turn(node, START, 1)
        prompt = (*START, *first.machine.committed, 1)
        async with serving(mosquitto, "pd0x"):  # another worker of the version; the first one is gone
            second = await turn(node, prompt, 2)
            assert second.machine.counters.opens == 1 + deaf
        async with serving(mosquitto, "pd0x") as again:  # the same name, and nothing in memory
            third = await turn(node, (*prompt, *second.machine.committed, 1), 3)
            assert third.machine.counters.misses == deaf
            assert again.machine.counters.need_prefix == deaf


async def test_an_edge_can_do_without(mosquitto: PrivateBroker) -> None:
    async with serving(mosquitto, "pe0"), edge(mosquitto, "pe0", reuse=False) as node:
        first = await turn(node, START, 1)
        second = await turn(node, (*START, *first.machine.committed, 1), 2)
        assert second.machine.counters.named == 0


async def test_a_short_memory_evicts_and_the_texts_stay_the_same(mosquitto: PrivateBroker) -> None:
    """Six chats at a worker whose memory holds about two: caches come and go, busy answers are obeyed."""
    room = 8 * GRAIN * model_of().new_kv().token_bytes
    async with serving(mosquitto, "pf0", kv_bytes=room) as daemon, edge(mosquitto, "pf0") as node:

        async def chat(number: int) -> None:
            prompt = (number, *START[:150])
            for seed in range(3):
                generation = await turn(node, prompt, seed)
                prompt = (*prompt, *generation.machine.committed, 99)

        await asyncio.gather(*(chat(number) for number in range(6)))
        caches = daemon.engine.scheduler.caches  # type: ignore[attr-defined]
        assert caches.dropped + caches.evicted > 0
        assert caches.nbytes <= room
        assert daemon.machine.counters.busy > 0
        assert daemon.machine.counters.failed == 0
        await until(lambda: len(daemon.machine) == 0)


def test_a_memory_that_holds_hardly_anything_is_refused() -> None:
    with pytest.raises(UsageError, match="hold 64 tokens"):
        engine_of("w", kv_bytes=GRAIN * model_of().new_kv().token_bytes)
