"""Ollama's API, by the types of `schemas.ollama`: its requests, its answers by lines, and what it tells of models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from edge_node.api.chat import call_id
from edge_node.api.conversation import Conversation
from edge_node.api.errors import ApiError, bad
from edge_node.api.forms import ApiRequest, Form
from edge_node.api.http.bodies import parse_object, read
from edge_node.api.serving import LATEST, json_answer
from edge_node.text.machine import End, Text
from edge_node.text.service import Service, Wait
from edge_node.text.spec import WHOLE_CONTEXT, TextSpec
from flexspec_mq import waiting
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.tools import (
    CallEnds,
    CallEvent,
    Content,
    Tool,
    ToolCall,
    ToolUse,
    as_written,
)
from flexspec_mq.models.text import Turn
from flexspec_mq.protocol.edge.patience import Waits
from schemas import ollama
from schemas.messages import PartialSampling
from schemas.node import TextFigures
from schemas.openai import FlexspecUsage, Model, Provisional

if TYPE_CHECKING:
    from starlette.types import Send

    from edge_node.api.kept_responses import ResponseStore
    from edge_node.api.serving import Api, Handler

VERSION = "0.13.0"
"""Version of Ollama whose API this is; clients ask whether it is new enough for tools and schemas."""
_FOR_EVER = "9999-12-31T23:59:59Z"
_JSON = "application/json"


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
        return msgspec.json.encode(kind(model=self.asked_model, created_at=_rfc3339(), **more))


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
    return _request(
        asked, _turns(asked.messages), ToolUse(tools=tools) if tools else None, chat=True, ignored=ignored
    )


def generate_request(body: dict[str, Any], lenient: bool = False) -> OllamaRequest:
    """Read the body of ``POST /api/generate``; see `chat_request`.

    Raises:
        ApiError: 400, naming the field.
        UsageError: a value that cannot be used.
    """
    ignored: list[str] | None = [] if lenient else None
    asked = read(ollama.OllamaGenerateRequest, body, ignored=ignored)
    if asked.raw and asked.system:
        raise bad("system", "raw mode does not support template, system, or context")
    system = (Turn("system", asked.system),) if asked.system else ()
    prompt = asked.prompt if asked.raw or not asked.prompt else (*system, Turn("user", asked.prompt))
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
            ToolCall(call.function.name, as_written(call.function.arguments), call.id)
            for call in message.tool_calls
        )
        made.add(Turn(message.role, message.content, tuple(calls), message.tool_name))
    return tuple(made.turns)


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
        content = "".join(event.text for event in events if isinstance(event, Content))
        if not self._wanted.chat:
            return {"response": content} if content else {}
        calls = [self._call(event.number) for event in events if isinstance(event, CallEnds)]
        if not content and not calls:
            return {}
        return {"message": ollama.OllamaAssistantMessage(content=content, tool_calls=calls or UNSET)}

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
        "total_duration": _ns(figures.seconds),
        "load_duration": 0,
        "prompt_eval_count": figures.prompt_tokens,
        "prompt_eval_duration": _ns(first),
        "eval_count": figures.tokens,
        "eval_duration": _ns(figures.seconds) - _ns(first),
        "flexspec": msgspec.convert(figures, FlexspecUsage, from_attributes=True),
    }


def _ns(seconds: float) -> int:
    return round(1e9 * seconds)


def _rfc3339(seconds: float | None = None) -> str:
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat().replace("+00:00", "Z")


def _version_of(model: Model) -> str:
    return model.id if model.flexspec is UNSET else model.flexspec.version


def _listed(api: Api, name: str, model: Model, **more: Any) -> ollama.OllamaModel:
    version = _version_of(model)
    if model.flexspec is UNSET:  # clients remember by it what is shown of a model
        status = api.node.directory.status(version)
        told = "" if status is None else f" {status.fingerprint} {status.weights} {status.grammar}"
        digest = sha256(f"{version}{told}".encode()).hexdigest()
    else:
        digest = model.flexspec.digest
    tagged = name if ":" in name else name + LATEST
    return ollama.OllamaModel(
        name=tagged,
        model=tagged,
        modified_at=_rfc3339(model.created),
        digest=digest,
        details=_details(api, version),
        **more,
    )


def _details(api: Api, version: str) -> ollama.OllamaDetails:
    return ollama.OllamaDetails(quantization_level=api.node.directory.described(version)[1])


async def _models(more: dict[str, Any], api: Api, _request: Request, _send: Send) -> Response:
    if not more:  # those that are loaded are asked for again and again, and worth no byte of the link
        await api.node.directory.refreshed()
    return json_answer(
        ollama.OllamaModels(
            models=[_listed(api, name, model, **more) for name, model in api.models().items()]
        )
    )


async def _asked(api: Api, request: Request) -> tuple[ollama.OllamaModelRequest, Model]:
    """A request for a model that is there.

    Raises:
        ApiError: 404, or 400.
    """
    ignored: list[str] | None = [] if api.settings.lenient else None
    raw = await api.bodies.read(request, typed=False)
    body = await api.bodies.work(len(raw), parse_object, raw)
    asked = read(ollama.OllamaModelRequest, body, ignored=ignored)
    if not (name := asked.model or asked.name):
        raise bad("model", "model is required")
    return asked, await api.model(name)


async def _show(api: Api, request: Request, _send: Send) -> Response:
    _, model = await _asked(api, request)
    version = _version_of(model)
    directory = api.node.directory
    await directory.wait_until(lambda: directory.status(version) is not None, 0.3 * waiting.ANSWER)
    text = await Service(api.node, version, b"", Waits(), lambda _wait: None).text(api.texts.model)
    template, sampling = text.tokenizer.chat_template, directory.recommended(version)
    stated = ((name, getattr(sampling, name)) for name in PartialSampling.__struct_fields__)
    tools = any(status.grammar for status in directory.statuses(version))
    return json_answer(
        ollama.OllamaShown(
            modelfile=f"FROM {model.id}\n",
            parameters="\n".join(f"{name} {value:g}" for name, value in stated),
            template=template if isinstance(template, str) else "",
            details=_details(api, version),
            model_info={
                "general.architecture": "flexspec",
                "general.basename": model.id,
                "flexspec.context_length": text.max_context,
            },
            capabilities=["completion", *(["tools"] if tools else [])],
            modified_at=_rfc3339(model.created),
        )
    )


async def _pull(api: Api, request: Request, _send: Send) -> Response:
    asked, _ = await _asked(api, request)
    done = msgspec.json.encode(ollama.OllamaStatus(status="success"))
    return Response(done + b"\n", media_type=OllamaForm.kind if asked.stream else _JSON)


async def _version(_api: Api, _request: Request, _send: Send) -> Response:
    return json_answer(ollama.OllamaVersion(version=VERSION))


_EMBED = "the node makes no embeddings; name another server for them"
_MAKE = "models are at workers: start one with `flexspec-cloud`"
LACKING = {
    "embed": _EMBED,
    "embeddings": _EMBED,
    "create": _MAKE,
    "copy": _MAKE,
    "push": _MAKE,
    "delete": _MAKE,
}
"""Advice in place of what the node does not do, by the end of the path."""
TABLE: tuple[tuple[str, str, Handler], ...] = (
    ("/api/tags", "GET", partial(_models, {})),
    ("/api/ps", "GET", partial(_models, {"expires_at": _FOR_EVER, "size_vram": 0})),
    ("/api/show", "POST", _show),
    ("/api/pull", "POST", _pull),
    ("/api/version", "GET", _version),
)
"""Paths, methods and handlers."""
