"""The device's own model where that writes by itself: in place of a target that nobody can reach, or instead of one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edge_node.text.decoding import PieceDecoder
from edge_node.text.encoding import Encoded, Encoder, PromptError
from edge_node.text.machine import End, Text
from edge_node.text.spec import WHOLE_CONTEXT, Adjustments, TextSpec
from flexspec_mq import entropy
from flexspec_mq.energy.model import Spent, per_hundred
from flexspec_mq.errors import FlexSpecError, TimeIsOver, UsageError
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.grammar.tools import Content
from flexspec_mq.models.load import recommended
from flexspec_mq.models.text import Turn
from flexspec_mq.protocol.edge.text import repeats
from flexspec_mq.protocol.edge.types import DraftRequest
from schemas.messages import Identity, PartialSampling, Sampling
from schemas.node import TextFigures
from schemas.openai import LOCAL_ONLY, StoppedAlone

if TYPE_CHECKING:
    from edge_node.node import EdgeNode
    from flexspec_mq.drafting.grammar_drafter import GrammarDrafter
    from flexspec_mq.drafting.load import DraftModel
    from flexspec_mq.models.load import LoadedText

_PENALTY = Adjustments(repetition_penalty=1.1)
"""For provisional text, as makers of models of 0.5 billion weights recommend it: of the words' 4-grams of twelve greedy
answers of such a model it leaves 1 in 120 repeated, instead of 1 in 15. A target of 1.5 billion repeats 1 in 50."""
_log = logging.getLogger(__name__)


class NoVoice(UsageError):
    """A text is to stay on a device that has no model for it."""

    def __init__(self) -> None:
        super().__init__(
            "this node has no model of its own that could write a text which must not leave the device",
            hint="start it with --local MODEL, or have a worker answer",
        )


class Voice:
    """A small chat model on this device, whatever the targets' vocabulary. Its texts share one thread, token by token.

    Args:
        model: an exported model.
        node: the node whose own it is.
        encoder: makes prompts.

    Attributes:
        text: tokenizer and chat template.
    """

    def __init__(self, model: DraftModel, node: EdgeNode, encoder: Encoder) -> None:
        from flexspec_mq.drafting.grammar_drafter import GrammarDrafter

        if model.own is None or model.model is None:
            raise UsageError(
                "the local model is no model", hint="--local names the folder of one, --draft a draft"
            )
        self.text: LoadedText = model.own
        self.node = node
        self._encoder = encoder
        self._drafter = GrammarDrafter(model.model)
        self._thread = ThreadPoolExecutor(1, "voice")
        self._numbers = count(-1, -1)  # a draft may be the same model: its sessions have numbers from 1

    def drafts(self, text: LoadedText) -> bool:
        """Whether it is the draft of a target, whose provisional tokens can become the target's own."""
        return self.node.settings.local_is_draft and text.fingerprint == self.text.fingerprint

    def close(self) -> None:
        """Write no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def speech(self, spec: TextSpec) -> Speech:
        """Begin a text.

        Raises:
            PromptError: the prompt cannot be taken.
        """
        encoded = await self._encoder.encoded(self.text, spec, engine_name())
        if encoded.grammar is not None and encoded.compiled is None:
            raise PromptError(
                "the local model cannot hold a text to a grammar here, as tools and schemas need it",
                hint="install llguidance on this device",
            )
        return Speech(self._drafter, self._thread, next(self._numbers), encoded, spec)


class Speech:
    """A text by a voice alone.

    Attributes:
        encoded: prompt, and bounds of the text.
        sampling: how its tokens are chosen.
        tokens: tokens so far.
        seconds: time of the model.
        stopped: why it ended, once it has.
    """

    stopped: Literal["stop", "length", "repeats"] = "length"

    def __init__(
        self,
        drafter: GrammarDrafter,
        thread: ThreadPoolExecutor,
        number: int,
        encoded: Encoded,
        spec: TextSpec,
    ) -> None:
        text = encoded.text
        self.encoded = encoded
        self.sampling = spec.sampled(0, recommended(text.generation).over(Sampling()))
        self.tokens, self.seconds = 0, 0.0
        self._drafter, self._thread, self._number = drafter, thread, number
        self._identity = Identity(
            self.sampling.rule, text.fingerprint, self.sampling, text.eos, spec.ignore_eos, encoded.limit
        )
        self._eos = () if spec.ignore_eos else text.eos
        self._decoder = PieceDecoder(text.tokenizer, spec.stops, encoded.before)
        self._context = list(encoded.prompt)

    async def pieces(self, most: int | None = None) -> AsyncGenerator[str]:
        """The text as it comes.

        Args:
            most: ends it after so many tokens, and where it goes in circles; None leaves it to the request.
        """
        loop = asyncio.get_running_loop()
        limit = self.encoded.limit if most is None else min(most, self.encoded.limit)
        try:
            while self.tokens < limit:
                token = await loop.run_in_executor(self._thread, self._next)
                if token is None:
                    continue
                if token in self._eos or token < 0:
                    self.stopped = "stop"
                    break
                self._context.append(token)
                self.tokens += 1
                if piece := self._decoder.text((token,)):
                    yield piece
                if self._decoder.stopped:
                    self.stopped = "stop"
                    return
                if most is not None and repeats(self._context[len(self.encoded.prompt) :]):
                    self.stopped = "repeats"
                    return
            if rest := "".join(piece for piece, _ in self._decoder.finish()):
                yield rest
        finally:
            self._thread.submit(self._drafter.free, self._number)

    def _next(self) -> int | None:
        """The next token; None where a part of the prompt was read, and -1 where the grammar allows no more."""
        began = time.monotonic()
        known = len(self._context)
        drafted = self._drafter.draft(
            [
                DraftRequest(
                    self._number,
                    self._context,
                    self._identity,
                    known,
                    len(self.encoded.prompt),
                    grammar=self.encoded.compiled,
                    model_only=True,
                )
            ]
        )[0]
        self.seconds += time.monotonic() - began
        return None if drafted is None else drafted[0].token if drafted else -1


class Speaking:
    """The part of a voice in one text: it writes behind what is confirmed while nobody answers.

    Args:
        voice: writes.
        text: the text.

    Attributes:
        voice: writes.
        shown: tokens that readers have seen.
        stopped: why it writes no more.
        spent: told seconds of the model.
    """

    def __init__(self, voice: Voice, text: Text) -> None:
        self.voice = voice
        self.shown = 0
        self.stopped: StoppedAlone = ""
        self.spent: Callable[[float], None] = lambda _seconds: None
        self._text = text
        self._task: asyncio.Task[None] | None = None
        self._at: int | None = None  # length of the text behind which it writes, or has written

    @property
    def over(self) -> bool:
        """Whether it has written what it may or can behind the text as it is."""
        return self._at == self._text.size and (self._task is None or self._task.done())

    def begin(self, most: int) -> None:
        """Nobody answers: write so many tokens at most, unless that goes on or is over."""
        if self._at != self._text.size:
            self.end()
            self._at = self._text.size
            if most:
                self._task = asyncio.create_task(self._write(most), name="voice")

    async def spoken(self, seconds: float) -> None:
        """Wait until it has written what it may, or for so many seconds."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)

    def end(self) -> None:
        """Write no more; what is written stays until it is confirmed or taken back."""
        if self._task is not None:
            self._task.cancel()
        self._task = self._at = None

    def told(self, figures: TextFigures) -> TextFigures:
        """Figures of the text, with its own."""
        if not self.shown:
            return figures
        return msgspec.structs.replace(
            figures,
            provisional=figures.provisional + self.shown,
            provisional_stopped=self.stopped,
            local=self.voice.text.name,
        )

    def figures(self) -> TextFigures:
        """Figures of a text that has no session."""
        return self.told(_figures(entropy.now() - self._text.began))

    async def _write(self, most: int) -> None:
        text, written, self.stopped = self._text, "", ""
        if (asked := text.spec.limit) is not None and asked != WHOLE_CONTEXT:
            most = max(1, min(most, asked - (0 if text.figures is None else text.figures().tokens)))
        try:
            speech = await self.voice.speech(_behind(text, most))
            async with aclosing(speech.pieces(most)) as pieces:
                seconds, tokens = 0.0, 0
                async for piece in pieces:
                    written += piece
                    self.shown += speech.tokens - tokens
                    self.spent(speech.seconds - seconds)
                    seconds, tokens = speech.seconds, speech.tokens
                    text.unverified(written)
            self.stopped = (
                "limit" if speech.stopped == "length" else "end" if speech.stopped == "stop" else "repeats"
            )
        except FlexSpecError as error:
            _log.warning("text %s: the local model does not write it: %s", text.id, error)
        except Exception:  # noqa: BLE001  the top of a task; the target's text needs none
            _log.exception("text %s: the local model failed", text.id)


