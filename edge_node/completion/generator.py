"""Writes a text: one session of the edge node, from the prompt's tokens to shown characters."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from edge_node.api.errors import ApiError, api_error, deadline, stopping, unreachable
from edge_node.api.prompts import encode
from edge_node.completion.completion import End, Figures
from edge_node.completion.events import pieces
from edge_node.completion.stops import StopFilter
from edge_node.generation import GenerationRequest
from flexspec_mq.models.text import StreamDecoder
from flexspec_mq.protocol.effects import Commit, Finish, FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    from edge_node.api.metrics import Metrics
    from edge_node.api.prompts import TextModel
    from edge_node.api.settings import ApiSettings
    from edge_node.completion.completion import Text
    from edge_node.generation import Generation
    from edge_node.node import EdgeNode
    from flexspec_mq.controller.plan import Policy

_log = logging.getLogger(__name__)

_REASONS: dict[FinishReason, Literal["stop", "length"]] = {
    FinishReason.EOS: "stop",
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
}


class CompletionGenerator:
    """Writes texts through one edge node.

    Args:
        node: runs.
        model: whose tokenizer prompts and answers go through.
        policy: makes the policy of each session.
        settings: of the API.
        metrics: told what happens.
    """

    def __init__(
        self,
        node: EdgeNode,
        model: TextModel,
        policy: Callable[[], Policy],
        settings: ApiSettings,
        metrics: Metrics,
    ) -> None:
        self._node = node
        self._model = model
        self._policy = policy
        self._settings = settings
        self._metrics = metrics
        self._encoding = ThreadPoolExecutor(1, "encoder")  # a long prompt must not hold up the event loop

    def close(self) -> None:
        """Take no more prompts."""
        self._encoding.shutdown(wait=False, cancel_futures=True)

    async def write(self, text: Text) -> End:
        """Write a text; cancelling this cancels its session, up to the worker.

        Returns:
            How the text ended, if it is complete.

        Raises:
            FlexSpecError: what made it fail.
        """
        loop = asyncio.get_running_loop()
        prompt = await loop.run_in_executor(self._encoding, encode, self._model, text.wanted)
        # A session would wait for the link as long as its deadline allows. That is right for one that is under way;
        # a client that has seen nothing yet can still go elsewhere.
        if not await self._node.wait_up(self._settings.link_patience):
            raise unreachable(self._settings.link_patience)
        generation = self._node.generate(self._request(text, prompt))
        _log.info("text %s is session %d", text.id, generation.session)
        self._metrics.tokens.labels("prompt").inc(len(prompt))
        try:
            reason = await self._follow(text, generation)
        finally:
            self._node.cancel(generation)
            figures = self._figures(text, generation)
            self._metrics.took(figures)
        return End(reason, figures)

    def _request(self, text: Text, prompt: tuple[int, ...]) -> GenerationRequest:
        wanted = text.wanted
        room = self._model.max_context - len(prompt)
        left = self._settings.timeout - (time.monotonic() - text.began)
        return GenerationRequest(
            prompt=prompt,
            sampling=wanted.sampling(text.drawn_seed),
            limit=room if wanted.limit is None else min(wanted.limit, room),
            policy=self._policy(),
            ignore_eos=wanted.ignore_eos,
            finish_at=_StopFinder(self._model, wanted.stops) if wanted.stops else None,
            timeout=max(left, 0.001),
            version=None if text.version == self._settings.version else text.version,
        )

    async def _follow(self, text: Text, generation: Generation) -> Literal["stop", "length"]:
        """Show what is committed until the text is complete."""
        decoder = StreamDecoder(self._model.tokenizer)
        stops = StopFilter(text.wanted.stops)
        last: float | None = None
        async for event in generation:
            if isinstance(event, Finish):
                return self._complete(text, generation, event, stops, decoder.finish())
            last = self._time(event, text.began, last)
            found = pieces(decoder, event)
            text.origins.add(found)
            text.add("".join(stops.push(piece) for piece, _ in found))
        raise stopping()

    def _complete(
        self, text: Text, generation: Generation, finish: Finish, stops: StopFilter, rest: str
    ) -> Literal["stop", "length"]:
        """Show the end of a text.

        Raises:
            ApiError: it is not complete.
        """
        reason = _REASONS.get(finish.reason)
        if reason is None:
            raise self._failed(generation, finish)
        text.origins.add([(rest, False)])
        text.add(stops.push(rest))
        if stops.hit:
            return "stop"
        text.add(stops.finish())
        return reason

    def _failed(self, generation: Generation, finish: Finish) -> ApiError:
        if finish.reason is FinishReason.DEADLINE:
            return deadline(self._settings.timeout)
        if finish.error is None:
            return stopping()
        machine = generation.machine
        return api_error(finish.error, busy=machine.counters.busy > 0 and not machine.observation.committed)

    def _time(self, commit: Commit, began: float, last: float | None) -> float:
        now = time.monotonic()
        if last is None:
            self._metrics.first_token.observe(now - began)
        else:
            self._metrics.per_token.observe((now - last) / len(commit.tokens))
        self._metrics.tokens.labels("completion").inc(len(commit.tokens))
        return now

    def _figures(self, text: Text, generation: Generation) -> Figures:
        machine, traffic = generation.machine, generation.traffic
        seen = machine.observation
        return Figures(
            prompt_tokens=len(generation.request.prompt),
            completion_tokens=seen.committed,
            drafted=seen.drafted,
            accepted=seen.accepted,
            looked_up=machine.counters.looked_up_accepted,
            rounds=machine.counters.rounds,
            bytes_up=traffic.up,
            bytes_down=traffic.down,
            version=text.version,
            seed=generation.request.sampling.seed,
            exactness=self._node.directory.exactness(text.version),
        )


class _StopFinder:
    """Tells the protocol at which token a stop string is complete; see `SessionRequest.finish_at`.

    It reads each committed token once. They never change, and come in order.
    """

    def __init__(self, model: TextModel, stops: Sequence[str]) -> None:
        self._decoder = StreamDecoder(model.tokenizer)
        self._filter = StopFilter(stops)
        self._read = 0

    def __call__(self, committed: Sequence[int]) -> int | None:
        while self._read < len(committed):
            self._filter.push(self._decoder.push([committed[self._read]]))
            self._read += 1
        return len(committed) if self._filter.hit else None
