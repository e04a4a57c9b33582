"""Two worlds for one contract: the in-memory broker, and Mosquitto behind a proxy."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.link import Link, LinkFactory
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.memory_broker import MemoryBroker
from tests.transport.proxy import Proxy, proxy_to
from tests.transport.reading import linked

_numbers = itertools.count()


@dataclass
class World:
    """Somewhere to connect to.

    Attributes:
        topic: a prefix that no other test uses.
        cut: breaks every connection made so far.
    """

    name: str
    link: LinkFactory
    host: str
    port: int
    topic: str
    cut: Callable[[], None]

    def settings(self, client: str, **more: Any) -> LinkSettings:
        """Settings for a client of this world; its id is unique to the test.

        No broker is taken for silent within 10 s, as a loaded machine may hold one up for a second or two.
        """
        more = {"backoff": 0.02, "backoff_max": 0.1, "answer_timeout": 10.0, **more}
        return LinkSettings(host=self.host, port=self.port, client_id=f"{self.topic}-{client}", **more)

    def linked(self, settings: LinkSettings) -> AbstractAsyncContextManager[Link]:
        """A link that is up."""
        return linked(settings, self.link)


@pytest.fixture(params=["memory", "mosquitto"])
async def world(request: pytest.FixtureRequest, mosquitto: PrivateBroker) -> AsyncIterator[World]:
    topic = f"t{next(_numbers)}"
    if request.param == "memory":
        broker = MemoryBroker()

        def cut_all() -> None:
            for client_id in broker.connected():
                broker.cut(client_id)

        yield World("memory", broker.link, "memory", 1, topic, cut_all)
        return
    async with proxy_to(mosquitto.host, mosquitto.port) as proxy:
        yield World("mosquitto", mqtt_link, "127.0.0.1", proxy.port, topic, proxy.cut)


@pytest.fixture
async def proxy(mosquitto: PrivateBroker) -> AsyncIterator[Proxy]:
    async with proxy_to(mosquitto.host, mosquitto.port) as running:
        yield running
