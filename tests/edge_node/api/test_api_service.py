"""Whether anybody serves a version, and what its workers recommend: what is told of it, and how soon."""

import asyncio
import time
from functools import partial
from math import inf
from typing import Any

import msgspec
import pytest

from broker.launcher import PrivateBroker
from edge_node.text.service import QUEUED, Service, Wait
from flexspec_mq.controller.plan import Plan
from flexspec_mq.errors import WorkerError
from flexspec_mq.models.text import decode
from flexspec_mq.protocol.edge.patience import Waits
from schemas.messages import PartialSampling, Sampling
from tests.daemons import FakeEngine, until, worker_at
from tests.edge_node.api.served import (
    Opinionated,
    Served,
    alone,
    content,
    expected,
    ids_of,
    links_to,
    said,
    served,
    tokenizer,
    waiting_engine,
)

SOON = 2.0
"""Seconds within which a user is told."""


async def refused(api: Served, **more: Any) -> str:
    """Message of the 503 that refuses a text because no worker serves it."""
    answer = await api.chat(**more)
    assert int(answer.headers["retry-after"]) >= 1
    assert api.node.sessions == len(api.api.texts) == 0
    message: str = said(answer, 503, "no_worker")["message"]
    return message


@pytest.mark.parametrize("qos", [0, 1])
async def test_nobody_serves_the_version_and_that_is_said_at_once(mosquitto: PrivateBroker, qos: int) -> None:
    """At QoS 0 the broker does not say that nobody listens; the status of another version shows that we can see."""
    async with served(mosquitto, workers=0, plan=Plan(4, 1, qos)) as api:
        for stream in (False, True) if qos else ():
            message = await refused(api, stream=stream)
            assert message == f"no worker serves {api.version} (start one; no version is online; {QUEUED})"
        if qos:
            api.node.directory.blind = True  # a broker that shows no status still says that nobody listens
            assert await refused(api)
            api.node.directory.blind = False
        async with worker_at(links_to(mosquitto), "asv-w", FakeEngine(), version="asv-other"):
            await until(lambda: "asv-other" in api.api.versions())
            message = await refused(api)
            assert "ask for one that is online:" in message
            assert "asv-other" in message


async def test_a_slow_worker_without_a_status_is_no_missing_worker(mosquitto: PrivateBroker) -> None:
    """At QoS 0 the broker does not say who listens."""
    engine = waiting_engine()
    async with served(mosquitto, workers=0, plan=Plan(4, 1, 0)) as api:
        api.node.directory.take = lambda *_, **__: None  # type: ignore[method-assign]
        async with worker_at(links_to(mosquitto), "asn-w", engine, version=api.version) as daemon:
            asking = asyncio.create_task(api.chat(seed=3, max_tokens=20))
            await asyncio.sleep(SOON + 0.5)
            assert not asking.done()
            engine.gate.set()
            assert content(await asking) == alone("hello", 3, 20)
            assert daemon.worker.malformed == 0
            assert daemon.worker.machine.counters.opened == 1


@pytest.mark.parametrize("blind", [False, True])
async def test_a_worker_is_waited_for_where_that_is_asked_for(mosquitto: PrivateBroker, blind: bool) -> None:
    async with served(mosquitto, workers=0, wait=20.0) as api:
        api.node.directory.blind = blind
        asking = asyncio.create_task(api.chat(seed=3, max_tokens=20))
        await asyncio.sleep(SOON + 0.5)
        assert not asking.done()
        async with worker_at(links_to(mosquitto), f"asw-{blind}", FakeEngine(), version=api.version):
            assert content(await asking) == alone("hello", 3, 20)


@pytest.mark.parametrize(("patience", "timeout"), [(0.5, inf), (None, 1.0)], ids=["named", "deadline"])
async def test_a_worker_that_goes_before_it_has_answered_is_waited_for_and_no_longer(
    mosquitto: PrivateBroker, patience: float | None, timeout: float
) -> None:
    """A request that names no patience has two minutes then, and none that names it has more than that."""
    async with served(mosquitto) as api:
        told: list[Wait] = []
        service = Service(api.node, api.version, b"", Waits.of(patience), told.append, timeout)
        await service.resolve()
        await api.daemons[0].kill()
        await until(lambda: not api.node.directory.online())
        async with asyncio.timeout(60.0):
            with pytest.raises(WorkerError, match="no worker serves"):
                await service.wait()
        assert f"a worker of {api.version}" in told[0].what


