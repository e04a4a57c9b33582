"""All texts of the API: how many at a time, and one session for each idempotency key."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from edge_node.api.errors import ApiError, api_error, stopping
from edge_node.completion.completion import End, Text
from flexspec_mq.errors import FlexSpecError

if TYPE_CHECKING:
    from edge_node.api.metrics import Metrics
    from edge_node.api.requests import TextRequest
    from edge_node.api.settings import ApiSettings
    from edge_node.completion.generator import CompletionGenerator

SEED_BITS = 53
"""Of seeds that we draw: clients read numbers from JSON, some of them as floats."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Once:
    """What makes two requests the same.

    Attributes:
        key: the client's idempotency key.
        body: endpoint and body, in canonical form.
    """

    key: str
    body: bytes

    @property
    def seed(self) -> int:
        """The same for the same key and body, also after the node was started again."""
        digest = blake2b(self.body, key=blake2b(self.key.encode(), digest_size=32).digest(), digest_size=8)
        return int.from_bytes(digest.digest(), "big") >> (64 - SEED_BITS)


@dataclass(slots=True)
class _Kept:
    """A text under its key.

    Attributes:
        ended: when; None while it is being written.
    """

    text: Text
    digest: bytes
    ended: float | None = None


class Texts:
    """Starts texts, and ends those that nobody reads.

    Args:
        writer: writes one.
        settings: limits.
        metrics: told how texts end.
    """

    def __init__(self, writer: CompletionGenerator, settings: ApiSettings, metrics: Metrics) -> None:
        self._writer = writer
        self._settings = settings
        self._metrics = metrics
        self._active: dict[Text, asyncio.Task[tuple[End, str]] | None] = {}  # None: only read
        self._kept: dict[str, _Kept] = {}  # in the order in which they were asked for
        self._pace = 1.0  # seconds that a text takes, smoothed
        self._closed = False

    def __len__(self) -> int:
        """Texts being written or read."""
        return len(self._active)

    @property
    def kept(self) -> int:
        """Texts under an idempotency key."""
        return len(self._kept)

    @contextmanager
    def reading(self, wanted: TextRequest, version: str, once: Once | None) -> Iterator[Text]:
        """A new text, or the one that has the same key, for as long as the block reads it.

        When the last reader leaves a text that is not complete, its session is cancelled and its key is free.

        Raises:
            ApiError: 429, too many; 422, the key was used for another request; 503, the node stops.
        """
        if self._closed:
            raise stopping()
        self._forget_old()
        text = self._known(once) or self._start(wanted, version, once)
        text.readers += 1
        try:
            yield text
        finally:
            text.readers -= 1
            if not text.readers:
                self._abandoned(text, once)

    async def close(self) -> None:
        """Take no more; end those that are being written with an error that says why."""
        self._closed = True
        for text in self._active:
            text.finish(End(None, error=stopping()))
        tasks = [task for task in self._active.values() if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._settings.grace)
        self._writer.close()

    def _known(self, once: Once | None) -> Text | None:
        kept = None if once is None else self._kept.get(once.key)
        if once is None or kept is None:
            return None
        if kept.digest != blake2b(once.body).digest():
            raise ApiError(
                422, "this idempotency key was used for another request", code="idempotency_key_reused"
            )
        if kept.text.readers >= self._settings.max_readers:
            raise self._too_many("too many requests with this idempotency key read its text")
        if kept.text not in self._active:
            self._make_room()
            self._active[kept.text] = None
        return kept.text

    def _start(self, wanted: TextRequest, version: str, once: Once | None) -> Text:
        self._make_room()
        text = Text(wanted, version, secrets.randbits(SEED_BITS) if once is None else once.seed)
        task = self._active[text] = asyncio.create_task(self._write(text), name=f"text {text.id}")
        task.add_done_callback(partial(self._ended, text, once))
        if once is not None:
            self._kept[once.key] = _Kept(text, blake2b(once.body).digest())
        return text

    def _make_room(self) -> None:
        if len(self._active) >= self._settings.max_texts:
            raise self._too_many(f"{len(self._active)} texts are being written or read, as many as may be")

    def _too_many(self, message: str) -> ApiError:
        # A place becomes free about every pace / limit seconds.
        wait = min(30, max(1, math.ceil(self._pace / self._settings.max_texts)))
        return ApiError(429, message, code="too_many_texts", retry_after=wait)

    async def _write(self, text: Text) -> tuple[End, str]:
        """Write a text; returns its end, and the outcome for the metrics."""
        try:
            end = await self._writer.write(text)
        except FlexSpecError as error:
            said = api_error(error)
            return End(None, error=said), "deadline" if said.status == 504 else "failed"
        except Exception:  # noqa: BLE001  the top of a text's task; logged with its traceback
            _log.exception("text %s failed", text.id)
            said = ApiError(500, "the edge node failed; its log says how", code="internal")
            return End(None, error=said), "failed"
        return end, end.reason or "failed"

    def _ended(self, text: Text, once: Once | None, task: asyncio.Task[tuple[End, str]]) -> None:
        """A text's task is over, or was cancelled, maybe before it began."""
        if task.cancelled():
            end, outcome = End(None, error=stopping()), "stopped" if self._closed else "cancelled"
        else:
            end, outcome = task.result()
        text.finish(end)
        self._metrics.texts.labels(outcome).inc()
        now = time.monotonic()
        self._pace += (now - text.began - self._pace) / 8
        kept = self._kept_as(text, once)
        if kept is not None and text.complete:
            kept.ended = now
        elif once is not None and kept is not None:
            del self._kept[once.key]  # asking again may succeed
        if not text.readers:
            self._release(text)

    def _kept_as(self, text: Text, once: Once | None) -> _Kept | None:
        kept = None if once is None else self._kept.get(once.key)
        return kept if kept is not None and kept.text is text else None

    def _abandoned(self, text: Text, once: Once | None) -> None:
        """The last reader left."""
        task = self._active[text]
        if task is None or task.done():
            self._release(text)
            return
        if once is not None and self._kept_as(text, once) is not None:
            del self._kept[once.key]
        task.cancel()

    def _release(self, text: Text) -> None:
        self._active.pop(text, None)
        text.settle()

    def _forget_old(self) -> None:
        """Forget complete texts that are too old or too many, the oldest first. Those being read stay readable."""
        settings = self._settings
        complete = [(key, kept) for key, kept in self._kept.items() if kept.ended is not None]
        size = sum(kept.text.size for _, kept in complete)
        count = len(complete)
        since = time.monotonic() - settings.keep_for
        for key, kept in complete:
            old = kept.ended is not None and kept.ended < since
            if not (old or count > settings.keep_texts or size > settings.keep_bytes):
                continue
            del self._kept[key]
            count -= 1
            size -= kept.text.size
