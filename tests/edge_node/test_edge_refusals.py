"""One text that cannot go on costs no other text anything, and says why."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings
from flexspec_mq.errors import FlexSpecError, LocalProtocolError, PublishRefused, UsageError, WorkerError
from flexspec_mq.protocol.effects import FinishReason
from lab.testbed.memory_broker import MemoryBroker
from schemas.messages import MAX_PROMPT_TOKENS
from tests.daemons import alone, check, edge_at, read, until, wanting, worker_at, world
from tests.edge_node.api.served import links_to


@pytest.mark.parametrize(
    ("more", "kind"),
    [({"limit": 2**21}, LocalProtocolError), ({"prompt": (1,) * (MAX_PROMPT_TOKENS + 1)}, UsageError)],
)
async def test_a_request_that_no_message_can_hold_fails_alone(
    more: dict[str, Any], kind: type[FlexSpecError]
) -> None:
    async with world() as (_, _daemons, node):
        healthy = node.generate(wanting(1))
        bad = node.generate(replace(wanting(2), **more))
        _, finish = await read(bad)
        assert finish.reason is FinishReason.FAILED
        assert isinstance(finish.error, kind)
        assert (await read(healthy))[0] == alone(healthy.request)
        await check(node, [wanting(3)])
        assert node.sessions == 0


async def test_a_broker_that_takes_no_such_message_is_named() -> None:
    with PrivateBroker(BrokerSettings(port=0, max_packet=20_000)) as broker:
        async with edge_at(links_to(broker)) as node:
            prompt = tuple(random.Random(1).choices(range(40_000), k=12_000))
            _, finish = await read(node.generate(replace(wanting(1), prompt=prompt)))
    assert finish.reason is FinishReason.FAILED
    assert isinstance(finish.error, PublishRefused)
    assert finish.error.reason_code == 0x95


async def test_a_worker_that_is_told_to_leave_while_its_link_is_down_takes_nothing_more() -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1", drain=30.0) as leaving, edge_at(broker.link) as node:
        leaving.engine.gate.clear()
        held = node.generate(wanting(0))
        await until(lambda: held.machine.worker == "w1")
        broker.stop()
        leaving.worker.stop()
        await until(lambda: leaving.worker.machine.draining)
        broker.start()
        async with worker_at(broker.link, "w2"):
            await until(lambda: broker.retained("f1/w/w1") is not None)
            await asyncio.gather(*(check(node, [wanting(number)]) for number in range(1, 9)))
            assert leaving.worker.machine.counters.busy == 0
        leaving.engine.gate.set()
        assert (await read(held))[0] == alone(held.request)


async def test_that_nobody_serves_a_version_is_told_to_the_texts_that_ask_for_it() -> None:
    """A message that is lost belongs to one text, whichever topic it was for."""
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1") as daemon, edge_at(broker.link, give_up=0.3) as node:
        daemon.engine.gate.clear()
        here = node.generate(wanting(1))
        await until(lambda: here.machine.worker == "w1")
        elsewhere = node.generate(replace(wanting(2), version="other"))
        _, finish = await read(elsewhere)
        assert isinstance(finish.error, WorkerError)
        assert finish.error.message == "no worker serves other"
        assert here.machine.finished is None
        daemon.engine.gate.set()
        assert (await read(here))[0] == alone(here.request)
        assert here.machine.counters.opens == 1
