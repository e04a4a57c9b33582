"""An operator of a family on a site, and a counter of packets, against a real broker."""

import asyncio
import os
from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.heads.manifest import MANIFEST, Canary, Manifest, digest
from flexspec_mq.transport.base import LinkSettings, Subscription
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.deployment import Cores, local_deployment
from lab.testbed.family import Operator
from lab.testbed.packet_counter import HEADERS, packet_counter
from tests.families import simple
from tests.transport.reading import Reader


async def test_an_operator_begins_a_family_and_moves_it_on(tmp_path: Path) -> None:
    heads = []
    for layers in (30, 31):
        folder = tmp_path / f"head-{layers}"
        folder.mkdir()
        facts = {**simple("base"), "layers": layers, "canaries": (Canary((1,), (2,)),)}
        manifest = Manifest(**facts)  # type: ignore[arg-type]
        (folder / MANIFEST).write_bytes(manifest.encode())
        heads.append((folder, digest(manifest.encode()).hex()))
    async with local_deployment() as here:
        await here.start_broker()
        operator = await Operator.create(here, "smol", tmp_path)
        await operator.begin("v0", heads[0][0])
        await operator.publish("v1", heads[1][0], "--share", "7", "--unserved")
        found = await operator.listed()
        told = [(one["name"], one["state"], one["share"], one["digest"]) for one in found["versions"]]
        assert told == [("v0", "stable", None, heads[0][1]), ("v1", "canary", 7, heads[1][1])]
        assert "v1 stable" in await operator.head("promote", "v1")
        with pytest.raises(FlexSpecError, match="flexspec head retire ended with code") as refused:
            await operator.head("retire", "v1")
        assert "promote another version first" in refused.value.hint
    assert (operator.heads / heads[1][1] / MANIFEST).is_file()


def test_two_cores_are_used_where_there_are_two() -> None:
    cores, allowed = Cores.of_this_process(), os.sched_getaffinity(0)
    assert {cores.cloud, cores.device} <= allowed
    assert (cores.cloud != cores.device) is (len(allowed) > 1)


async def test_a_client_behind_a_counter_gets_all_and_each_byte_is_counted(mosquitto: PrivateBroker) -> None:
    topic, other = "f1/h/tapped", "f1/w/tapped"
    async with (
        packet_counter(mosquitto.port) as wire,
        mqtt_link(LinkSettings(port=mosquitto.port, client_id="tap-sender")) as sender,
    ):
        wanted = (Subscription(topic), Subscription(other))
        settings = LinkSettings(port=wire.port, client_id="tap-reader", subscriptions=wanted)
        async with asyncio.timeout(60), mqtt_link(settings) as reader:
            await reader.wait_up(10.0)
            await sender.wait_up(10.0)
            before = wire.carried()
            await sender.publish(topic, b"c" * 300, qos=1)
            await sender.publish(other, b"w" * 40, qos=1)
            assert await Reader(reader).payloads(2) == [b"c" * 300, b"w" * 40]
            got = wire.carried().since(before)
        total = 300 + 40 + len(topic) + len(other)
        assert total + HEADERS <= got.ip_down <= total + 20 + 8 * HEADERS + 100
        await asyncio.sleep(0.1)
        assert wire.carried().ip_down >= got.ip_down  # what has ended still counts
