"""Users: they ask a device for texts, read, leave, come back, and compare what they are shown with the target's."""

from __future__ import annotations

import asyncio
from functools import partial
from hashlib import blake2b

from edge_node.outbox.entries import OutboxError
from edge_node.text.machine import Text
from edge_node.text.reading import read
from edge_node.text.spec import IdempotencyKey, TextRequest, TextSpec
from edge_node.text.texts import Texts, TooManyTexts
from flexspec_mq import entropy, waiting
from flexspec_mq.errors import Cancelled, FlexSpecError
from flexspec_mq.protocol.edge.types import SessionRequest
from lab.sim.history import History, Promise
from lab.sim.model import LETTERS
from lab.sim.nodes import SimDevice
from lab.sim.schedule import Ask
from lab.simulator.world import VOCAB, FakeTarget, identity
from schemas.messages import PartialSampling

TRIES = 40
"""Times that a user asks again before the last phase."""


class User:
    """A user with one request.

    Attributes:
        ask: the request.
        promise: record of what the user was told.
        done: whether the user wants no more.
    """

    def __init__(self, target: FakeTarget, device: SimDevice, ask: Ask, history: History) -> None:
        self.ask = ask
        self._device = device
        self._history = history
        prompt = tuple((ask.number // VOCAB**place) % (VOCAB - 1) for place in range(4))
        asked = SessionRequest(
            session=1, version="base", identity=identity(seed=ask.number, limit=ask.limit), prompt=prompt
        )
        tokens, _ = target.text(asked)
        key = "" if ask.mode == "plain" else f"k{ask.number}"
        self.promise = Promise(ask.number, device.name, LETTERS.decode(list(tokens)), key)
        history.promises.append(self.promise)
        self._wanted = TextRequest(
            spec=TextSpec(
                prompt=prompt,
                sampling=PartialSampling(0.7, 40, 0.9),
                seed=ask.number,
                limit=ask.limit,
                wait=ask.wait or None,
                offline=None if ask.mode == "plain" else ask.mode,
            )
        )
        digest = blake2b(self._wanted.pack(), digest_size=16).digest()
        self._key = IdempotencyKey(key, digest, "/v1/completions") if key else None
        self.done = False
        self.hurry = False  # the last phase
        self._heard = 0.0
        self._fresh = False  # it has read the text from its beginning on
        self.task = asyncio.create_task(self._wants(), name=f"user {ask.number}")

    def _note(self, what: str) -> None:
        self._history.note(f"user {self.ask.number}", what)

    async def _wants(self) -> None:
        leaves = self.ask.leaves
        tries = 0
        while not self.done:
            tries += 1
            life = None
            try:
                life = self._device.life
                complete = await self._device.call(partial(self._read, leaves=leaves))
            except TooManyTexts as full:
                await asyncio.sleep(full.retry_after)
                continue
            except OutboxError as error:
                self._note(f"is told: {error.message}")
                await asyncio.sleep(waiting.ANSWER)
                continue
            except FlexSpecError as error:
                self._told(error, same=life == self._device.life, leaves=leaves)
                complete = False
            except Exception as error:  # noqa: BLE001  a broken rule
                self._history.crashed(f"user {self.ask.number}", error)
                self.done = True
                return
            if complete:
                self.done = True
                return
            if not self.promise.key and (self.promise.failures or not self._device.up.is_set()):
                self.done = True  # without a key whoever loses an answer has lost it
                return
            if leaves:
                await asyncio.sleep(self.ask.away)
                leaves = 0.0
            elif tries >= TRIES and not self.hurry:
                await asyncio.sleep(5 * waiting.ANSWER)
            else:
                await asyncio.sleep(0.3 * waiting.ANSWER)

    def _told(self, error: FlexSpecError, *, same: bool, leaves: float) -> None:
        promise, now = self.promise, entropy.now()
        if isinstance(error, Cancelled):
            return  # it ends, and what has a key goes on
        promise.failures.append((now, str(error)))
        self._history.counts["failures told"] += 1
        self._note(f"is told: {error.message}")
        if self.ask.wait and same and self._fresh and not leaves:
            self._history.patience(self.ask, self._heard, now, error)

    async def _read(self, texts: Texts, leaves: float) -> bool:
        """Read the text; whether it was all."""
        promise, now = self.promise, entropy.now()
        self._heard, self._fresh = now, False
        ends = now + leaves if leaves else None
        async with texts.reading(self._wanted, self._key) as text:
            if promise.key and not promise.acknowledged:
                promise.acknowledged = True
                self._note("is acknowledged")
            shown, self._fresh = "", text.began >= now
            try:
                async with asyncio.timeout_at(ends):
                    async for part in read(text, 5 * waiting.ANSWER):
                        shown += part.text
                        if part.text:
                            self._heard = entropy.now()
                            self._see(shown)
            except TimeoutError:
                self._note("leaves")
                return False
            return self._ended(text, shown)

    def _see(self, shown: str) -> None:
        promise = self.promise
        if not promise.text.startswith(shown):
            self._history.broken(f"text {promise.number} shows {shown!r}, and is {promise.text!r}")
        if len(shown) > len(promise.shown):
            promise.shown = shown

    def _ended(self, text: Text, shown: str) -> bool:
        promise, end = self.promise, text.end
        assert end is not None
        if end.error is not None:
            if not isinstance(end.error, Cancelled):
                promise.acknowledged = False  # until it is asked for again
            raise end.error
        if end.reason == "provisional":
            self._note("has a provisional answer")
            self._history.counts["provisional"] += 1
            promise.acknowledged = False
            return False
        if shown != promise.text:
            self._history.broken(f"text {promise.number} ended as {shown!r}, and is {promise.text!r}")
        promise.answered, promise.read, promise.from_memory = entropy.now(), True, self._device.full
        self._history.counts["answers"] += 1
        self._note(f"has the answer, {len(shown)} characters")
        return True
