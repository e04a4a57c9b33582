"""How much a user may ask: a token bucket of asks, texts at a time, answers that are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from edge_node.api.errors import ApiError
from flexspec_mq import waiting
from flexspec_mq.daemon.expiring import ExpiringMap

if TYPE_CHECKING:
    from edge_node.asking.settings import AskSettings

_WAITING = 4
"""Asks at a time of a user, for each of its texts; the others wait."""


class AskClient:
    """A client that asks.

    Attributes:
        asks: asks that are being answered or wait.
    """

    def __init__(self, settings: AskSettings, now: float) -> None:
        self.asks = 0
        self._settings = settings
        self._left = settings.ask_per_minute
        self._at = now
        self._tell_at = now
        self._texts = asyncio.Semaphore(settings.ask_texts)
        self._kept = ExpiringMap[str, None](most=settings.max_kept)

    def take(self, now: float) -> bool:
        """Take an ask out of the bucket, which holds those of a minute; whether there was one, and room to wait."""
        each = self._settings.ask_per_minute
        self._left = min(max(each, 1.0), self._left + (now - self._at) * each / 60)
        self._at = now
        if self._left < 1 or self.asks >= _WAITING * self._settings.ask_texts:
            return False
        self._left -= 1
        return True

    def too_many(self, now: float) -> ApiError | None:
        """The answer to an ask that was not taken; none if one was given a moment ago."""
        if now < self._tell_at:
            return None
        self._tell_at = now + waiting.ANSWER
        each, most = self._settings.ask_per_minute, _WAITING * self._settings.ask_texts
        return ApiError(
            429,
            f"one user may have {each:g} asks a minute, and {most} at a time",
            code="too_many_asks",
            retry_after=max(1, round(60 * (1 - self._left) / each)),
        )

    def keep(self, topic: str, seconds: float, now: float) -> None:
        """Have an answer kept on a topic.

        Raises:
            ApiError: too many are kept already.
        """
        self._kept.expire(now)
        if topic not in self._kept and len(self._kept) >= self._settings.max_kept:
            raise ApiError(
                429,
                f"{len(self._kept)} answers are kept for one user, as many as may be",
                code="too_many_kept",
            )
        self._kept.put(topic, None, now, seconds)

    def forget(self, topic: str) -> None:
        """Have nothing kept on a topic any more."""
        self._kept.pop(topic)

    @asynccontextmanager
    async def text(self, patience: float) -> AsyncIterator[None]:
        """A place for one of the user's texts, for as long as the block.

        Raises:
            ApiError: there is none within `patience` seconds.
        """
        if self._texts.locked() and not patience:
            raise self._no_place()
        try:
            async with asyncio.timeout(patience or None):
                await self._texts.acquire()
        except TimeoutError:
            raise self._no_place() from None
        try:
            yield
        finally:
            self._texts.release()

    def _no_place(self) -> ApiError:
        most = self._settings.ask_texts
        return ApiError(
            429,
            f"{most} texts are being written for one user, as many as may be",
            code="too_many_texts",
            retry_after=1,
            hint="an ask with `wait` waits for its turn",
        )
