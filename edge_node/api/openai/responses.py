"""OpenAI's ``/v1/responses``: items to turns and back, and events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edge_node.api.conversation import Conversation, content_of
from edge_node.api.errors import ApiError, bad
from edge_node.api.forms import ApiRequest, Form
from edge_node.api.http.bodies import read
from edge_node.api.openai.chat import behind, event
from edge_node.api.openai.requests import form_of, joined, limit_of, made_call, spec_of, tool_use
from edge_node.api.response_store import ResponseStore, StoredResponse
from edge_node.text.machine import End, Text
from edge_node.text.reading import Part
from edge_node.text.spec import is_local
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.tools import (
    Aside,
    CallArguments,
    CallBegins,
    CallEvent,
    Content,
    ToolUse,
)
from flexspec_mq.models.text import Turn
from schemas import responses as types
from schemas.node import TextFigures
from schemas.openai import FlexspecPart, FlexspecUsage, Provisional

if TYPE_CHECKING:
    from edge_node.text.service import Wait

_KINDS: dict[str, type[msgspec.Struct]] = {
    "message": types.ResponseInputMessage,
    "function_call": types.ResponseInputCall,
    "function_call_output": types.ResponseCallOutput,
    "item_reference": types.ResponseItemReference,
}


def read_input(
    given: str | list[dict[str, Any]],
    before: tuple[Turn, ...],
    referred: Callable[[str, str], types.ResponseItem],
    *,
    ignored: list[str] | None,
) -> tuple[Turn, ...]:
    """The turns of a request's input, behind those that it goes on from.

    Raises:
        ApiError: 400, naming the field.
    """
    made = Conversation(before)
    if not given:
        raise bad("input", "input is empty")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    for at, item in enumerate(given):
        where = f"input[{at}]"
        kind = _kind(item)
        if kind == "reasoning":
            continue
        if not isinstance(kind, str) or kind not in _KINDS:
            if ignored is not None:
                ignored.append(where)
                continue
            raise bad(f"{where}.type", f"{where}.type is {str(kind)[:60]!r}, not one of {', '.join(_KINDS)}")
        got = read(_KINDS[kind], item, f"{where}.", ignored=ignored)
        if isinstance(got, types.ResponseItemReference):
            got = referred(got.id, f"{where}.id")
        _add(made, got, where)
    return tuple(made.turns)


def _kind(item: dict[str, Any]) -> Any:
    return item.get("type") or ("message" if "role" in item else "item_reference")


def _add(made: Conversation, item: msgspec.Struct, where: str) -> None:
    """Append an item to a conversation."""
    match item:
        case types.ResponseInputMessage() | types.ResponseOutputMessage():
            content, images = content_of(item.content, f"{where}.content", item.role)
            made.add(Turn("system" if item.role == "developer" else item.role, content, images=images))
        case types.ResponseInputCall() | types.ResponseFunctionCall():
            made.call(made_call(item.name, item.arguments, item.call_id, f"{where}.arguments"))
        case types.ResponseCallOutput():
            if not made.result(item.call_id, joined(item.output)):
                message = f"no call before {where} waits for a result by the id {item.call_id[:80]!r}"
                raise bad(f"{where}.call_id", message)


def _tools(
    asked: types.ResponsesRequest, *, ignored: list[str] | None
) -> tuple[list[types.ResponseTool], ToolUse | None]:
    """Tools of a request as OpenAI has them, and what the text may do with them.

    Raises:
        ApiError: 400, naming the field.
    """
    tools = []
    for at, tool in enumerate(asked.tools or []):
        if tool.get("type") != "function":
            if ignored is not None:
                ignored.append(f"tools[{at}]")
                continue
            message = f"tools[{at}] is {str(tool.get('type'))[:60]!r}; this node hosts no tools"
            raise bad(f"tools[{at}].type", message, code="unsupported_parameter", hint="send functions")
        tools.append(read(types.ResponseTool, tool, f"tools[{at}].", ignored=ignored))
    choice, only, parallel = asked.tool_choice, None, asked.parallel_tool_calls
    if isinstance(choice, types.ResponseToolChoice):
        if choice.type == "function":
            only, parallel, choice = {choice.name or ""}, False, "required"
        else:
            only, choice = {str(tool.get("name")) for tool in choice.tools or []}, choice.mode or "auto"
    if choice == "none" or not tools:
        if choice == "required":
            raise bad("tool_choice", "tool_choice asks for a call, and there are no tools")
        return tools, None
    return tools, tool_use(tools, only, required=choice == "required", parallel=parallel)


class Output:
    """The items of a response as its text comes, and the events that tell of them.

    Args:
        name: id of the text.

    Attributes:
        items: complete items, and the one that is written.
    """

    def __init__(self, name: str) -> None:
        self.items: list[types.ResponseItem] = []
        self._name = name
        self._parts: list[str] = []
        self._open = False
        self._numbered = 0

    def event(self, kind: str, **fields: Any) -> types.ResponseEvent:
        """The next event."""
        self._numbered += 1
        return types.ResponseEvent(type=f"response.{kind}", sequence_number=self._numbered - 1, **fields)

    def take(self, told: CallEvent) -> Iterator[types.ResponseEvent]:
        """The events of a part of the text."""
        match told:
            case Content():
                if not (self._open and isinstance(self.items[-1], types.ResponseOutputMessage)):
                    yield from self._begin(
                        types.ResponseOutputMessage(id=self._id("msg"), status="in_progress", content=[])
                    )
                    yield self._of_text("content_part.added", part=types.ResponseOutputText(text=""))
                self._parts.append(told.text)
                if told.text:
                    yield self._of_text("output_text.delta", delta=told.text, logprobs=[])
            case CallBegins():
                yield from self._begin(
                    types.ResponseFunctionCall(
                        id=self._id("fc"),
                        status="in_progress",
                        call_id=self._id("call"),
                        name=told.name,
                        arguments="",
                    )
                )
            case CallArguments():
                self._parts.append(told.text)
                yield self._of_item("function_call_arguments.delta", delta=told.text)
            case Aside(kind="reasoning"):
                pass
            case Aside():
                yield from self.take(Content(told.text, told.at))
            case _:
                yield from self._end()

    def finish(self, status: types.Status) -> Iterator[types.ResponseEvent]:
        """The text is over; one without any item is an empty message."""
        if not self.items:
            yield from self.take(Content("", 0))
        yield from self._end(status)

    def _end(self, status: types.Status = "completed") -> Iterator[types.ResponseEvent]:
        """End the item that is written, if there is one."""
        if not self._open:
            return
        self._open, text = False, "".join(self._parts)
        item = self.items[-1]
        if isinstance(item, types.ResponseOutputMessage):
            part = types.ResponseOutputText(text=text)
            item = msgspec.structs.replace(item, status=status, content=[part])
            yield self._of_text("output_text.done", text=text, logprobs=[])
            yield self._of_text("content_part.done", part=part)
        else:
            item = msgspec.structs.replace(item, status=status, arguments=text)
            yield self._of_item("function_call_arguments.done", name=item.name, arguments=text)
        self.items[-1] = item
        yield self.event("output_item.done", output_index=len(self.items) - 1, item=item)

    def _begin(self, item: types.ResponseItem) -> Iterator[types.ResponseEvent]:
        yield from self._end()
        self.items.append(item)
        self._parts, self._open = [], True
        yield self.event("output_item.added", output_index=len(self.items) - 1, item=item)

    def _id(self, kind: str) -> str:
        return f"{kind}_{self._name}_{len(self.items)}"

    def _of_item(self, kind: str, **fields: Any) -> types.ResponseEvent:
        index = len(self.items) - 1
        return self.event(kind, item_id=self.items[-1].id, output_index=index, **fields)

    def _of_text(self, kind: str, **fields: Any) -> types.ResponseEvent:
        return self._of_item(kind, content_index=0, **fields)


class ResponsesTextRequest(ApiRequest, frozen=True, kw_only=True, omit_defaults=True, tag="responses"):
    """A request for a response.

    Attributes:
        said: the request, without its input.
        tools: functions that it names.
        turns: turns of the conversation, without instructions.
        client: who asks, and may go on from the response.
    """

    said: types.ResponsesRequest
    tools: list[types.ResponseTool]
    turns: tuple[Turn, ...]
    client: bytes

    def form(self, texts: Sequence[Text], responses: ResponseStore) -> ResponsesForm:
        """OpenAI's objects."""
        return ResponsesForm(texts, self, responses)


