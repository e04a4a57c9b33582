"""Families for tests of the edge: keys, catalogues that are sealed here, and a link that publishes them."""

import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker.launcher import PrivateBroker
from edge_node.fleet.catalogue import FamilyCatalogue
from flexspec_mq import topics
from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.signing import PrivateKey, seal
from flexspec_mq.catalogue.store import Store
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.catalogue import FORMAT, Catalogue, CatalogueVersion, KeySet, VersionState

STABLE, CANARY = VersionState.STABLE, VersionState.CANARY
DRAINING, RETIRED = VersionState.DRAINING, VersionState.RETIRED
WEEK = 7 * 86_400
_numbers = itertools.count()


def digest(version: str) -> bytes:
    """Stands for that of a head's manifest."""
    return hashlib.sha256(version.encode()).digest()


def version(name: str, state: VersionState, share: int = 0) -> CatalogueVersion:
    return CatalogueVersion(name, state, digest(name), share)


@dataclass
class Family:
    """A family with keys and a name of its own; `epoch` is that of the latest catalogue and rises with each."""

    name: str = field(default_factory=lambda: f"fam{next(_numbers)}")
    root: PrivateKey = field(default_factory=PrivateKey.generate)
    online: PrivateKey = field(default_factory=PrivateKey.generate)
    epoch: int = field(default_factory=lambda: int(time.time()) - 1000)

    def keys(self, serial: int = 1, expires: float = 2e9) -> bytes:
        body = KeySet(FORMAT, self.name, serial, 1, (self.online.public,), expires=int(expires))
        return seal(body, [self.root])

    def catalogue(
        self, *versions: CatalogueVersion, epoch: int | None = None, by: PrivateKey | None = None
    ) -> bytes:
        self.epoch += 1
        body = Catalogue(
            FORMAT,
            self.name,
            self.epoch if epoch is None else epoch,
            WEEK,
            1,
            "https://example.org",
            versions,
        )
        return seal(body, [by or self.online])

    def remember(self, folder: Path, *versions: CatalogueVersion) -> None:
        """Leave on an edge's disk what it keeps of a catalogue."""
        follower = Follower(self.name, self.root.public)
        for receive, payload in (
            (follower.receive_keys, self.keys()),
            (follower.receive_catalogue, self.catalogue(*versions)),
        ):
            found = receive(payload, time.time())
            assert isinstance(found, Accepted)
            Store(folder, self.name).save(found.record)
            follower.adopt(found.record)

    def followed(self, folder: Path, clock: Callable[[], float] = time.time) -> FamilyCatalogue:
        """As an edge follows it whose disk is `folder`."""
        return FamilyCatalogue(self.name, self.root.public, Store(folder, self.name), clock=clock)


@dataclass
class Publisher:
    """Publishes for one family, retained."""

    family: Family
    link: Link

    async def keys(self, serial: int = 1, expires: float = 2e9) -> None:
        await self.put(topics.keys_topic(self.family.name), self.family.keys(serial, expires))

    async def catalogue(self, *versions: CatalogueVersion) -> None:
        await self.raw(self.family.catalogue(*versions))

    async def raw(self, payload: bytes) -> None:
        await self.put(topics.catalogue_topic(self.family.name), payload)

    async def put(self, topic: str, payload: bytes) -> None:
        await self.link.publish(topic, payload, qos=1, retain=True)


@asynccontextmanager
async def publisher(broker: PrivateBroker, family: Family) -> AsyncIterator[Publisher]:
    """A link of the family's operator."""
    async with mqtt_link(LinkSettings(port=broker.port, client_id=f"p-{family.name}")) as link:
        await link.wait_up(10.0)
        yield Publisher(family, link)
