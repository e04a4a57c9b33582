"""Events while a text is written, as one JSON object a line, for programs that show it.

| type | fields |
|---|---|
| `start` | `prompt_tokens`, `seed` |
| `no_worker` | `version` that nobody serves, versions that are `online`, `seconds` that a worker is waited for |
| `text` | `pieces`: [text, accepted] pairs; accepted tokens were the device's; `writers` of the pieces |
| `stats` | live figures, see `Figures` |
| `finish` | `reason`, `tokens` (ids), `text`, `stats`; with `error` and `hint` when it failed |
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from flexspec_mq.errors import FlexSpecError, TimeIsOver
from flexspec_mq.protocol.effects import FinishReason

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from edge_node.completion.generator import CompletionGenerator, Writing
    from edge_node.completion.options import CompletionOptions, Prompt

Event = dict[str, Any]


async def events(
    generator: CompletionGenerator,
    prompt: Prompt,
    options: CompletionOptions,
    tell: Callable[[Event], None],
) -> AsyncGenerator[Event]:
    """Write a text; yields what happens. Closing the iterator early cancels the text, up to the worker.

    Args:
        generator: writes it.
        prompt: beginning of the text.
        options: how.
        tell: given a `no_worker` event, before any other.

    Raises:
        UsageError: the prompt is empty, or leaves no room in the context.
        TimeIsOver: after its `finish` event.
        FlexSpecError: what made it fail, after its `finish` event.
    """

    def waiting(version: str, online: list[str], seconds: float) -> None:
        tell({"type": "no_worker", "version": version, "online": online, "seconds": seconds})

    async with generator.writing(prompt, options, waiting) as writing:
        figures = writing.figures()
        yield {"type": "start", "prompt_tokens": figures.prompt_tokens, "seed": figures.seed}
        text = ""
        try:
            async with aclosing(writing.pieces()) as parts:
                async for pieces in parts:
                    text += "".join(piece for piece, _ in pieces)
                    yield {
                        "type": "text",
                        "pieces": [(piece, writer == "device") for piece, writer in pieces],
                        "writers": [writer for _, writer in pieces],
                    }
                    yield {"type": "stats", **msgspec.to_builtins(writing.figures())}
        except FlexSpecError as error:
            over = isinstance(error, TimeIsOver)
            found = _finish(writing, FinishReason.DEADLINE if over else FinishReason.FAILED, text)
            yield found | {"error": error.message, "hint": error.hint}
            raise
        yield _finish(writing, writing.finish.reason, text)


def _finish(writing: Writing, reason: FinishReason, text: str) -> Event:
    return {
        "type": "finish",
        "reason": reason.value,
        "tokens": list(writing.generation.machine.committed),
        "text": text,
        "stats": msgspec.to_builtins(writing.figures()),
    }
