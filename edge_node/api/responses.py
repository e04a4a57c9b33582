"""OpenAI's response objects, and the events of a stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_node.api.errors import ApiError
    from edge_node.api.requests import TextRequest
    from edge_node.completion.completion import Completion, End
    from edge_node.completion.figures import Figures

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": still writing\n\n"

_TOLD = (
    *("drafted", "accepted", "looked_up", "rounds", "bytes_up", "bytes_down", "version", "exactness"),
    *("seed", "temperature", "top_k", "top_p"),
)
"""Figures that are ours."""


def event(found: dict[str, Any]) -> bytes:
    """One server-sent event; JSON has no line break, so it is one line."""
    return b"data: " + json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """What a stream says instead of going on."""
    return event(error.body())


def usage(figures: Figures) -> dict[str, Any]:
    """`usage`, with ours in an object of its own."""
    return {
        "prompt_tokens": figures.prompt_tokens,
        "completion_tokens": figures.tokens,
        "total_tokens": figures.prompt_tokens + figures.tokens,
        "flexspec": {name: getattr(figures, name) for name in _TOLD},
    }


def name(text: Completion, wanted: TextRequest) -> str:
    """The id of an answer; the same for all who read the text."""
    return ("chatcmpl-" if wanted.chat else "cmpl-") + text.id


def whole(text: Completion, wanted: TextRequest, end: End) -> dict[str, Any]:
    """The answer to a request without `stream`, for a text that is complete."""
    said: dict[str, Any]
    if wanted.chat:
        said = {"message": {"role": "assistant", "content": text.whole, "refusal": None}}
    else:
        said = {"text": text.whole}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": end.reason}
    found = _object(text, wanted, "chat.completion" if wanted.chat else "text_completion", [choice])
    return found if end.figures is None else {**found, "usage": usage(end.figures)}


class Chunks:
    """The events of one text for one reader."""

    def __init__(self, text: Completion, wanted: TextRequest) -> None:
        self._text = text
        self._wanted = wanted
        self._chat = wanted.chat
        self._sent = 0  # characters

    def first(self) -> bytes:
        """What comes before any text."""
        return self._chunk({"role": "assistant", "content": ""}, None) if self._chat else b""

    def piece(self, piece: str) -> bytes:
        """The next part of the text."""
        more: dict[str, Any] = {}
        if self._wanted.include_origin:
            more = {"flexspec": {"pieces": self._text.origins.cut(piece, self._sent)}}
        self._sent += len(piece)
        return self._chunk({"content": piece} if self._chat else piece, None, **more)

    def last(self, end: End) -> bytes:
        """The end of a complete text."""
        found = self._chunk({} if self._chat else "", end.reason)
        if self._wanted.include_usage and end.figures is not None:
            found += event({**self._object([]), "usage": usage(end.figures)})
        return found + DONE

    def _chunk(self, said: Any, reason: str | None, **more: Any) -> bytes:
        key = "delta" if self._chat else "text"
        choice = {"index": 0, key: said, "logprobs": None, "finish_reason": reason}
        found = {**self._object([choice]), **more}
        return event({**found, "usage": None} if self._wanted.include_usage else found)

    def _object(self, choices: list[Any]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return _object(self._text, self._wanted, kind, choices)


def _object(text: Completion, wanted: TextRequest, kind: str, choices: list[Any]) -> dict[str, Any]:
    return {
        "id": name(text, wanted),
        "object": kind,
        "created": text.created,
        "model": text.options.version,
        "choices": choices,
    }


def model(version: str, created: int) -> dict[str, Any]:
    """One entry of the list of models.

    Args:
        version: a target version.
        created: seconds since the Unix epoch.
    """
    return {"id": version, "object": "model", "created": created, "owned_by": "flexspec"}
