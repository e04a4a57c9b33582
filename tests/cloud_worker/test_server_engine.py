"""Workers whose target runs in somebody else's server write what the target alone writes."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_worker.engine.load import load_engine
from cloud_worker.engine.servers.engine import ServerEngine
from cloud_worker.engine.servers.rule import chosen
from cloud_worker.engine.servers.server import Row
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import Plan
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.models.text import decode
from flexspec_mq.models.weights import weights_fingerprint
from flexspec_mq.sampling.choose import choose
from lab.benchmarks.exact.reference import Reference, Text
from lab.benchmarks.exact.sampling import Params
from lab.testbed.memory_broker import MemoryBroker
from schemas.messages import NOISE_VERSION, Identity, Sampling
from tests.cloud_worker import works
from tests.daemons import FakeDrafter, link_to, read, until, wanting
from tests.engine_server import EngineServer
from tests.packaging.test_imports import BLOCK

PROMPT = tuple(range(70, 160))
LIMIT = 32
EOS = (2,)
GREEDY, WARM = Sampling(), Sampling(0.7, 20, 1.0, 5)
COOL = Sampling(0.01, 20, 1.0, 5)
"""Sampling that chooses the likeliest token at half of the places, so that a stream is followed and left again."""
BOTH, HOT = Sampling(0.7, 10, 0.8, 7), Sampling(1.0, 0, 1.0, 8)
SHARE = Sampling(0.01, 0, 1.0, 9, min_p=0.2)
SCHEMA = Grammar.from_json_schema(
    {
        "type": "object",
        "properties": {"a": {"enum": ["red", "green"]}, "n": {"enum": [7, 42]}},
        "required": ["a", "n"],
    }
)
Drafter = Callable[[Sequence[int]], Sequence[int]]


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[EngineServer]:
    with EngineServer(tiny, name="tiny") as server:
        yield server


def connected(server: EngineServer, tiny: Path, **more: Any) -> ServerEngine:
    settings = WorkerSettings(worker="w1", engine="vllm", engine_url=server.url, target=str(tiny), **more)
    engine = load_engine(settings, lambda _: None)
    assert isinstance(engine, ServerEngine)
    return engine


@pytest.fixture(scope="module")
def engine(server: EngineServer, tiny: Path) -> Iterator[ServerEngine]:
    engine = connected(server, tiny)
    yield engine
    engine.close()


@lru_cache
def alone(
    tiny: Path, params: Sampling, prompt: tuple[int, ...] = PROMPT, grammar: str = ""
) -> tuple[int, ...]:
    """Reference text, by transformers' own code, llguidance's, and a second writing of sampling."""
    sampling = Params(*msgspec.structs.astuple(params))
    eos = () if not grammar else EOS
    return tuple(Reference(str(tiny), "float32").write(Text(0, prompt, sampling, LIMIT, eos, grammar)).tokens)


def write(
    engine: ServerEngine, params: Sampling, drafter: Drafter, *, grammar: Grammar | None = None
) -> tuple[int, ...]:
    """Write a text as the worker's machine has it written."""
    digest = None if grammar is None else grammar.digest(engine_name())
    eos = () if grammar is None else EOS
    identity = Identity(
        NOISE_VERSION, engine.facts.fingerprint, params, eos,
        grammar is None, LIMIT, digest,
    )  # fmt: skip
    return works.write(engine, identity, PROMPT, drafter)[0]


def drafts_of(text: Sequence[int], seed: int = 1) -> Drafter:
    """Drafts of which some are right, some are wrong from somewhere on, and some are none."""
    draw = random.Random(seed)

    def draft(written: Sequence[int]) -> list[int]:
        right = [*text[len(written) : len(written) + draw.randrange(6)]]
        if right and draw.random() < 0.5:
            right[draw.randrange(len(right))] = draw.randrange(200)
        return right

    return draft


def late(drafter: Drafter) -> Drafter:
    """Drafts that come when the server has written on by itself, which need not be what our noise chooses."""

    def draft(written: Sequence[int]) -> Sequence[int]:
        time.sleep(0.03)
        return drafter(written)

    return draft


@given(
    logits=st.lists(st.integers(-40, 40), min_size=30, max_size=60, unique=True),
    params=st.builds(
        Sampling,
        st.sampled_from([0.0, 0.2, 0.7, 1.0, 1.5]), st.sampled_from([0, 1, 4, 8, 20]),
        st.sampled_from([0.3, 0.8, 1.0]), st.integers(0, 2**64 - 1), st.sampled_from([0.0, 0.03, 0.4]),
    ),
    allowed=st.sets(st.integers(0, 29)),
    most=st.integers(1, 30),
)  # fmt: skip
def test_the_likeliest_tell_what_the_whole_row_tells_or_nothing(
    logits: list[int], params: Sampling, allowed: set[int], most: int
) -> None:
    row = np.array(logits, np.float32) / np.float32(4)
    logprobs = (row - np.logaddexp.reduce(row)).astype(np.float32)
    mask = None
    if allowed:
        mask = np.isin(np.arange(len(row)), [*allowed])
    token = chosen(Row.of(int(row.argmax()), enumerate(logprobs.tolist()), most), params, 9, mask)
    if token is not None:
        assert token == choose(row, params, 9, mask)
    else:
        told = not allowed and (params.temperature == 0.0 or 0 < params.top_k <= most)
        assert not told
        assert most < len(row)


@pytest.mark.parametrize(
    "params", [GREEDY, WARM, COOL, BOTH, SHARE], ids=["greedy", "top-k", "cool", "top-k and top-p", "min-p"]
)
def test_a_text_is_the_targets_whoever_drafts(engine: ServerEngine, tiny: Path, params: Sampling) -> None:
    wanted = alone(tiny, params)
    assert write(engine, params, lambda _: ()) == wanted
    assert write(engine, params, drafts_of(wanted)) == wanted
    assert write(engine, params, late(drafts_of(wanted, 2))) == wanted


