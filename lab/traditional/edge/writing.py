"""The device's side of a text: draft, publish, wait, and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.models.text import StreamDecoder, Turn, encode_turns
from flexspec_mq.sampling.params import SamplingParams
from lab.bench.traditional.messages import Start, Verdict, decode, encode, guesses
from lab.bench.traditional.order import Order
from lab.bench.traditional.schemes import SCHEMES

if TYPE_CHECKING:
    from edge_node.energy import EnergyMeter, TextEnergy
    from flexspec_mq.models.load import LoadedText
    from lab.bench.traditional.channel import Channel
    from lab.traditional.edge.drafting import Drafts

T = TypeVar("T")


@dataclass(slots=True)
class _Text:
    """A text while it is written, and what was counted."""

    order: Order
    params: SamplingParams
    prompt: tuple[int, ...]
    limit: int
    decoder: StreamDecoder
    rng: np.random.Generator
    began: float
    energy: TextEnergy | None
    context: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    first: float | None = None
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    up: int = 0
    down: int = 0

    @property
    def written(self) -> int:
        return len(self.context) - len(self.prompt)

    def add(self, tokens: tuple[int, ...]) -> None:
        """Show what has been decided."""
        self.context += tokens
        self._show(self.decoder.push(tokens))

    def answer(self) -> dict[str, Any]:
        """As `lab.bench.testbed.client_process` tells of an edge node's answer."""
        self._show(self.decoder.finish())
        own = {
            "proposed": self.drafted,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "rounds": self.rounds,
            "bytes_up": self.up,
            "bytes_down": self.down,
            "energy_j": None if self.energy is None else self.energy.spent(time.perf_counter()).joules,
        }
        return {
            "text": "".join(self.pieces),
            "seconds": time.perf_counter() - self.began,
            "first": self.first,
            "usage": {"completion_tokens": self.written, "flexspec": own},
            "error": "",
        }

    def sent(self, payload: bytes) -> None:
        """A message goes up."""
        self.up += len(payload)
        if self.energy is not None:
            self.energy.sent(len(payload), time.perf_counter())

    def received(self, payload: bytes) -> None:
        """A message has come."""
        self.down += len(payload)
        if self.energy is not None:
            self.energy.received(len(payload), time.perf_counter())

    def _show(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
            if self.first is None:
                self.first = time.perf_counter() - self.began


class Writer:
    """Writes one text after the other.

    Args:
        loaded: of the draft.
        drafts: the draft.
        channels: to the target, by transport.
        compute: one thread for the draft, so that messages flow while it works.
        energy: of the device; None where nobody wants to know.
    """

    def __init__(
        self,
        loaded: LoadedText,
        drafts: Drafts,
        channels: Mapping[str, Channel],
        compute: Executor,
        energy: EnergyMeter | None = None,
    ) -> None:
        self._loaded = loaded
        self._drafts = drafts
        self._channels = channels
        self._compute = compute
        self._energy = energy
        self._texts = 0

    async def write(self, order: Order) -> dict[str, Any]:
        """Write a text; the answer as `lab.bench.testbed.client_process` gives it.

        Raises:
            UsageError: the prompt does not fit, or no text can be sampled like this.
            LinkError: the target cannot be reached any more.
            RemoteProtocolError: what came from there is no answer.
        """
        began = time.perf_counter()
        loaded = self._loaded
        prompt = encode_turns(loaded.tokenizer, [Turn("user", order.prompt)], max_context=loaded.max_context)
        text = _Text(
            order,
            SamplingParams(order.temperature, order.top_k, order.top_p, order.seed),
            prompt,
            min(order.tokens, loaded.max_context - len(prompt)),
            StreamDecoder(loaded.tokenizer),
            np.random.default_rng([order.seed, 0]),
            began,
            None if self._energy is None else self._energy.text(began),
            [*prompt],
        )
        self._texts += 1
        transport = SCHEMES[order.scheme].transport
        if transport == "none":
            await self._alone(text)
        else:
            await self._together(text, self._channels[transport])
        return text.answer()

    async def _alone(self, text: _Text) -> None:
        while not self._ended(text):
            token = await self._run(
                text, lambda: self._drafts.next(text.order.scheme, text.context, text.params, text.rng)
            )
            text.add((token,))

    async def _together(self, text: _Text, channel: Channel) -> None:
        order, params = text.order, text.params
        start = Start(
            order.scheme,
            self._texts,
            text.prompt,
            params.temperature,
            params.top_k,
            params.top_p,
            params.seed,
            self._loaded.eos,
        )
        # The target reads the prompt while the first guesses are drafted.
        self._send(text, channel, encode(start))
        while not self._ended(text):
            payload, tokens = await self._run(text, lambda: self._round(text))
            self._send(text, channel, payload)
            verdict = await self._verdict(text, channel)
            kept = len(verdict.tokens) - 1
            if kept < len(tokens) and verdict.tokens[kept] == tokens[kept]:
                kept += 1  # an end of text that was guessed
            if list(verdict.tokens[:kept]) != tokens[:kept] or len(verdict.tokens) > len(tokens) + 1:
                raise RemoteProtocolError("a verdict does not belong to the guesses")
            text.drafted += len(tokens)
            text.accepted += kept
            text.add(verdict.tokens)

    def _round(self, text: _Text) -> tuple[bytes, list[int]]:
        """Draft, and make the message of a round."""
        order, scheme = text.order, SCHEMES[text.order.scheme]
        text.rounds += 1
        count = min(order.guesses, text.limit - text.written - 1)
        found = self._drafts.guess(order.scheme, text.context, count, text.params, scheme, text.rng)
        message = guesses(self._texts, text.rounds, found.tokens, found.sent)
        return encode(message, compressed=scheme.compressed), found.tokens

    async def _verdict(self, text: _Text, channel: Channel) -> Verdict:
        while True:
            payload = await channel.receive()
            text.received(payload)
            message = decode(payload)
            if not isinstance(message, Verdict):
                raise RemoteProtocolError("no verdict came to the device")
            # An earlier one may come twice.
            if (message.text, message.round) == (self._texts, text.rounds):
                return message

    def _ended(self, text: _Text) -> bool:
        return text.written >= text.limit or (text.written > 0 and text.context[-1] in self._loaded.eos)

    @staticmethod
    def _send(text: _Text, channel: Channel, payload: bytes) -> None:
        text.sent(payload)
        channel.send(payload)

    async def _run(self, text: _Text, work: Callable[[], T]) -> T:
        def timed() -> tuple[T, float]:
            began = time.perf_counter()
            return work(), time.perf_counter() - began

        found, took = await asyncio.get_running_loop().run_in_executor(self._compute, timed)
        if text.energy is not None:
            text.energy.drafted(took)
        return found
