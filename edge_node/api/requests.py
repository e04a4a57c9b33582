"""From a JSON body to a `TextRequest`: what is honoured, and what is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_node.api.errors import bad
from edge_node.api.messages import turns_from
from edge_node.api.validation import Fields, Neutral, is_neutral, one_of
from edge_node.completion.options import CompletionOptions, Prompt
from flexspec_mq.errors import UsageError
from schemas.messages import MAX_TOKEN_ID

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1024
COMPLETION_TOKENS = 16
"""Tokens of a completion that names no limit, as OpenAI's."""
_MOST_TOKENS = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """What a client asks for.

    Attributes, where `CompletionOptions` does not say it:
        chat: it came to the chat endpoint.
        model: a target version; None is the node's.
        prompt: text, token ids, or the turns of a conversation.
        stream: answer with server-sent events.
        include_usage: end the stream with a chunk of figures.
        include_origin: say in each chunk which parts of it were drafted on the device.
    """

    chat: bool
    model: str | None
    prompt: Prompt
    limit: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    stops: tuple[str, ...]
    ignore_eos: bool
    stream: bool
    include_usage: bool
    include_origin: bool

    @property
    def prompt_field(self) -> str:
        """Field of the request that holds the prompt."""
        return "messages" if self.chat else "prompt"

    def options(
        self, version: str | None, timeout: float | None = None, wait: float = 0.0
    ) -> CompletionOptions:
        """How the text is to be written.

        Raises:
            UsageError: no text can be written like that.
        """
        return CompletionOptions(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            limit=self.limit,
            stops=self.stops,
            ignore_eos=self.ignore_eos,
            timeout=timeout,
            version=version,
            wait=wait,
        )


_IGNORED = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "store")
_SHARED: dict[str, Neutral] = {
    "frequency_penalty": is_neutral,
    "presence_penalty": is_neutral,
    "logit_bias": is_neutral,
    "n": one_of(1),
    "service_tier": one_of("auto", "default"),
}
_CHAT: dict[str, Neutral] = {
    **_SHARED,
    "tools": is_neutral,
    "tool_choice": one_of("none", "auto"),
    "parallel_tool_calls": one_of(True, False),
    "functions": is_neutral,
    "function_call": one_of("none", "auto"),
    "response_format": one_of({"type": "text"}),
    "logprobs": one_of(False),
    "top_logprobs": one_of(0),
    "modalities": one_of(["text"], []),
    "audio": is_neutral,
    "prediction": is_neutral,
    "reasoning_effort": one_of("none"),
    "verbosity": one_of(),
    "web_search_options": one_of(),
}
_COMPLETION: dict[str, Neutral] = {
    **_SHARED,
    "best_of": one_of(1),
    "echo": is_neutral,
    "suffix": is_neutral,
    "logprobs": one_of(False),  # 0 asks for the log-probability of each token
}


def chat_request(body: dict[str, Any]) -> TextRequest:
    """Read the body of a chat completion.

    Raises:
        ApiError: 400, naming the field.
    """
    fields = Fields(body)
    turns = turns_from(fields.take("messages"))
    limit = _limit(fields, "max_tokens", "max_completion_tokens")
    return _finish(fields, prompt=turns, limit=limit, chat=True)


def completion_request(body: dict[str, Any]) -> TextRequest:
    """Read the body of a completion.

    Raises:
        ApiError: 400, naming the field.
    """
    fields = Fields(body)
    prompt = _prompt(fields.take("prompt"))
    limit = _limit(fields, "max_tokens") or COMPLETION_TOKENS
    return _finish(fields, prompt=prompt, limit=limit, chat=False)


def _finish(fields: Fields, *, prompt: Prompt, limit: int | None, chat: bool) -> TextRequest:
    """Read what both endpoints share."""
    stream = fields.flag("stream")
    include_usage, include_origin = _stream_options(fields, stream=stream)
    temperature = fields.number("temperature", 0.0, 2.0)
    top_p = fields.number("top_p", 0.0, 1.0)
    seed = fields.integer("seed", -(2**63), 2**64 - 1)
    request = TextRequest(
        chat=chat,
        model=fields.text("model"),
        prompt=prompt,
        limit=limit,
        temperature=temperature,
        top_k=fields.integer("top_k", 0, MAX_TOKEN_ID),
        top_p=top_p,
        seed=None if seed is None else seed % 2**64,
        stops=_stops(fields.take("stop")),
        ignore_eos=fields.flag("ignore_eos"),
        stream=stream,
        include_usage=include_usage,
        include_origin=include_origin,
    )
    fields.ignore(*_IGNORED)
    fields.refuse_others(_CHAT if chat else _COMPLETION)
    if top_p == 0.0:
        raise bad("top_p", "top_p 0 keeps no token; for the most likely ones ask for temperature 0")
    try:
        request.options(None)
    except UsageError as error:
        raise bad(None, error.message) from error
    return request


def _limit(fields: Fields, *names: str) -> int | None:
    stated = {name: value for name in names if (value := fields.integer(name, 1, _MOST_TOKENS)) is not None}
    if len(set(stated.values())) > 1:
        raise bad(names[-1], f"{' and '.join(stated)} differ")
    return next(iter(stated.values()), None)


def _stream_options(fields: Fields, *, stream: bool) -> tuple[bool, bool]:
    """Whether a stream ends with figures, and whether its chunks say who wrote what."""
    options = fields.inner("stream_options")
    if options is None:
        return False, False
    if not stream:
        raise bad("stream_options", "stream_options needs stream")
    found = options.flag("include_usage"), options.flag("include_origin")
    options.ignore("include_obfuscation")
    options.refuse_others({})
    return found


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise bad("stop", "stop is neither a string nor an array of strings")
    if len(stops) > MAX_STOPS or any(len(one) > MAX_STOP_CHARACTERS for one in stops):
        raise bad(
            "stop", f"stop has more than {MAX_STOPS} strings or {MAX_STOP_CHARACTERS} characters in one"
        )
    return tuple(one for one in stops if one)


def _prompt(value: Any) -> Prompt:
    """A string, token ids, or an array of one of them."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise bad("prompt", "prompt is neither a string nor an array of token ids")
    if any(isinstance(one, str | list) for one in value):
        raise bad("prompt", "prompt holds several prompts; send one request for each")
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value):
        raise bad("prompt", "prompt holds what is no token id")
    return tuple(value)
