"""``flexspec-edge ask``: a text of a node that runs for as long as the command.

Events while a text is written, as one JSON object a line, for programs that show it:

| type | fields |
|---|---|
| `start` | `prompt_tokens`, `seed` |
| `provisional` | with `--offline provisional`: `text` behind what is confirmed, all of it, as no target has written |
| `waiting` | `for` whom the text waits, in words, and `seconds` after which it fails |
| `text` | `pieces`: [text, writer] pairs |
| `stats` | live figures, see `Figures` |
| `finish` | `reason`, `tokens` (ids), `text`, `stats`; with `error` and `hint` when it failed |
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console

from edge_node.text.reading import ended, read
from edge_node.text.spec import TextRequest
from flexspec_mq import waiting
from flexspec_mq.chat.answer import AnswerView
from flexspec_mq.controller.explain import limit_in_words
from flexspec_mq.daemon.logs import tell
from flexspec_mq.energy.model import in_words
from flexspec_mq.errors import FlexSpecError, TimeIsOver, UsageError
from flexspec_mq.grammar.tools import Aside, CallParser, Content
from flexspec_mq.models.byte_text.parser import ChannelParser
from flexspec_mq.models.text import Turn, text_from_bytes
from flexspec_mq.protocol.effects import FinishReason
from schemas.plan import LimitReport

if TYPE_CHECKING:
    from edge_node.text.decoding import Piece
    from edge_node.text.generator import CompletionGenerator, Writing
    from edge_node.text.service import Wait
    from edge_node.text.spec import TextSpec
    from edge_node.text.texts import Texts

    Event = dict[str, Any]


def prompt_of(given: str | None) -> tuple[Turn, ...]:
    """The prompt of the command line or, without one there, of standard input.

    Raises:
        UsageError: it is empty, or no text.
    """
    if given is not None:
        prompt = text_from_bytes(os.fsencode(given))
    elif sys.stdin is None:  # closed by whoever started us
        prompt = ""
    else:
        prompt = text_from_bytes(sys.stdin.buffer.read(), source="standard input")
    if not prompt.strip():
        raise UsageError("the prompt is empty", hint="say what to write about")
    return (Turn("user", prompt),)


async def ask(by: CompletionGenerator, spec: TextSpec, *, as_json: bool) -> None:
    """Write one answer, and show it as it comes: its text, or its events as JSON lines."""
    await _show(events(by, spec, _line if as_json else lambda _: None), spec, as_json=as_json)


async def ask_offline(texts: Texts, spec: TextSpec, *, as_json: bool) -> None:
    """The same, with provisional text, or by the device's own model alone."""
    await _show(offline_events(texts, spec), spec, as_json=as_json)


async def _show(shows: AsyncGenerator[Event], spec: TextSpec, *, as_json: bool) -> None:
    answer = AnswerView(Console(highlight=False))
    with ExitStack() as shown:
        async with aclosing(shows) as happens:
            async for event in happens:
                if as_json:
                    _line(event)
                elif event["type"] == "start":
                    shown.enter_context(answer)
                elif event["type"] == "text":
                    answer.text(event["pieces"])
                elif event["type"] == "provisional":
                    answer.unverified(event["text"])
                elif event["type"] == "finish":  # also of a text that failed: it took its energy all the same
                    shown.close()
                    tell_finish(event, spec)


def tell_finish(finish: dict[str, Any], spec: TextSpec) -> None:
    """Say beside a text where it was cut, what it took out of the device, and which limits were not kept."""
    stats = finish["stats"]
    if finish["reason"] == FinishReason.LENGTH and not spec.ignore_eos:
        tell(
            f"cut at the limit of {len(finish['tokens']) or stats['tokens']} tokens; --max-tokens N sets another"
        )
    if finish["reason"] == FinishReason.PROVISIONAL:
        tell("nobody could be reached: the end is this device's alone, unverified")
    if stats["energy_j"] is not None:
        tell(in_words(stats["energy_j"], stats["energy_j_per_100"], stats["energy_source"]))
    for limit in stats["limits"]:
        if limit["state"] not in {"kept", "unknown"}:
            tell(limit_in_words(LimitReport(**limit)))


def _line(event: Event) -> None:
    sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
    sys.stdout.flush()


async def events(
    generator: CompletionGenerator, spec: TextSpec, tell: Callable[[Event], None]
) -> AsyncGenerator[Event]:
    """Write a text; yields what happens. Closing the iterator early cancels the text, up to the worker.

    Args:
        generator: writes it.
        spec: the text.
        tell: given `waiting` events, at any time.

    Raises:
        UsageError: the prompt is empty, or leaves no room in the context.
        TimeIsOver: after its `finish` event.
        FlexSpecError: what made it fail, after its `finish` event.
    """

    def told(wait: Wait) -> None:
        tell({"type": "waiting", "for": wait.what, "seconds": round(wait.left, 1)})

    async with generator.writing(spec, told) as writing:
        figures = writing.figures()
        yield {"type": "start", "prompt_tokens": figures.prompt_tokens, "seed": figures.seed}
        text, parser = "", ChannelParser() if writing.form.channels else None
        try:
            async with aclosing(writing.pieces()) as parts:
                async for part in parts:
                    if isinstance(part, str):  # provisional text, for which nobody asks here
                        continue
                    pieces = part if parser is None else _said(parser, part)
                    text += "".join(piece for piece, _ in pieces)
                    yield {"type": "text", "pieces": pieces}
                    yield {"type": "stats", **msgspec.to_builtins(writing.figures())}
        except FlexSpecError as error:
            over = isinstance(error, TimeIsOver)
            finish = _finish(writing, FinishReason.DEADLINE if over else FinishReason.FAILED, text)
            yield finish | {"error": error.message, "hint": error.hint}
            raise
        yield _finish(writing, writing.finish.reason, text)


async def offline_events(texts: Texts, spec: TextSpec) -> AsyncGenerator[Event]:
    """The same of a text whose offline mode is named; its tokens have no ids here.

    Raises:
        FlexSpecError: what made it fail.
    """
    yield {"type": "start", "prompt_tokens": None, "seed": spec.seed}
    async with texts.reading(TextRequest(spec=spec), None) as text:
        at, unverified, waits, parser = 0, "", None, text.parser()
        async for part in read(text, waiting.STATUS):
            if part.waits not in (None, waits):
                yield {"type": "waiting", "for": part.waits.what, "seconds": round(part.waits.left, 1)}
            if part.text:
                parser = text.parser() if not at else parser
                yield {"type": "text", "pieces": _said(parser, text.origins.cut(part.text, at))}
            if part.provisional != unverified:
                yield {"type": "provisional", "text": part.provisional}
            at, unverified, waits = at + len(part.text), part.provisional, part.waits
        end = await ended(text)
        if end.error is not None:
            raise end.error
        stats = None if end.figures is None else msgspec.to_builtins(end.figures)
        yield {"type": "finish", "reason": end.reason, "tokens": [], "text": text.whole, "stats": stats}


def _said(parser: CallParser, pieces: Iterable[Piece]) -> list[Piece]:
    """Content and asides of a text whose server told them apart."""
    told = ((parser.push(piece), writer) for piece, writer in pieces)
    return [
        (event.text, writer) for each, writer in told for event in each if isinstance(event, Content | Aside)
    ]


def _finish(writing: Writing, reason: FinishReason, text: str) -> Event:
    return {
        "type": "finish",
        "reason": reason.value,
        "tokens": list(writing.generation.machine.committed),
        "text": text,
        "stats": msgspec.to_builtins(writing.figures()),
    }
