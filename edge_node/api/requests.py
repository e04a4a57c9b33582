"""From a JSON body to an `OpenAIRequest`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_node.api.bodies import read
from edge_node.api.chat import OpenAIRequest
from edge_node.api.errors import bad
from edge_node.completion.options import CompletionOptions, Prompt
from flexspec_mq.errors import UsageError
from flexspec_mq.models.text import Role, Turn
from schemas import openai
from schemas.responses import ResponsesRequest

COMPLETION_TOKENS = 16
"""Tokens of a completion that names no limit, as OpenAI's."""

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def chat_request(body: dict[str, Any], lenient: bool = False) -> OpenAIRequest:
    """Read the body of a chat completion.

    Args:
        body: JSON object of the request.
        lenient: ignore fields that are unknown or not supported.

    Raises:
        ApiError: 400, naming the field.
    """
    ignored: list[str] | None = [] if lenient else None
    asked = read(openai.ChatCompletionRequest, body, ignored=ignored)
    turns = tuple(Turn(_ROLES[message.role], joined(message.content)) for message in asked.messages)
    limit = limit_of({"max_tokens": asked.max_tokens, "max_completion_tokens": asked.max_completion_tokens})
    return _request(asked, turns, limit, chat=True, ignored=ignored)


def completion_request(body: dict[str, Any], lenient: bool = False) -> OpenAIRequest:
    """Read the body of a completion; see `chat_request`.

    Raises:
        ApiError: 400, naming the field.
    """
    ignored: list[str] | None = [] if lenient else None
    asked = read(openai.CompletionRequest, body, ignored=ignored)
    limit = COMPLETION_TOKENS if asked.max_tokens is None else limit_of({"max_tokens": asked.max_tokens})
    return _request(asked, _prompt(asked.prompt), limit, chat=False, ignored=ignored)


def _request(
    asked: openai.ChatCompletionRequest | openai.CompletionRequest,
    prompt: Prompt,
    limit: int | None,
    *,
    chat: bool,
    ignored: list[str] | None,
) -> OpenAIRequest:
    if asked.stream_options is not None and not asked.stream and ignored is None:
        raise bad("stream_options", "stream_options needs stream")
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    shown = asked.stream_options or openai.StreamOptions()
    return OpenAIRequest(
        chat=chat,
        model=asked.model,
        prompt=prompt,
        asked=options_of(
            asked,
            limit=limit,
            stops=tuple(stop for stop in stops if stop),
            prediction=None if asked.prediction is None else joined(asked.prediction.content),
        ),
        stream=asked.stream,
        include_usage=shown.include_usage,
        include_origin=shown.include_origin,
        ignored=tuple(ignored or ()),
    )


def options_of(
    asked: openai.ChatCompletionRequest | openai.CompletionRequest | ResponsesRequest, **more: Any
) -> CompletionOptions:
    """How a request says that its text is to be written, by fields that all requests have, and `more`.

    Raises:
        ApiError: 400.
    """
    if asked.seed is not None and not -(2**63) <= asked.seed < 2**64:
        raise bad("seed", "seed has more than 64 bits")
    try:
        return CompletionOptions(
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            seed=None if asked.seed is None else asked.seed % 2**64,
            ignore_eos=asked.ignore_eos,
            wait=asked.wait,
            user=_name(asked.safety_identifier, asked.user),
            key=_name(asked.prompt_cache_key, asked.safety_identifier, asked.user),
            **more,
        )
    except UsageError as error:
        raise bad(None, error.message) from error


def _name(*fields: Any) -> bytes:
    """The name in the first of these fields that has one; empty if none has."""
    name = next((name for name in fields if isinstance(name, str) and name), "")
    return name.encode("utf-8", "surrogatepass")


def joined(content: str | list[Any]) -> str:
    """The text of a message: a string, or parts."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def limit_of(stated: dict[str, int | None]) -> int | None:
    """Tokens at most, from fields of which each may say it; None if none does."""
    given = {name: value for name, value in stated.items() if value is not None}
    for name, value in given.items():
        if value == 0:
            raise bad(name, f"{name} is 0, which leaves nothing to write")
    if len(set(given.values())) > 1:
        raise bad([*given][-1], f"{' and '.join(given)} differ")
    return next(iter(given.values()), None)


def _prompt(value: str | Sequence[int | str | list[int]]) -> Prompt:
    """A string, token ids, or an array of one of them."""
    if not isinstance(value, str) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return value
    ids = tuple(token for token in value if isinstance(token, int))
    if len(ids) < len(value):
        raise bad("prompt", "prompt holds several prompts; send one request for each")
    if not ids:
        raise bad("prompt", "prompt is neither a string nor an array of token ids")
    return ids