def test_one_request_goes_on_where_nobody_drafts(engine: ServerEngine, server: EngineServer) -> None:
    server.asked.clear()
    write(engine, GREEDY, lambda _: ())
    assert [body.get("stream", False) for body in server.asked] == [True]
    server.asked.clear()
    text = write(engine, HOT, lambda _: ())
    (body,) = server.asked
    assert body["stream"]
    assert body["seed"] == HOT.seed
    assert write(engine, HOT, drafts_of(text)) == text


def test_a_server_that_has_our_noise_samples_for_us(
    tiny: Path, engine: ServerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As vLLM does on GPUs: with no bound of top-k, by each draft's own row; at other sampling nothing is taken so."""
    assert "the server's own noise" in engine.facts.proof
    monkeypatch.setattr(EngineServer, "second_runner", True)
    with EngineServer(tiny, name="tiny") as server:
        engine = connected(server, tiny)
        assert "the server's own noise" not in engine.facts.proof
        for params in (HOT, BOTH, Sampling(1.5, 0, 0.9, 2**64 - 3, 0.5)):
            server.asked.clear()
            wanted = alone(tiny, params)
            assert write(engine, params, lambda _: ()) == wanted
            assert [body.get("stream", False) for body in server.asked] == [True]
            assert write(engine, params, drafts_of(wanted)) == wanted
            assert {body["temperature"] for body in server.asked} == {params.temperature}
            assert len(server.asked) < LIMIT
        engine.close()


@pytest.mark.parametrize("params", [GREEDY, WARM], ids=["greedy", "top-k"])
def test_a_grammar_holds_as_at_our_own_engine(
    engine: ServerEngine, server: EngineServer, tiny: Path, params: Sampling
) -> None:
    assert engine.grammars is not None
    kept = engine.grammars.compile(SCHEMA)  # noqa: F841  as its open holds it
    text = write(engine, params, lambda _: (), grammar=SCHEMA)
    assert json.loads(
        decode(server.text.tokenizer, [token for token in text if token not in EOS])
    ).keys() == {"a", "n"}
    if params == GREEDY:
        assert text == alone(tiny, params, PROMPT, SCHEMA.source)
        assert write(engine, params, drafts_of(text), grammar=SCHEMA) == text


def test_a_server_that_fails_or_comes_back_loses_nothing(
    engine: ServerEngine, server: EngineServer, tiny: Path
) -> None:
    wanted, drafts = alone(tiny, GREEDY), drafts_of(alone(tiny, GREEDY))
    rounds = 0

    def drafter(written: Sequence[int]) -> Sequence[int]:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            server.faults.errors = 1
        if rounds == 3:
            server.faults.cut_after = 2
        if rounds == 5:
            server.faults.cut_after = None
            server.kill()
            threading.Timer(0.3, server.start).start()
        return drafts(written)

    assert write(engine, GREEDY, drafter) == wanted


async def test_a_worker_without_its_server_sends_sessions_elsewhere_until_it_is_back(tiny: Path) -> None:
    broker = MemoryBroker()
    with EngineServer(tiny, name="tiny") as server:
        server.faults.slow = 0.02
        engine = await asyncio.to_thread(connected, server, tiny)
        worker = CloudWorker(WorkerSettings(worker="w1", drain=0.0), engine)
        run = asyncio.create_task(worker.run(broker.link, link_to("w-w1")))
        node = EdgeNode(
            EdgeSettings(edge="edge", wait=60), FakeDrafter(), engine.facts.fingerprint, server.text.eos
        )
        async with node.running(broker.link, link_to("e-edge")):
            request = wanting(3, limit=60, plan=Plan(2, 1, 1, 8))
            generation = node.generate(request)
            await until(lambda: len(generation.machine.committed) > 5)
            await asyncio.to_thread(server.kill)
            await until(lambda: worker.not_ready.startswith("http"))
            assert worker.machine.draining
            assert len(worker.machine) == 0
            server.start()
            tokens, finish = await read(generation)
            assert finish.error is None
            assert not worker.not_ready
        worker.stop()
        await run
    assert len(tokens) == 60


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"engine_model": "other"}, "serves tiny, not other"),
        ({"draft": "lookup"}, "its own affair"),
        ({"target": "default"}, "tokenizer is not that of SmolLM2"),
        ({"engine_url": "localhost"}, "no address of a server"),
        ({"engine_url": None}, "needs the address"),
        ({"engine": "auto"}, "of no use with --engine auto"),
    ],
)
def test_what_does_not_fit_is_refused(
    server: EngineServer, tiny: Path, more: dict[str, str], words: str
) -> None:
    settings: dict[str, Any] = {"engine": "vllm", "engine_url": server.url, "target": str(tiny), **more}
    with pytest.raises(FlexSpecError, match=words):
        load_engine(WorkerSettings(worker="w1", **settings), lambda _: None)


def test_it_needs_no_torch(server: EngineServer, tiny: Path) -> None:
    blocked = BLOCK.replace("'numpy', ", "")
    code = f"""{blocked}
from cloud_worker.engine.load import check_libraries, load_engine
from cloud_worker.settings import WorkerSettings
from cloud_worker.versions.family import base_of
settings = WorkerSettings(worker="w1", engine='vllm', engine_url={server.url!r}, target={str(tiny)!r})
check_libraries(settings)
engine = load_engine(settings, print)
print(base_of(settings, engine.head_holder).base, engine.facts.target)
engine.close()
"""
    done = subprocess.run(
        (sys.executable, "-c", code), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split()[-2:] == [weights_fingerprint(tiny), "tiny"], done.stderr
