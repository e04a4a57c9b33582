"""OpenAI's response objects, and the events of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from schemas import openai

if TYPE_CHECKING:
    from edge_node.api.requests import TextRequest
    from edge_node.completion.completion import Completion, End
    from edge_node.completion.figures import Figures

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": still writing\n\n"


def event(found: msgspec.Struct) -> bytes:
    """A server-sent event; JSON has no line break, so it is one line."""
    return b"data: " + msgspec.json.encode(found) + b"\n\n"


def usage(figures: Figures) -> openai.Usage:
    """`usage`, with ours in an object of its own."""
    return openai.Usage(
        prompt_tokens=figures.prompt_tokens,
        completion_tokens=figures.tokens,
        total_tokens=figures.prompt_tokens + figures.tokens,
        flexspec=msgspec.convert(figures, openai.FlexspecUsage, from_attributes=True),
    )


def name(text: Completion, wanted: TextRequest) -> str:
    """The id of an answer; the same for all who read the text."""
    return ("chatcmpl-" if wanted.chat else "cmpl-") + text.id


def whole(text: Completion, wanted: TextRequest, end: End) -> openai.ChatCompletion | openai.TextCompletion:
    """The answer to a request without `stream`, for a text that is complete."""
    took = UNSET if end.figures is None else usage(end.figures)
    if wanted.chat:
        said = openai.AssistantMessage(content=text.whole)
        answer = openai.ChatChoice(message=said, finish_reason=end.reason)
        return openai.ChatCompletion(**_head(text, wanted), choices=[answer], usage=took)
    choice = openai.TextChoice(text=text.whole, finish_reason=end.reason)
    return openai.TextCompletion(**_head(text, wanted), choices=[choice], usage=took)


class Chunks:
    """The events of one text for one reader."""

    def __init__(self, text: Completion, wanted: TextRequest) -> None:
        self._text = text
        self._wanted = wanted
        self._head = _head(text, wanted)
        self._sent = 0  # characters

    def first(self) -> bytes:
        """The event before any text."""
        return self._chunk(openai.Delta(role="assistant", content="")) if self._wanted.chat else b""

    def piece(self, piece: str) -> bytes:
        """The next part of the text."""
        more: dict[str, Any] = {}
        if self._wanted.include_origin:
            cut = self._text.origins.cut(piece, self._sent)
            pieces = [(text, writer == "device") for text, writer in cut]
            more = {"flexspec": openai.Origin(pieces, [writer for _, writer in cut])}
        self._sent += len(piece)
        return self._chunk(openai.Delta(content=piece), **more)

    def last(self, end: End) -> bytes:
        """The end of a complete text."""
        found = self._chunk(openai.Delta(), end.reason)
        if self._wanted.include_usage and end.figures is not None:
            found += self._event([], usage=usage(end.figures))
        return found + DONE

    def _chunk(self, delta: openai.Delta, reason: openai.FinishReason | None = None, **more: Any) -> bytes:
        choice: openai.ChunkChoice | openai.TextChoice
        if self._wanted.chat:
            choice = openai.ChunkChoice(delta=delta, finish_reason=reason)
        else:
            choice = openai.TextChoice(text=delta.content or "", finish_reason=reason)
        return self._event([choice], usage=None if self._wanted.include_usage else UNSET, **more)

    def _event(self, choices: list[Any], **more: Any) -> bytes:
        kind = openai.ChatCompletionChunk if self._wanted.chat else openai.TextCompletion
        return event(kind(**self._head, choices=choices, **more))


def _head(text: Completion, wanted: TextRequest) -> dict[str, Any]:
    return {"id": name(text, wanted), "created": text.created, "model": text.version}
