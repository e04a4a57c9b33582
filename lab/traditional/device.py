"""The device, as a process: writes texts by the schemes of traditional speculation, one after the other.

    python -m lab.traditional.device …arguments of flexspec-edge serve…

A JSON line on standard input is a `WriteOrder`; the answer is a JSON line on standard output, as `lab.bench.client`
gives it. The draft runs in the engine that an edge node with these arguments would take.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from edge_node.cli.main import build_parser
from edge_node.config import from_arguments
from edge_node.energy import EnergyMeter, TextEnergy, energy_meter
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.main import run_main, spare_what_is_loaded
from flexspec_mq.drafting.load import DraftModel, load
from flexspec_mq.errors import FlexSpecError, RemoteProtocolError, UsageError
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.runner import DraftRunner, ModelInput, to_numpy
from flexspec_mq.models.text import StreamDecoder, Turn, encode_turns
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import LinkSettings
from lab.traditional.channel import DOWN, UP, MessageChannel, mqtt_channel
from lab.traditional.messages import Guesses, RoundVerdict, Start, decode, encode
from lab.traditional.sides import SCHEMES, Scheme
from lab.traditional.speculation import Halves, distribution, draw, probabilities, rounded
from schemas.messages import Sampling

T = TypeVar("T")

_PIECE = 256
"""Prompt tokens that one forward reads, as an edge node's."""
_PLAIN = Sampling(1.0)


class WriteOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A text that is wanted: JSON.

    Attributes:
        scheme: name of one of `SCHEMES`.
        prompt: words of the user.
        tokens: new ones at most.
        guesses: drafted a round at most.
        sampling: how its tokens are chosen.
    """

    scheme: str
    prompt: str
    tokens: int
    guesses: int
    sampling: Sampling = Sampling()


class Drafts:
    """A draft that writes a text at a time for each of several clients. Tokens read stay for a client's next text.

    Args:
        network: the draft.
        ids: token id of each column of its logits, ascending; None when they are all ids.
        vocab_size: ids that there are.
        eos: ids that end a text.
    """

    def __init__(
        self, network: DraftRunner, ids: npt.NDArray[np.int64] | None, *, vocab_size: int, eos: Sequence[int]
    ) -> None:
        self._network = network
        self._ids = ids
        self._vocab_size = vocab_size
        self._eos = eos
        self._kvs: dict[str, Any] = {}

    def guess(
        self,
        client: str,
        context: Sequence[int],
        count: int,
        params: Sampling,
        scheme: Scheme,
        rng: np.random.Generator,
    ) -> tuple[list[int], list[Halves]]:
        """Guess what follows; an end of text is the last guess.

        Where distributions are sent and the temperature is above 0, guesses are drawn from them, as rejection
        sampling wants. Without them the likeliest token is the one that the target most probably chooses. At
        temperature 0 it is that as well, and its distribution, which the target could do without, is the draft's at
        temperature 1.

        Args:
            client: whose text it is.
            context: prompt and text, not empty.
            count: guesses at most.
            params: sampling of the text; the seed does not matter.
            scheme: says what is sent.
            rng: the device's own.

        Returns:
            The guesses, and the distribution of each where these are sent.
        """
        tokens: list[int] = []
        sent: list[Halves] = []
        while len(tokens) < count and (not tokens or tokens[-1] not in self._eos):
            row = self._logits(client, [*context, *tokens])
            likeliest = self._token(int(np.argmax(row)))
            if not scheme.distributions:
                tokens.append(likeliest)
                continue
            q = probabilities(row, params if params.temperature > 0.0 else _PLAIN)
            sent.append(rounded(q, self._ids, self._vocab_size))
            tokens.append(draw(distribution(sent[-1]), rng) if params.temperature > 0.0 else likeliest)
        return tokens, sent

    def _token(self, column: int) -> int:
        return column if self._ids is None else int(self._ids[column])

    def _logits(self, client: str, context: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits of what follows: float32 of shape [columns]."""
        kv = self._kvs.get(client)
        if kv is None:
            kv = self._kvs[client] = self._network.new_kv()
        known = kv.match(context[:-1])
        while len(context) - known > _PIECE:
            self._network.forward([ModelInput(kv, context[known : known + _PIECE], 0)])
            known += _PIECE
        row: npt.NDArray[np.float32] = to_numpy(self._network.forward([ModelInput(kv, context[known:])]))[0]
        return row


