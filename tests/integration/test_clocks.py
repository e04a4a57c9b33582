"""Workers that are started again with their clock set, over a real broker: the edge knows them at once."""

import time
from types import SimpleNamespace

import pytest

from broker.launcher import PrivateBroker
from edge_node.node import EdgeNode
from flexspec_mq.errors import LinkRefused
from flexspec_mq.waiting import STALE
from schemas.status import WorkerStatus
from tests.daemons import PATIENCE, alone, check, edge_at, read, until, wanting, worker_at
from tests.edge_node.api.served import links_to

DAY = 86_400


def set_clock(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    """Have the workers that are made from now on live so many seconds off."""
    clock = SimpleNamespace(
        time=lambda: time.time() + by,
        time_ns=lambda: time.time_ns() + int(by * 1e9),
        monotonic=time.monotonic,
    )
    monkeypatch.setattr("cloud_worker.worker.time", clock)


@pytest.mark.parametrize("by", [-DAY, DAY])
async def test_a_worker_is_known_again_at_once_after_its_clock_was_set(
    mosquitto: PrivateBroker, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    assert PATIENCE < STALE, "or else it would only have to be forgotten"
    connect = links_to(mosquitto)
    async with edge_at(connect) as node:
        for clock in (0, by, 0):
            set_clock(monkeypatch, clock)
            async with worker_at(connect, "w-clock"):
                await until(node.directory.online)
                (known,) = node.directory.online()
                assert abs(known.at - time.time() - clock) < PATIENCE
                await check(node, [wanting(1)])
            await until(lambda: not node.directory.online())


@pytest.mark.parametrize("by", [-DAY, DAY])
async def test_a_text_goes_on_at_the_process_that_took_the_name_over(
    mosquitto: PrivateBroker, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    """The broker ends the connection of the one before, and publishes its will."""
    connect = links_to(mosquitto)

    async def begin_and_take_over(node: EdgeNode) -> None:
        async with worker_at(connect, "w-taken") as before:
            before.engine.gate.clear()
            generation = node.generate(wanting(7))
            await until(before.engine.entered.is_set)
            set_clock(monkeypatch, by)
            async with worker_at(connect, "w-taken"):
                tokens, finish = await read(generation)
                assert finish.error is None
                assert tokens == alone(generation.request)
                await until(lambda: list(map(off, node.directory.online())) == [by > 0])

    async with edge_at(connect) as node:
        with pytest.raises(LinkRefused, match="another"):
            await begin_and_take_over(node)


def off(status: WorkerStatus) -> bool | None:
    """Whether a clock is far ahead, or else far behind; None if it is neither."""
    ahead = status.at - time.time()
    return None if abs(ahead) < DAY / 2 else ahead > 0