async def test_a_busy_worker_is_no_missing_worker(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, wait=SOON + 0.5) as api:
        api.daemons[0].worker.machine.drain(time.monotonic())  # to an edge the same as full
        began = time.monotonic()
        answer = await api.chat()
        assert "too much to do" in said(answer, 429, "workers_busy")["message"]
        assert int(answer.headers["retry-after"]) >= 1
        assert time.monotonic() - began > SOON


RECOMMENDED: list[tuple[PartialSampling, dict[str, Any], Sampling]] = [
    (PartialSampling(0.5, 20, 0.75, 0.25), {}, Sampling(0.5, 20, 0.75, min_p=0.25)),
    (PartialSampling(0.5, 20, 0.75), {"temperature": 0.25, "top_k": 0}, Sampling(0.25, 0, 0.75)),
    (PartialSampling(0.5, 20, 0.75), {"temperature": 0}, Sampling(0.0, 20, 0.75)),
    (PartialSampling(), {}, Sampling(1.0)),
    (PartialSampling(temperature=0.5), {"min_p": 0.5}, Sampling(0.5, min_p=0.5)),
    (PartialSampling(2.5, 20, 0.75), {}, Sampling(1.0)),  # nobody means that
]


async def test_what_a_request_leaves_open_is_what_the_targets_makers_recommend(
    mosquitto: PrivateBroker,
) -> None:
    async with served(mosquitto, workers=0) as api:
        for number, (recommended, asked, used) in enumerate(RECOMMENDED):
            engine, name = Opinionated(recommended), f"{api.version}-{number}"
            async with worker_at(links_to(mosquitto), name, engine, version=name):
                await until(partial(_serves, api, name))
                answer = (await api.chat(model=name, max_tokens=3, **asked)).json()
                usage = answer["usage"]["flexspec"]
                assert answer["model"] == usage["version"] == name
                assert msgspec.convert(usage, PartialSampling).over(Sampling()) == used
                assert engine.asked == {used}


def _serves(api: Served, version: str) -> bool:
    return version in api.node.directory.versions()


async def test_a_text_does_not_end_inside_a_character(mosquitto: PrivateBroker) -> None:
    broken = "\N{REPLACEMENT CHARACTER}"

    def written(seed: int) -> str:
        return decode(tokenizer(), expected(ids_of("hello"), seed, 7, ignore_eos=True)[0])

    seeds = [seed for seed in range(200) if written(seed).endswith(broken)][:3]
    assert seeds
    async with served(mosquitto) as api:
        for seed in seeds:
            answer = await api.chat(seed=seed, max_tokens=7, ignore_eos=True)
            assert content(answer) == written(seed).rstrip(broken)
            assert answer.json()["choices"][0]["finish_reason"] == "length"
            assert answer.json()["usage"]["completion_tokens"] == 7  # whether it is shown or not


ROOM = 40
"""Tokens that the context leaves a chat."""


@pytest.mark.parametrize(
    ("limit", "rows"),
    [
        (
            7,
            [({}, 7, 7), ({"max_tokens": 9}, 9, None), ({"max_tokens": -1}, ROOM, None),
             ({"max_tokens": 7}, 7, None), ({"max_tokens": 1000}, ROOM, None)],
        ),
        (0, [({}, ROOM, None)]), (50, [({}, ROOM, None)]), (None, [({}, 1024, 1024)]),
    ],
)  # fmt: skip
async def test_a_chat_that_names_no_limit_has_the_nodes_and_is_told_so(
    mosquitto: PrivateBroker, limit: int | None, rows: list[tuple[dict[str, Any], int, int | None]]
) -> None:
    """Where the context leaves fewer tokens than the node's limit, that is not told."""
    bounds = {} if limit is None else {"max_context": len(ids_of("hello")) + ROOM, "api_max_tokens": limit}
    async with served(mosquitto, **bounds) as api:  # type: ignore[arg-type]
        for asked, tokens, told in rows:
            answer = (await api.chat(ignore_eos=True, seed=1, **asked)).json()
            assert answer["choices"][0]["finish_reason"] == "length"
            assert answer["usage"]["completion_tokens"] == tokens
            assert answer["usage"]["flexspec"]["default_limit"] == told