@dataclass(slots=True)
class _Text:
    """A text while it is written, and what was counted."""

    order: WriteOrder
    params: Sampling
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

    @property
    def written(self) -> int:
        return len(self.context) - len(self.prompt)

    def add(self, tokens: tuple[int, ...]) -> None:
        """Show what has been decided."""
        self.context += tokens
        self._show(self.decoder.push(tokens))

    def answer(self) -> dict[str, Any]:
        """As `lab.bench.client` tells of an edge node's answer."""
        self._show(self.decoder.finish())
        own = {
            "drafted": self.drafted,
            "accepted": self.accepted,
            "rounds": self.rounds,
            "energy_j": None if self.energy is None else self.energy.spent(time.perf_counter()).joules,
        }
        return {
            "text": "".join(self.pieces),
            "seconds": time.perf_counter() - self.began,
            "first": self.first,
            "usage": {"completion_tokens": self.written, "flexspec": own},
            "error": "",
        }

    def _show(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
            if self.first is None:
                self.first = time.perf_counter() - self.began


class Writer:
    """Writes one text after the other.

    Args:
        loaded: the draft's text part.
        drafts: the draft.
        channel: way to the target.
        compute: thread of the draft, so that messages flow while it works.
        energy: powers of the device; None where nobody wants to know.
    """

    def __init__(
        self,
        loaded: LoadedText,
        drafts: Drafts,
        channel: MessageChannel,
        compute: Executor,
        energy: EnergyMeter | None = None,
    ) -> None:
        self._loaded = loaded
        self._drafts = drafts
        self._channel = channel
        self._compute = compute
        self._energy = energy
        self._texts = 0

    async def write(self, order: WriteOrder) -> dict[str, Any]:
        """Write a text; the answer as `lab.bench.client` gives it.

        Raises:
            UsageError: the prompt does not fit.
            LinkError: the target cannot be reached any more.
            RemoteProtocolError: what came from there is no answer.
        """
        began = time.perf_counter()
        loaded = self._loaded
        prompt = encode_turns(loaded.tokenizer, [Turn("user", order.prompt)], max_context=loaded.max_context)
        text = _Text(
            order,
            order.sampling,
            prompt,
            min(order.tokens, loaded.max_context - len(prompt)),
            StreamDecoder(loaded.tokenizer),
            np.random.default_rng([order.sampling.seed, 0]),
            began,
            None if self._energy is None else self._energy.text(began),
            [*prompt],
        )
        self._texts += 1
        await self._write(text)
        return text.answer()

    async def _write(self, text: _Text) -> None:
        start = Start(text.order.scheme, self._texts, text.prompt, text.params, self._loaded.eos)
        # The target reads the prompt while the first guesses are drafted.
        self._send(text, encode(start))
        while not self._ended(text):
            payload, tokens = await self._run(text, lambda: self._round(text))
            self._send(text, payload)
            verdict = await self._verdict(text)
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
        tokens, sent = self._drafts.guess(order.scheme, text.context, count, text.params, scheme, text.rng)
        return encode(Guesses.made(self._texts, text.rounds, tokens, sent)), tokens

    async def _verdict(self, text: _Text) -> RoundVerdict:
        while True:
            payload = await self._channel.receive()
            if text.energy is not None:
                text.energy.received(len(payload), time.perf_counter())
            message = decode(payload)
            assert isinstance(message, RoundVerdict)
            # An earlier one may come twice.
            if (message.text, message.round) == (self._texts, text.rounds):
                return message

    def _ended(self, text: _Text) -> bool:
        return text.written >= text.limit or (text.written > 0 and text.context[-1] in self._loaded.eos)

    def _send(self, text: _Text, payload: bytes) -> None:
        if text.energy is not None:
            text.energy.sent(len(payload), time.perf_counter())
        self._channel.send(payload)

    async def _run(self, text: _Text, work: Callable[[], T]) -> T:
        def timed() -> tuple[T, float]:
            began = time.perf_counter()
            return work(), time.perf_counter() - began

        found, took = await asyncio.get_running_loop().run_in_executor(self._compute, timed)
        if text.energy is not None:
            text.energy.drafted(took)
        return found


async def serve(model: DraftModel, settings: LinkSettings, energy: EnergyMeter | None) -> None:
    """Answer lines until standard input ends."""
    if model.network is None:
        raise UsageError("there is no speculation without a draft", hint="give another --draft than none")
    loaded, loop = model.text, asyncio.get_running_loop()
    drafts = Drafts(model.network, model.ids, vocab_size=loaded.vocab_size, eos=loaded.eos)
    with ThreadPoolExecutor(1, "draft") as compute:
        async with mqtt_channel(settings, out=UP, into=DOWN) as mqtt:
            writer = Writer(loaded, drafts, mqtt, compute, energy)
            spare_what_is_loaded()
            _say({"ready": True, "vocabulary": loaded.tokenizer_status.vocabulary, "engine": model.engine})
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                _say(await _written(writer, msgspec.json.decode(line, type=WriteOrder)))


async def _written(writer: Writer, order: WriteOrder) -> dict[str, Any]:
    """A text, or why there is none: the next one may well come."""
    began = time.perf_counter()
    try:
        return await writer.write(order)
    except FlexSpecError as error:
        seconds = time.perf_counter() - began
        return {"text": "", "seconds": seconds, "first": None, "usage": {}, "error": error.message}


def _say(found: object) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _main(argv: Sequence[str]) -> int:
    config = from_arguments(build_parser().parse_args(["serve", *argv])).settings
    logs.configure(config.log)
    with logs.logged_stages() as tell:
        model = load(config.node, tell)
    settings = link_settings(config.link, f"t-{config.node.edge}")
    asyncio.run(serve(model, settings, energy_meter(config.node)))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(_main))