def responses_request(
    body: dict[str, Any], lenient: bool = False, *, store: ResponseStore, client: bytes
) -> ResponsesTextRequest:
    """Read the body of a request for a response; see `chat_request`.

    Args:
        body: JSON object of the request.
        lenient: ignore fields that are unknown or not supported.
        store: responses that it may go on from.
        client: who asks.

    Raises:
        ApiError: 400, naming the field.
    """
    ignored: list[str] | None = [] if lenient else None
    asked = read(types.ResponsesRequest, body, ignored=ignored)
    if any("logprobs" in each for each in asked.include or []):
        raise bad("include", "include asks for log-probabilities, which are not available")
    before: tuple[Turn, ...] = ()
    local = is_local(asked.offline, asked.model)
    if asked.previous_response_id is not None:
        before = store.get(client, asked.previous_response_id, "previous_response_id", local=local).turns
    turns = read_input(asked.input, before, partial(store.item, client, local=local), ignored=ignored)
    tools, use = _tools(asked, ignored=ignored)
    instructions = (Turn("system", asked.instructions),) if asked.instructions else ()
    return ResponsesTextRequest(
        spec=spec_of(
            asked,
            prompt=(*instructions, *turns),
            limit=limit_of({"max_output_tokens": asked.max_output_tokens}),
            tools=use,
            grammar=_grammar(asked),
            truncate=asked.truncation == "auto",
        ),
        stream=asked.stream,
        ignored=tuple(ignored or ()),
        said=msgspec.structs.replace(asked, input=""),
        tools=tools,
        turns=turns,
        client=client,
    )


