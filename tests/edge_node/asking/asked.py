"""A node that is asked by MQTT, and askers of paho's own client, MQTT 3.1.1 and 5."""

import asyncio
import itertools
import json
import queue
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.launcher import PrivateBroker
from edge_node.asking.asks import Asks
from edge_node.asking.settings import AskSettings
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from tests.daemons import PATIENCE
from tests.edge_node.api.served import Served, served

_numbers = itertools.count()
Message = tuple[str, dict[str, Any], bytes | None, bool]
"""Topic, payload, Correlation Data and whether it was retained."""


@dataclass
class Asked:
    """A node that is asked on a broker."""

    served: Served
    broker: PrivateBroker
    running: asyncio.Task[None]

    @property
    def edge(self) -> str:
        return self.served.node.name


@asynccontextmanager
async def asked(
    mosquitto: PrivateBroker,
    at: PrivateBroker | None = None,
    asks: dict[str, Any] | None = None,
    user: str | None = None,
    through: int | None = None,
    node_through: int | None = None,
    **serving: Any,
) -> AsyncIterator[Asked]:
    """A node whose workers are at one broker, and which is asked there or at another one, maybe each through a port."""
    broker = at or mosquitto
    settings = AskSettings(mqtt_ask=True, **(asks or {}))
    async with served(mosquitto, through=node_through, **serving) as node:
        link = LinkSettings(
            port=through or broker.port,
            client_id=f"a-{node.node.name}",
            username=user,
            password=None if user is None else f"of-{user}",
            backoff=0.02,
            backoff_max=0.1,
        )
        links: list[Link] = []

        @asynccontextmanager
        async def connect(settings: LinkSettings) -> AsyncIterator[Link]:
            async with mqtt_link(settings) as made:
                links.append(made)
                yield made

        async with Asks(node.api, settings, connect, link).running() as running:
            await links[0].wait_up(PATIENCE)
            yield Asked(node, broker, running)


def _properties(topic: str | None, correlation: bytes | None) -> Properties | None:
    if topic is None and correlation is None:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if topic is not None:
        properties.ResponseTopic = topic
    if correlation is not None:
        properties.CorrelationData = correlation
    return properties


def _read(message: Any) -> Message:
    correlation = getattr(message.properties, "CorrelationData", None)
    payload = json.loads(message.payload) if message.payload else {}
    return str(message.topic), payload, correlation, bool(message.retain)


class Asker:
    """A client of paho's own, on its own thread; with the folder that it was handed out it comes over TLS."""

    host = "127.0.0.1"

    def __init__(
        self, at: int | PrivateBroker, user: str = "anybody", *, five: bool = True, bundle: Path | None = None
    ) -> None:
        self.user = user
        self._got: queue.SimpleQueue[Message] = queue.SimpleQueue()
        version = MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311
        name = f"asker-{next(_numbers)}-{user}"
        self.client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=version)
        if bundle is not None:
            self.host = "localhost"
            self.client.tls_set(str(bundle / "ca.crt"))
            self.client.username_pw_set(user, (bundle / "password").read_text().strip())
        elif user != "anybody":
            self.client.username_pw_set(user, f"of-{user}")
        self.client.on_message = lambda _client, _data, message: self._got.put(_read(message))
        self.port = at if isinstance(at, int) else at.port

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.client.connect, self.host, self.port)
        self.client.loop_start()
        await self.listen(f"f1/answer/{self.user}/#")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)

    async def listen(self, topic: str) -> None:
        """Subscribe, and wait until that stands."""
        done, loop = asyncio.Event(), asyncio.get_running_loop()

        def subscribed(*_: Any) -> None:
            loop.call_soon_threadsafe(done.set)

        self.client.on_subscribe = subscribed
        self.client.subscribe(topic, 1)
        await asyncio.wait_for(done.wait(), PATIENCE)

    async def publish(
        self,
        topic: str,
        payload: Any,
        response: str | None = None,
        correlation: bytes | None = None,
        *,
        qos: int = 1,
        retain: bool = False,
    ) -> None:
        """Publish text or an object as JSON."""
        raw = payload if isinstance(payload, str | bytes) else json.dumps(payload)
        sent = self.client.publish(topic, raw, qos, retain, _properties(response, correlation))
        await asyncio.to_thread(sent.wait_for_publish, PATIENCE)

    async def message(self, patience: float = PATIENCE) -> Message:
        """The next message."""
        return await asyncio.to_thread(self._got.get, True, patience)

    async def silent(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes for a while."""
        await asyncio.sleep(seconds)
        return self._got.empty()


def assembled(messages: list[Message]) -> str:
    """The text that pieces make, by the places that they name."""
    text = ""
    for _, piece, _, _ in messages:
        if not piece["done"]:
            text = text[: piece["at"]] + piece["delta"]
    return text
