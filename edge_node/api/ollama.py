"""Ollama's API, by the types of `schemas.ollama`: its requests, and its answers by lines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec
from msgspec import UNSET

from edge_node.api.conversation import Conversation, continued, image_in_base64
from edge_node.api.errors import ApiError, bad
from edge_node.api.forms import ApiRequest, Form
from edge_node.api.http.bodies import read
from edge_node.api.openai.chat import call_id
from edge_node.text.machine import End, Text
from edge_node.text.spec import WHOLE_CONTEXT, Adjustments, TextSpec
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.tools import (
    Aside,
    CallEnds,
    CallEvent,
    Content,
    ReadCall,
    Tool,
    ToolUse,
    as_written,
)
from flexspec_mq.models.text import Image, Turn
from schemas import ollama
from schemas.messages import PartialSampling
from schemas.node import TextFigures
from schemas.openai import FlexspecUsage, Provisional

if TYPE_CHECKING:
    from edge_node.api.response_store import ResponseStore
    from edge_node.text.service import Wait

LATEST = ":latest"
"""Ending by which Ollama's clients name a model whose name has none."""


class OllamaRequest(ApiRequest, frozen=True, kw_only=True, omit_defaults=True, tag="ollama"):
    """A request to ``/api/chat`` or ``/api/generate``.

    Attributes:
        chat: a request to the first.
        asked_model: model as the client names it.
        loads: where nothing is to be written, whether Ollama would load or unload the model.
    """

    chat: bool
    asked_model: str
    loads: ollama.DoneReason | None = None

    @property
    def instead(self) -> bytes | None:
        """The answer to whoever only asks whether a model is there."""
        return None if self.loads is None else self.encoded(done=True, done_reason=self.loads)

    def form(self, texts: Sequence[Text], responses: ResponseStore) -> OllamaForm:  # noqa: ARG002
        """Ollama's objects, a line each."""
        return OllamaForm(texts, self)

    def encoded(self, **more: Any) -> bytes:
        """An answer, or a line of it."""
        kind = ollama.OllamaChatAnswer if self.chat else ollama.OllamaGenerateAnswer
        return msgspec.json.encode(kind(model=self.asked_model, created_at=rfc3339(), **more))


def chat_request(body: dict[str, Any], lenient: bool = False) -> OllamaRequest:
    """Read the body of ``POST /api/chat``.

    Args:
        body: JSON object of the request.
        lenient: ignore fields that are unknown or not supported.

    Raises:
        ApiError: 400, naming the field.
        UsageError: a tool or a value that cannot be used.
    """
    ignored: list[str] | None = [] if lenient else None
    asked = read(ollama.OllamaChatRequest, body, ignored=ignored)
    tools = tuple(
        Tool(each.function.name, each.function.description, _arguments(each.function.parameters))
        for each in asked.tools
    )
    turns = _turns(asked.messages)
    if turns and not tools and not asked.format:
        turns = continued(turns)
    return _request(asked, turns, ToolUse(tools=tools) if tools else None, chat=True, ignored=ignored)


def generate_request(body: dict[str, Any], lenient: bool = False) -> OllamaRequest:
    """Read the body of ``POST /api/generate``; see `chat_request`.

    Raises:
        ApiError: 400, naming the field.
        UsageError: a value that cannot be used.
    """
    ignored: list[str] | None = [] if lenient else None
    asked = read(ollama.OllamaGenerateRequest, body, ignored=ignored)
    images = _images(asked.images, "images")
    if asked.raw and (asked.system or images):
        raise bad("system", "raw mode does not support template, system, or context")
    system = (Turn("system", asked.system),) if asked.system else ()
    prompt = (
        asked.prompt
        if asked.raw or not asked.prompt
        else (*system, Turn("user", asked.prompt, images=images))
    )
    return _request(asked, prompt, None, chat=False, ignored=ignored)


def _request(
    asked: ollama.OllamaChatRequest | ollama.OllamaGenerateRequest,
    prompt: str | tuple[Turn, ...],
    tools: ToolUse | None,
    *,
    chat: bool,
    ignored: list[str] | None,
) -> OllamaRequest:
    if asked.think and ignored is None:
        raise bad("think", f"{asked.model!r} does not support thinking", code="unsupported_parameter")
    given = asked.options or ollama.OllamaOptions()
    if given.top_k is not None:
        given = msgspec.structs.replace(given, top_k=max(given.top_k, 0))
    stops = [given.stop] if isinstance(given.stop, str) else given.stop or []
    limit = given.num_predict
    spec = TextSpec(
        prompt=prompt,
        version=asked.model,
        sampling=msgspec.convert(given, PartialSampling, from_attributes=True),
        adjustments=Adjustments(
            repetition_penalty=given.repeat_penalty or 1.0,
            frequency_penalty=given.frequency_penalty or 0.0,
            presence_penalty=given.presence_penalty or 0.0,
        ),
        seed=None if given.seed is None or given.seed < 0 else given.seed % 2**64,
        limit=WHOLE_CONTEXT if limit is not None and limit <= 0 else limit,
        stops=tuple(stop for stop in stops if stop),
        grammar=_grammar(asked.format),
        tools=tools,
        truncate=asked.truncate,
        offline=asked.offline,
    )
    loads: ollama.DoneReason = "unload" if asked.keep_alive in (0, "0", "0s") else "load"
    return OllamaRequest(
        chat=chat,
        asked_model=asked.model,
        spec=spec,
        stream=asked.stream,
        loads=None if prompt else loads,
        ignored=(*(ignored or ()), *(["think"] if asked.think else [])),
    )