def _grammar(asked: types.ResponsesRequest) -> Grammar | None:
    """Texts that ``text.format`` allows."""
    shape = asked.text.format
    if shape.type == "text":
        return None
    if shape.type == "json_schema" and shape.schema is None:
        raise bad("text.format.schema", "text.format.schema is missing")
    return form_of("json", shape.schema or {"type": "object"}, "text.format")


class ResponsesForm(Form):
    """A text as a response, or as its events."""

    def __init__(self, texts: Sequence[Text], wanted: ResponsesTextRequest, store: ResponseStore) -> None:
        free = wanted.said.text.format.type == "text"
        super().__init__(texts, "input", "tools" if free else "text.format")
        (self._text,) = texts
        self._wanted = wanted
        self._store = store
        self._output = Output(self._text.id)
        self.name = f"resp_{self._text.id}"

    def whole(self, ends: Sequence[End]) -> bytes:
        """The response as an object."""
        self.news(0, Part(self._text.whole, "", None))
        self.ended(0, ends[0])
        return msgspec.json.encode(self._over(ends[0]))

    def first(self) -> bytes:
        """The events before any text."""
        begun = self._response("in_progress")
        return b"".join(
            _sent(self._output.event(kind, response=begun)) for kind in ("created", "in_progress")
        )

    def told(self, at: int, event: CallEvent) -> bytes:
        """Events of what the text adds."""
        del at
        events = [*map(_sent, self._output.take(event))]
        return b"".join([*events[:-1], self.mark, *events[-1:]])  # the last one has the characters

    def changed(self, at: int, change: Provisional) -> bytes:
        """An event that OpenAI's API has not."""
        del at
        return _sent(self._output.event("flexspec", flexspec=FlexspecPart(provisional=change)))

    def silence(self, at: int, waits: Wait | None) -> bytes:
        """A comment, and an event where the client is told of provisional text."""
        told = super().silence(at, waits)
        if waits is None or not self.followers[at].sees_provisional:
            return told
        return told + _sent(self._output.event("flexspec", flexspec=FlexspecPart(waiting=str(waits))))

    def over(self, at: int, end: End) -> bytes:
        """Events that end its items."""
        del at
        return b"".join(
            map(_sent, self._output.finish("completed" if end.reason == "stop" else "incomplete"))
        )

    def last(self, ends: Sequence[End]) -> bytes:
        """The event that has all of it."""
        response = self._over(ends[0])
        return _sent(self._output.event(response.status, response=response))

    def broken(self, error: ApiError) -> bytes:
        """The event of a response that failed."""
        code = {400: "invalid_prompt", 429: "rate_limit_exceeded"}.get(error.status, "server_error")
        told = msgspec.convert(
            {"code": code, "message": error.words, "type": error.code}, types.ResponseError
        )
        return _sent(self._output.event("failed", response=self._response("failed", error=told)))

    def _over(self, end: End) -> types.Response:
        """The response to a text that is complete, or cut; it is kept before its client can ask for it."""
        figures, cut = end.figures, end.reason != "stop"
        reason: Literal["max_output_tokens", "provisional"] = (
            "provisional" if end.reason == "provisional" else "max_output_tokens"
        )
        response = self._response(
            "incomplete" if cut else "completed",
            completed_at=None if cut or figures is None else self._text.created + round(figures.seconds),
            incomplete_details=types.ResponseIncompleteDetails(reason) if cut else None,
            flexspec=behind(self.followers[0], end),
            output=self._output.items,
            **({} if figures is None else _used(figures)),
        )
        if self._wanted.said.store:
            answer = Conversation(self._wanted.turns)
            for item in self._output.items:
                if item.status == "completed" or isinstance(item, types.ResponseOutputMessage):
                    with suppress(ApiError):  # arguments that no prompt can hold, as half a character
                        _add(answer, item, "output")
            self._store.put(self._wanted.client, StoredResponse(tuple(answer.turns), response))
        return response

    def _response(self, status: types.Status, **more: Any) -> types.Response:
        said = self._wanted.said
        known = {name: getattr(said, name) for name in _ECHOED}
        tools = self._wanted.spec.tools
        known["parallel_tool_calls"] = tools is None or tools.parallel
        return types.Response(
            id=self.name,
            created_at=self._text.created,
            status=status,
            model=self._text.version or said.model or "",
            tools=self._wanted.tools,
            **{**known, **more},
        )


def _used(figures: TextFigures) -> dict[str, Any]:
    """Fields of a response that only its text has."""
    return {
        "temperature": figures.temperature,
        "top_p": figures.top_p,
        "usage": types.ResponseUsage(
            input_tokens=figures.prompt_tokens,
            output_tokens=figures.tokens,
            total_tokens=figures.prompt_tokens + figures.tokens,
            flexspec=msgspec.convert(figures, FlexspecUsage, from_attributes=True),
        ),
    }


_ECHOED = (
    "instructions", "max_output_tokens", "max_tool_calls", "previous_response_id", "reasoning",
    "store", "temperature", "text", "tool_choice", "top_p", "truncation", "metadata",
)  # fmt: skip
"""Fields of a response that say what the request said."""


def _sent(made: types.ResponseEvent) -> bytes:
    """A server-sent event with its name."""
    return f"event: {made.type}\n".encode() + event(made)
