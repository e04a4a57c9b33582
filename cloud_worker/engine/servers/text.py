"""A session's text at the server: drafts are verified there, and one long request goes on where there are none."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import msgspec

from cloud_worker.engine.acceptance import decide
from cloud_worker.engine.grammars import MOST_FORCED
from cloud_worker.engine.servers.rule import by_rule, chosen
from cloud_worker.engine.servers.server import GREEDY, Row
from flexspec_mq.errors import GrammarError, ServerRefused
from flexspec_mq.protocol.worker.types import ALL_ROWS, DraftRows
from schemas.messages import Sampling

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence

    from cloud_worker.engine.grammars import TextGrammars
    from cloud_worker.engine.servers.server import Server
    from flexspec_mq.grammar.matcher import Mask
    from flexspec_mq.protocol.worker.types import WorkItem

_UNREAD = 64
"""Tokens that a server may have to read before a draft: with more it decides one token first, as all prefixes of one
request would be read whole."""
_LIKELIEST = 20
"""Tokens of a row among which a nucleus or an allowed token nearly always is; vLLM's usual ``--max-logprobs``."""
_STEP = 0x9E3779B97F4A7C15


class _Stream:
    """Rows that a server writes by itself, as they come, behind `begins` tokens."""

    def __init__(self, rows: AsyncGenerator[Row], begins: int) -> None:
        self._begins = begins
        self._rows: list[Row] = []
        self._more = asyncio.Event()
        self._error: Exception | None = None
        self._task = asyncio.create_task(self._read(rows))

    async def _read(self, rows: AsyncGenerator[Row]) -> None:
        try:
            async with contextlib.aclosing(rows):
                async for row in rows:
                    self._rows.append(row)
                    self._more.set()
        except Exception as error:  # noqa: BLE001  raised where its rows are waited for
            self._error = error
        finally:
            self._more.set()

    def behind(self, context: Sequence[int]) -> list[Row] | None:
        """Rows behind a context; None where that is not what the server has written, or it has ended there."""
        since = len(context) - self._begins
        if not 0 <= since <= len(self._rows) or (self._task.done() and since == len(self._rows)):
            return None
        if any(row.token != token for row, token in zip(self._rows, context[self._begins :], strict=False)):
            return None
        return self._rows[since:]

    async def more(self) -> None:
        """Wait for another row, or the end.

        Raises:
            ServerGone, ServerRefused: the stream broke.
        """
        self._more.clear()
        if not self._task.done():
            await self._more.wait()
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


class ServedText:
    """A session's text at the server.

    Args:
        server: the server.
        most: Likeliest tokens of a row that it tells at most.
        read: Tokens that it has read already.
    """

    def __init__(self, server: Server, most: int, read: int = 0) -> None:
        self._server, self._most, self.read = server, most, read
        self._stream: _Stream | None = None

    async def decide(
        self, item: WorkItem, model: str, grammars: TextGrammars | None
    ) -> tuple[tuple[int, ...], DraftRows]:
        """Decide one token of an item, or more.

        Raises:
            ServerGone, ServerRefused: the server cannot be asked.
            GrammarError: the text cannot go on by its grammar.
        """
        params, context, draft = item.identity.sampling, [*item.context], item.draft
        eos = () if item.identity.ignore_eos else item.identity.eos
        masks: list[Mask] | None = None
        if grammars is not None and item.identity.grammar is not None:
            if forced := grammars.forced(item, (), MOST_FORCED):
                return forced, DraftRows(forced=len(forced))
            found = grammars.masks(item, draft)
            if isinstance(found, GrammarError):
                raise found
            masks, draft = found, draft[: len(found) - 1]
        tokens: tuple[int, ...] = ()
        rows: Sequence[Row] = []
        sampled = masks is None and self._server.samples(params)
        if sampled or by_rule(params, self._most):
            draft = draft if len(context) - self.read <= _UNREAD else ()
            rows = _along(self._ahead(context) or [], draft)
            most, sampling = (0, params) if sampled else (_wanted(params, masks, self._most), GREEDY)
            if not rows and draft:
                await self.close()
                rows = await self._server.rows(model, context, draft, most, sampling)
            elif not rows:
                rows = await self._streamed(item, model, context, most, sampling)
            choices = (row.token for row in rows)
            tokens = decide(choices if sampled else _choices(rows, params, len(context), masks), draft, eos)
        elif masks is None:
            rows = await self._streamed(item, model, context, 0, params)
            tokens = decide((row.token for row in rows), draft, eos)
        if not tokens:  # the likeliest do not tell, so the server's own noise decides
            allowed = None if masks is None else [int(token) for token in masks[0].nonzero()[0]]
            sampling = self._sampling(params, item.start)
            tokens = ((await self._server.rows(model, context, (), 0, sampling, allowed))[0].token,)
            if masks is not None and not masks[0][tokens[0]]:
                raise ServerRefused(f"{self._server.url} chose token {tokens[0]}, which the grammar forbids")
        self.read = len(context)
        compared = min(len(draft), len(rows))
        return tokens, ALL_ROWS if compared == len(item.draft) else DraftRows(granted=compared)

    def _ahead(self, context: Sequence[int]) -> list[Row] | None:
        return None if self._stream is None else self._stream.behind(context)

    async def _streamed(
        self, item: WorkItem, model: str, context: Sequence[int], most: int, params: Sampling
    ) -> list[Row]:
        """Rows that the server writes by itself behind a context, at least one."""
        eos = () if item.identity.ignore_eos else item.identity.eos
        while not (rows := self._ahead(context)):
            if self._stream is None or rows is None:
                await self.close()
                sampling, length = self._sampling(params, item.start), item.identity.limit - item.start
                written = self._server.stream(model, context, most, sampling, length, eos)
                self._stream = _Stream(written, len(context))
            try:
                await self._stream.more()
            except BaseException:
                await self.close()
                raise
        return rows

    def _sampling(self, params: Sampling, start: int) -> Sampling:
        """Parameters for the server's own sampling.

        Noise that goes by requests has the seed for a text from its beginning, and another where it is taken up again.
        """
        if self._server.samples(params):
            return params
        return msgspec.structs.replace(params, seed=(params.seed ^ (_STEP * start)) % 2**64)

    async def close(self) -> None:
        """Stop what the server writes by itself."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.close()


def _along(rows: Sequence[Row], draft: Sequence[int]) -> Sequence[Row]:
    """Rows behind a draft's tokens: those up to where the server itself wrote another one."""
    agreed = sum(1 for _ in takewhile(lambda pair: pair[0].token == pair[1], zip(rows, draft, strict=False)))
    return rows[: agreed + 1]


def _choices(
    rows: Iterable[Row], params: Sampling, position: int, masks: Sequence[Mask] | None
) -> Iterator[int]:
    """Tokens by our rule, up to the first row that does not tell."""
    for place, row in enumerate(rows if masks is None else islice(rows, len(masks))):
        token = chosen(row, params, position + place, None if masks is None else masks[place])
        if token is None:
            return
        yield token


def _wanted(params: Sampling, masks: Sequence[Mask] | None, most: int) -> int:
    """Likeliest tokens of a row that usually tell what our rule chooses."""
    return params.top_k if 0 < params.top_k <= most and masks is None else min(most, _LIKELIEST)