def _behind(text: Text, most: int) -> TextSpec:
    """The request for what stands behind the confirmed part of a text, in words that any model reads.

    Raises:
        PromptError: it is in tokens of the target.
    """
    spec, parser = text.spec, text.parser()
    written = "".join(event.text for event in parser.push(text.whole) if isinstance(event, Content))
    prompt = spec.prompt
    if isinstance(prompt, str):
        prompt += written
    elif not isinstance(last := prompt[-1], Turn):
        raise PromptError("its prompt is token ids of the target")
    elif last.continued:
        prompt = (*prompt[:-1], replace(last, content=last.content + written))
    elif written.strip():
        prompt = (*prompt, Turn("assistant", written, continued=True))
    grammar = None if written else spec.grammar
    return msgspec.structs.replace(
        spec, prompt=prompt, limit=most, truncate=True, tools=None, grammar=grammar, adjustments=_PENALTY
    )


def _figures(seconds: float, prompt: int = 0, **more: Any) -> TextFigures:
    return TextFigures(
        prompt_tokens=prompt,
        seconds=seconds,
        rtt_ms=None,
        polls=0,
        reopens=0,
        worker=None,
        **({"tokens": 0, "first_token": None} | more),
    )


async def write_locally(voice: Voice | None, text: Text) -> End:
    """Write a text that must not leave the device.

    Raises:
        FlexSpecError: it cannot be written, or not in time.
    """
    if voice is None:
        raise NoVoice
    spec, node, began = text.spec, voice.node, text.began
    if node.settings.provisional_tokens and not node.alone_tokens(node.models.default):
        raise UsageError(
            "a limit of battery or energy lets this device write nothing by itself now",
            hint="charge it, or have battery_floor or energy_budget allow more",
        )
    speech = await voice.speech(spec)
    energy, first = node.text_energy(), None

    def figures() -> TextFigures:
        spent = Spent() if energy is None else energy.spent(entropy.now())
        encoded, sampling = speech.encoded, speech.sampling
        return _figures(
            entropy.now() - began,
            len(encoded.prompt),
            tokens=speech.tokens,
            first_token=first,
            local=voice.text.name,
            version=LOCAL_ONLY,
            energy_j=spent.joules,
            energy_j_per_100=None if spent.joules is None else per_hundred(spent.joules, speech.tokens),
            energy_source=spent.source,
            default_limit=encoded.limit if encoded.by_default else None,
            **{name: getattr(sampling, name) for name in ("seed", *PartialSampling.__struct_fields__)},
        )

    text.version, text.form, text.figures, seconds = LOCAL_ONLY, speech.encoded.form, figures, 0.0
    try:
        async with asyncio.timeout(spec.timeout), aclosing(speech.pieces()) as pieces:
            async for piece in pieces:
                first = first or entropy.now() - began
                if energy is not None:
                    energy.drafted(speech.seconds - seconds)
                seconds = speech.seconds
                text.confirmed([(piece, "device")])
    except TimeoutError:
        raise TimeIsOver(
            f"the text was not complete after {spec.timeout:g} s",
            hint="allow more time, or ask for fewer tokens",
        ) from None
    whole = figures()
    text.figures = lambda: whole
    return End("stop" if speech.stopped == "stop" else "length", whole)
