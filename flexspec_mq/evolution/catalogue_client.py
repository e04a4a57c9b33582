"""A family's topics at the broker: read, verified, edited and written by whoever publishes versions.

A publisher follows the family as workers and edges do, with a record on disk, so it never edits a catalogue that is
older than one it has seen. Only one thing is different: a catalogue that has expired is taken up, to be signed anew.
"""

import argparse
import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec

from flexspec_mq import topics, waiting
from flexspec_mq.catalogue.driver import Driver, topics_of
from flexspec_mq.catalogue.follower import Follower
from flexspec_mq.catalogue.refusals import Reason, RecordError, SignedRefused
from flexspec_mq.catalogue.signing import PrivateKey, seal
from flexspec_mq.catalogue.store import Store
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.signals import stoppable
from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import FlexSpecError, LinkDown, LinkError, LinkRefused, UsageError
from flexspec_mq.evolution.settings import HeadConfig, head_config
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import Inbound, Subscription
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.catalogue import Catalogue, KeySet

_UNKNOWN = (
    "this broker does not say when it is on its disk, as one of `flexspec-broker run DIR` does: should it lose it, "
    "workers of the family put it back, or `flexspec head renew`"
)

_log = logging.getLogger(__name__)


class LostRace(LinkError):
    """Another publisher wrote at the same time."""