def _grammar(form: str | dict[str, Any] | None) -> Grammar | None:
    if form in (None, ""):
        return None
    if isinstance(form, str):
        if form != "json":
            raise bad("format", f'invalid format: {form[:60]!r}; expected "json" or a JSON schema')
        form = {"type": "object"}
    return Grammar.from_json_schema(form)


def _arguments(parameters: dict[str, Any]) -> dict[str, Any] | None:
    """A tool's parameters, with types as JSON schema has them: Ollama's Python client joins several by commas."""
    given = parameters.get("properties")
    if not isinstance(given, dict):
        return parameters or None
    properties = {
        name: {**schema, "type": schema["type"].split(", ")}
        if isinstance(schema, dict) and isinstance(schema.get("type"), str) and "," in schema["type"]
        else schema
        for name, schema in given.items()
    }
    return {**parameters, "properties": properties}


def _turns(messages: Sequence[ollama.OllamaMessage]) -> tuple[Turn, ...]:
    """Turns of a conversation. Results that name no call stand as they came."""
    made = Conversation()
    for at, message in enumerate(messages):
        if message.tool_calls and message.role != "assistant":
            raise bad(
                f"messages[{at}].tool_calls", f"messages[{at}].tool_calls: only an assistant calls tools"
            )
        if message.role == "tool" and made.result(message.tool_call_id or "", message.content):
            continue
        calls = (
            ReadCall(call.function.name, as_written(call.function.arguments), call.id)
            for call in message.tool_calls
        )
        images = _images(message.images, f"messages[{at}].images")
        made.add(Turn(message.role, message.content, tuple(calls), message.tool_name, images=images))
    return tuple(made.turns)


def _images(given: Sequence[str], where: str) -> tuple[Image, ...]:
    return tuple(image_in_base64(data, f"{where}[{at}]") for at, data in enumerate(given))


class OllamaForm(Form):
    """An answer, or one by lines: text as it comes, each call when it is complete, and figures at the end."""

    kind: ClassVar[str] = "application/x-ndjson"

    def __init__(self, texts: Sequence[Text], wanted: OllamaRequest) -> None:
        super().__init__(texts, "messages" if wanted.chat else "prompt")
        self._text, self._wanted = texts[0], wanted
        self.name = self._text.id

    def whole(self, ends: Sequence[End]) -> bytes:
        """A single object."""
        (follower,), (end,) = self.followers, ends
        said, left = self._said(follower.whole(end)), follower.left(end)
        return self._wanted.encoded(**said, **_ended(end), provisional=UNSET if left is None else left)

    def told(self, at: int, event: CallEvent) -> bytes:
        """A line, where it has text or completes a call."""
        del at
        said = self._said([event])
        return self._wanted.encoded(done=False, **said) + b"\n" if said else b""

    def changed(self, at: int, change: Provisional) -> bytes:
        """A line without text."""
        del at
        return self._wanted.encoded(done=False, provisional=change) + b"\n"

    def over(self, at: int, end: End) -> bytes:
        """The line that says why it ended."""
        del at
        return self._wanted.encoded(**_ended(end)) + b"\n"

    def broken(self, error: ApiError) -> bytes:
        """A line that clients raise."""
        return msgspec.json.encode(ollama.OllamaError(error=error.words)) + b"\n"

    def silence(self, at: int, waits: Wait | None) -> bytes:
        """A line without text; others are not allowed for here."""
        del at, waits
        return self._wanted.encoded(done=False) + b"\n"

    def _said(self, events: Sequence[CallEvent]) -> dict[str, Any]:
        """The part of an answer that is new; empty if there is none."""
        said, thought = ("content", "refusal"), ("reasoning",)
        content, thinking = (
            "".join(
                event.text for event in events if isinstance(event, Content | Aside) and event.kind in kinds
            )
            for kinds in (said, thought)
        )
        if not self._wanted.chat:
            return {"response": content} if content else {}
        calls = [self._call(event.number) for event in events if isinstance(event, CallEnds)]
        if not (content or calls or thinking):
            return {}
        return {
            "message": ollama.OllamaAssistantMessage(
                content=content, thinking=thinking or UNSET, tool_calls=calls or UNSET
            )
        }

    def _call(self, number: int) -> ollama.OllamaToolCall:
        call = self.followers[0].parser.calls[number]
        written = cast("dict[str, Any]", msgspec.Raw(call.arguments.encode()))  # sent as the target wrote it
        function = ollama.OllamaFunctionCall(index=number, name=call.name, arguments=written)
        return ollama.OllamaToolCall(id=call_id(self._text, number), function=function)


def _ended(end: End) -> dict[str, Any]:
    """How a text ended, and its figures."""
    told = {"done": True, "done_reason": end.reason}
    return told if end.figures is None else told | _figures(end.figures)


def _figures(figures: TextFigures) -> dict[str, Any]:
    first = figures.seconds if figures.first_token is None else figures.first_token
    return {
        "total_duration": nanoseconds(figures.seconds),
        "load_duration": 0,
        "prompt_eval_count": figures.prompt_tokens,
        "prompt_eval_duration": nanoseconds(first),
        "eval_count": figures.tokens,
        "eval_duration": nanoseconds(figures.seconds) - nanoseconds(first),
        "flexspec": msgspec.convert(figures, FlexspecUsage, from_attributes=True),
    }


def nanoseconds(seconds: float) -> int:
    """A duration as Ollama's clients read it."""
    return round(1e9 * seconds)


def rfc3339(seconds: float | None = None) -> str:
    """A time in seconds since the Unix epoch as Ollama's clients read it; now where none is given."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat().replace("+00:00", "Z")
