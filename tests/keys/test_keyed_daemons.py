"""Workers and a device with keys: they write what they wrote without, and believe nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.memory import MemoryBroker
from flexspec_mq.transport.mqtt import mqtt_link
from tests.daemons import check, edge_at, wanting, worker_at
from tests.keys.deployments_of_keys import KeyedDeployment


def at(broker: PrivateBroker, client_id: str) -> LinkSettings:
    return LinkSettings(port=broker.port, client_id=client_id, backoff=0.01, backoff_max=0.05)


@pytest.mark.parametrize("seal", [False, True])
async def test_texts_are_the_same_over_a_real_broker(
    tmp_path: Path, module_mosquitto: PrivateBroker, seal: bool
) -> None:
    keys = KeyedDeployment(tmp_path)
    worker = worker_at(mqtt_link, "w1", at=at(module_mosquitto, "w-keyed"), keys=keys.worker_file("w1"))
    edge = edge_at(
        mqtt_link, "edge", at=at(module_mosquitto, "e-keyed"), keys=keys.edge_file("edge"), seal=seal
    )
    async with worker as daemon, edge as node:
        await check(node, [wanting(number) for number in range(8)])
        assert not node.refused
        assert not daemon.worker.refused


async def test_a_memory_broker_too(tmp_path: Path) -> None:
    keys, broker = KeyedDeployment(tmp_path), MemoryBroker()
    async with (
        worker_at(broker.link, "w1", keys=keys.worker_file("w1")),
        edge_at(broker.link, keys=keys.edge_file("edge")) as node,
    ):
        await check(node, [wanting(number) for number in range(8)])
        assert not node.refused