class CatalogueClient:
    """Reads and writes a family's topics.

    Methods raise `UsageError` where what is there or to be published is missing or refused, and those that publish
    also `LinkError` where the broker refuses it or is gone, and `LostRace` where another publisher wrote too.

    Args:
        link: a link that is subscribed to them; `listen` reads it.
        follower: judges what comes.
        store: keeps what is taken up.
        clock: gives seconds since the Unix epoch.
        others: called with messages on other topics.

    Attributes:
        clock: gives seconds since the Unix epoch.
        follower: state of the family.
    """

    def __init__(
        self,
        link: Link,
        follower: Follower,
        store: Store,
        clock: Callable[[], float] = time.time,
        others: Callable[[Inbound], None] | None = None,
    ) -> None:
        self.clock = clock
        self.follower = follower
        self._link = link
        self._others = others
        self._driver = Driver(follower, store, clock)
        self._keys_topic, self._topic = self._driver.topics
        self._arrived: dict[str, deque[bytes]] = {topic: deque(maxlen=64) for topic in self._driver.topics}
        self._refused: dict[str, SignedRefused | None] = dict.fromkeys(self._driver.topics)
        self._saved: set[bytes] | None = None
        self._changed = asyncio.Event()
        self._failure: FlexSpecError | None = None

    async def listen(self) -> None:
        """Take what comes, until cancelled; a failure is raised where somebody waits."""
        try:
            async for event in self._link.events():
                if not isinstance(event, Inbound):
                    continue
                if event.topic in self._driver.topics:
                    await self._take(event.topic, event.payload)
                elif event.topic == topics.saved_topic():
                    ours = set(map(self._saved_word, self._driver.topics))
                    self._saved = (self._saved or set()) | (ours & {event.payload})
                elif self._others is not None:
                    self._others(event)
                self._changed.set()
        except FlexSpecError as error:
            self._failure = error
            self._changed.set()

    async def change(self) -> None:
        """Wait for a message.

        Raises:
            LinkError: the link failed for good.
            RecordError: what was taken up cannot be kept.
        """
        self._changed.clear()
        if self._failure is None:
            await self._changed.wait()
        self.check()

    def check(self) -> None:
        """See that the link lives and that records can be kept; raises as `change` does."""
        if self._failure is not None:
            raise self._failure

    def fault(self) -> str:
        """The fault of the last message on the catalogue's topic; empty if it has none."""
        refused = self._refused[self._topic]
        return "" if refused is None else refused.detail

    async def look(self, until: Callable[[], object] | None = None) -> None:
        """Wait for what the broker holds on both topics, or until something else has come; it may hold nothing."""
        until = until or (lambda: all(self._arrived.values()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(waiting.RETAINED):
                while not until():
                    await self.change()

    def keys(self) -> KeySet:
        """The key set that counts."""
        if (keys := self.follower.keys) is None:
            hint = "the root key's owner publishes one: `flexspec head trust`"
            raise self._missing(self._keys_topic, "key set", hint)
        return keys

    def catalogue(self) -> Catalogue:
        """The catalogue at the broker, verified."""
        self.keys()
        known = self.follower.catalogue
        if known is None:
            raise self._missing(self._topic, "catalogue", "the first version is published with --first")
        if self._lacks(self._topic):
            again = "`flexspec head renew` publishes again what this machine has seen last"
            raise self._missing(self._topic, "catalogue", again)
        return known

    def absent(self) -> bool:
        """Whether there is no catalogue, as far as broker and this machine's record say."""
        return self.follower.catalogue is None and not self._arrived[self._topic]

    def valid_signers(
        self, signers: Sequence[PrivateKey], *, others_sign: bool = False
    ) -> Sequence[PrivateKey]:
        """The signers whose keys are in the present key set.

        Args:
            signers: all whose keys are here.
            others_sign: whether one is enough, as others sign later.

        Raises:
            UsageError: they are less than it asks for.
        """
        keys = self.keys()
        self._check_date()
        valid = {signer.public: signer for signer in signers if signer.public in keys.keys}
        if len(valid) < (1 if others_sign else keys.threshold):
            raise UsageError(
                f"key set {keys.serial} of {keys.family} asks for {keys.threshold} signatures of its keys; "
                f"the keys given are {len(valid)} of them",
                hint="give other keys, or more, with --key, or sign on several machines, with --out; "
                "`flexspec head list` shows the key set",
            )
        return list(valid.values())

    def _check_date(self) -> None:
        if lapsed := self.follower.lapsed(self.clock()):
            raise UsageError(
                f"{lapsed}: nobody takes up a catalogue under it",
                hint="the owner of the root key signs a later one: `flexspec head trust --root FILE`",
            )

    def sealed(self, catalogue: Catalogue, signers: Sequence[PrivateKey]) -> bytes:
        """A catalogue, signed under the present key set."""
        return seal(msgspec.structs.replace(catalogue, key_set=self.keys().serial), signers)

    async def publish(self, catalogue: Catalogue, signers: Sequence[PrivateKey]) -> str:
        """Sign an edit of `follower.catalogue`, or the first catalogue, and `send` it."""
        return await self.send(self.sealed(catalogue, self.valid_signers(signers)))

    async def send(self, payload: bytes) -> str:
        """Publish a signed catalogue, read it back, and wait until the broker has it on its disk.

        Returns:
            What to tell people of a broker that does not say what is on its disk; empty of one that does.
        """
        self._check_date()
        record = self.follower.record
        await self._write(self._topic, payload)
        await asyncio.sleep(waiting.ANSWER / 2)
        known = (payload, b"" if record is None else record.catalogue)
        last = self._arrived[self._topic][-1]
        if last != payload or any(arrived not in known for arrived in self._arrived[self._topic]):
            raise self._lost_race("stands" if last == payload else "does not stand")
        return await self._wait_saved(self._topic)

    async def trust(self, payload: bytes) -> str:
        """Publish a signed key set, as `send` does a catalogue."""
        await self._write(self._keys_topic, payload)
        return await self._wait_saved(self._keys_topic)

    async def restore_keys(self) -> None:
        """Publish the key set that this machine remembers, if the broker holds none or an older one; see `trust`."""
        record = self.follower.record
        if record is not None and self._lacks(self._keys_topic):
            await self.trust(record.keys)

    def _saved_word(self, topic: str) -> bytes:
        """Payload by which the broker tells that what we published is on its disk."""
        return topics.saved(topic.encode(), self._link.settings.client_id.encode())

    async def _wait_saved(self, topic: str) -> str:
        if self._saved is None:
            return _UNKNOWN
        try:
            async with asyncio.timeout(waiting.CONNECT):
                while self._saved_word(topic) not in self._saved:
                    await self.change()
        except TimeoutError:
            raise LinkDown(
                f"the broker holds the message on {topic}, and has not written it to its disk in {waiting.CONNECT:g} s",
                hint="look at the log and the disk of the broker; then `flexspec head renew`, or `trust` again",
            ) from None
        return ""

    async def _write(self, topic: str, payload: bytes) -> None:
        """Publish, wait until the broker has given it back, and until it is taken up."""
        self._arrived[topic].clear()
        if self._saved is not None:
            self._saved.discard(self._saved_word(topic))
        await self._link.publish(topic, payload, qos=1, retain=True)
        try:
            async with asyncio.timeout(waiting.CONNECT):
                while payload not in self._arrived[topic]:
                    await self.change()
        except TimeoutError:
            raise LinkDown(
                f"the broker took the message on {topic} and did not give it back within {waiting.CONNECT:g} s",
                hint="look at `flexspec head list` before you try again",
            ) from None
        refused = self._refused[topic]
        if refused is None or self._arrived[topic][-1] != payload:
            return
        if refused.reason in (Reason.EQUIVOCATION, Reason.ROLLBACK) and len(self._arrived[topic]) > 1:
            raise self._lost_race("is refused by all who saw the other")
        raise UsageError(
            f"what was published on {topic} is refused: {refused.detail}",
            hint="look at `flexspec head list`, and at this machine's clock",
        )

    async def _take(self, topic: str, payload: bytes) -> None:
        for where, outcome in await self._driver.judge(topic, payload):
            if isinstance(outcome, RecordError):
                raise outcome
            self._refused[where] = outcome if isinstance(outcome, SignedRefused) else None
            if isinstance(outcome, SignedRefused):
                _log.info("refused on %s: %s", where, outcome.detail)
        self._arrived[topic].append(payload)

    def _lacks(self, topic: str) -> bool:
        """Whether the broker holds nothing on a topic, or what is refused."""
        return not self._arrived[topic] or self._refused[topic] is not None

    def _lost_race(self, outcome: str) -> LostRace:
        return LostRace(
            f"another publisher wrote for {self.follower.family} at the same time; this change {outcome}",
            hint="look at `flexspec head list`, and try again what is missing",
        )

    def _missing(self, topic: str, title: str, hint: str) -> UsageError:
        family = self.follower.family
        if (refused := self._refused[topic]) is not None:
            return UsageError(f"the broker's {title} of {family} is refused: {refused.detail}", hint=hint)
        return UsageError(f"the broker holds no {title} of {family}", hint=hint)


@asynccontextmanager
async def catalogue_client(
    config: HeadConfig,
    root: bytes,
    filters: Sequence[str] = (),
    others: Callable[[Inbound], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[CatalogueClient]:
    """Connect, and follow a family until the block ends.

    `others` is called with messages on the topics of `filters`.

    Raises:
        LinkError: the broker cannot be reached or refuses us, then or later.
        RecordError: this machine's record is damaged, or of another root key.
    """
    family = config.head.named_family()
    store = Store(config.head.state_folder(), family)
    follower = Follower(family, root, store.load(), renews=True)
    settings = replace(
        link_settings(config.link, f"flexspec-head-{secrets.token_hex(4)}"),
        subscriptions=tuple(Subscription(topic) for topic in (*topics_of(family), *filters)),
    )
    async with mqtt_link(settings) as link:
        await link.wait_up(2 * waiting.CONNECT if settings.give_up_after is None else None)
        # A broker with other rules does not say what is on its disk.
        with contextlib.suppress(LinkRefused):
            await link.subscribe(topics.saved_topic())
        client = CatalogueClient(link, follower, store, clock, others)
        async with running(client.listen(), "catalogue client"):
            yield client


def connected(
    args: argparse.Namespace,
    work: Callable[[CatalogueClient], Coroutine[Any, Any, None]],
    filters: Sequence[str] = (),
    others: Callable[[Inbound], None] | None = None,
    *,
    root: bytes | None = None,
) -> int:
    """Do a command's work with a family's topics, once what the broker holds has been read; returns the exit code."""
    config = head_config(args)
    root_key = config.head.root() if root is None else root

    async def run() -> None:
        async with stoppable(), catalogue_client(config, root_key, filters, others) as client:
            await client.look()
            for keys in client.follower.dated:
                if words := keys.warning(client.clock()):
                    logs.tell(f"{words}: {keys.advice}")
            await work(client)

    asyncio.run(run())
    return 0
