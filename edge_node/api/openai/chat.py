"""Completions and chat completions in OpenAI's shapes, of the types of `schemas.openai`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from edge_node.api.errors import ApiError
from edge_node.api.forms import ApiRequest, Form
from edge_node.text.machine import End, Text
from edge_node.text.reading import TextFollower
from flexspec_mq.grammar.tools import Aside, CallArguments, CallBegins, CallEvent, CallParser, Content
from schemas import openai

if TYPE_CHECKING:
    from edge_node.api.response_store import ResponseStore
    from edge_node.text.service import Wait

DONE = b"data: [DONE]\n\n"
_SUMMED = (
    "proposed", "drafted", "accepted", "looked_up", "worker_accepted", "forced", "provisional", "provisional_confirmed",
    "rounds", "bytes_up", "bytes_down",
)  # fmt: skip
"""Figures that several texts have together."""


def event(body: msgspec.Struct, mark: bytes = b"") -> bytes:
    """A server-sent event, with the line of its id; JSON has no line break, so it is one line."""
    return mark + b"data: " + msgspec.json.encode(body) + b"\n\n"


def usage(ends: Sequence[End]) -> openai.Usage | msgspec.UnsetType:
    """`usage` of the texts of a request, with ours in an object of its own."""
    figures = [end.figures for end in ends if end.figures is not None]
    if not figures:
        return UNSET
    first, tokens = figures[0], sum(each.tokens for each in figures)
    ours = msgspec.convert(first, openai.FlexspecUsage, from_attributes=True)
    if len(figures) > 1:
        together = {name: sum(getattr(each, name) for each in figures) for name in _SUMMED}
        if first.energy_j is not None:
            joules = together["energy_j"] = sum(each.energy_j or 0.0 for each in figures)
            together["energy_j_per_100"] = 100 * joules / max(tokens, 1)
        ours = msgspec.structs.replace(ours, **together)
    return openai.Usage(
        prompt_tokens=first.prompt_tokens,
        completion_tokens=tokens,
        total_tokens=first.prompt_tokens + tokens,
        flexspec=ours,
    )


def call_id(text: Text, index: int) -> str:
    """The id of a call; the same for all who read the text."""
    return f"call_{text.id}{index}"


class OpenAIRequest(ApiRequest, frozen=True, kw_only=True, omit_defaults=True, tag="openai"):
    """A request for completions or chat completions.

    Attributes:
        chat: a request to the chat endpoint.
        include_usage: end the stream with a chunk of figures.
        include_origin: say in each chunk which parts of it were drafted on the device.
        shaped_by: field that says the form of the answer, for errors of that; None where none does.
    """

    chat: bool = True
    include_usage: bool = False
    include_origin: bool = False
    shaped_by: str | None = None

    @property
    def prompt_field(self) -> str:
        """Field of the request that holds the prompt."""
        return "messages" if self.chat else "prompt"

    def form(self, texts: Sequence[Text], responses: ResponseStore | None = None) -> OpenAIForm:  # noqa: ARG002
        """OpenAI's objects."""
        return OpenAIForm(texts, self)


class OpenAIForm(Form):
    """A completion, or a chat completion."""

    def __init__(self, texts: Sequence[Text], wanted: OpenAIRequest) -> None:
        super().__init__(texts, wanted.prompt_field, wanted.shaped_by)
        self._wanted = wanted
        self.name = ("chatcmpl-" if wanted.chat else "cmpl-") + texts[0].id

    def whole(self, ends: Sequence[End]) -> bytes:
        """A single object."""
        took = usage(ends)
        if self._wanted.chat:
            chosen = [self.choice(at, end) for at, end in enumerate(ends)]
            return msgspec.json.encode(openai.ChatCompletion(**self._head, choices=chosen, usage=took))
        choices = [
            openai.TextChoice(
                index=at,
                text="".join(event.text for event in follower.whole(end) if isinstance(event, Content)),
                finish_reason=end.reason,
                flexspec=behind(follower, end),
            )
            for at, (follower, end) in enumerate(zip(self.followers, ends, strict=True))
        ]
        return msgspec.json.encode(openai.TextCompletion(**self._head, choices=choices, usage=took))

    def choice(self, at: int, end: End) -> openai.ChatChoice:
        """The answer to a chat, for a text that is complete."""
        text, follower = self.texts[at], self.followers[at]
        events = follower.whole(end)
        content = "".join(event.text for event in events if isinstance(event, Content))
        asides = _asides(events)
        calls = [
            openai.ToolCall(
                id=call_id(text, index),
                function=openai.FunctionCall(name=call.name, arguments=call.arguments),
            )
            for index, call in enumerate(follower.parser.calls)
        ]
        message = openai.AssistantMessage(
            content=content if content or not (calls or asides) else None, tool_calls=calls or UNSET, **asides
        )
        return openai.ChatChoice(
            index=at,
            message=message,
            finish_reason=_reason(end, follower.parser),
            flexspec=behind(self.followers[at], end),
        )

    def first(self) -> bytes:
        """The role of each answer to a chat, before any text."""
        if not self._wanted.chat:
            return b""
        begun = openai.Delta(role="assistant", content="")
        return b"".join(self._chunk(at, begun) for at in range(len(self.texts)))

    def changed(self, at: int, change: openai.Provisional) -> bytes:
        """An event without text."""
        return self._chunk(at, openai.Delta(), flexspec=openai.FlexspecPart(provisional=change))

    def silence(self, at: int, waits: Wait | None) -> bytes:
        """A comment, and an event where the client asks for more than text."""
        told = super().silence(at, waits)
        if waits is None or not (self._wanted.include_origin or self.followers[at].sees_provisional):
            return told
        return told + self._chunk(at, openai.Delta(), flexspec=openai.FlexspecPart(waiting=str(waits)))

    def over(self, at: int, end: End) -> bytes:
        """The event that says why."""
        return self._chunk(at, openai.Delta(), _reason(end, self.followers[at].parser))

    def last(self, ends: Sequence[End]) -> bytes:
        """Figures, if they are asked for, and the mark of the end."""
        took = usage(ends)
        if self._wanted.include_usage and took is not UNSET:
            return self._event([], usage=took) + DONE
        return DONE

    def broken(self, error: ApiError) -> bytes:
        """An event in place of the mark of the end; OpenAI's client raises it."""
        return event(error.body())

    def told(self, at: int, event: CallEvent) -> bytes:
        """An event, if the client is told of this one."""
        text = self.texts[at]
        if isinstance(event, Content):
            more: dict[str, Any] = {}
            if self._wanted.include_origin:
                more = {"flexspec": openai.FlexspecPart(pieces=list(text.origins.cut(event.text, event.at)))}
            return self._chunk(at, openai.Delta(content=event.text), **more)
        if isinstance(event, Aside):
            return self._chunk(at, openai.Delta(**_asides([event])))
        if isinstance(event, CallBegins):
            call = openai.ToolCallDelta(
                index=event.number,
                id=call_id(text, event.number),
                type="function",
                function=openai.FunctionDelta(name=event.name, arguments=""),
            )
        elif isinstance(event, CallArguments):
            call = openai.ToolCallDelta(
                index=event.number, function=openai.FunctionDelta(arguments=event.text)
            )
        else:
            return b""
        return self._chunk(at, openai.Delta(tool_calls=[call]))

    def _chunk(
        self, at: int, delta: openai.Delta, reason: openai.FinishReason | None = None, **more: Any
    ) -> bytes:
        choice: openai.ChunkChoice | openai.TextChoice
        if self._wanted.chat:
            choice = openai.ChunkChoice(index=at, delta=delta, finish_reason=reason)
        else:
            choice = openai.TextChoice(index=at, text=delta.content or "", finish_reason=reason)
        return self._event([choice], usage=None if self._wanted.include_usage else UNSET, **more)

    def _event(self, choices: list[Any], **more: Any) -> bytes:
        kind = openai.ChatCompletionChunk if self._wanted.chat else openai.TextCompletion
        return event(kind(**self._head, choices=choices, **more), self.mark)

    @property
    def _head(self) -> dict[str, Any]:
        text = self.texts[0]
        return {"id": self.name, "created": text.created, "model": text.version}


def _asides(events: Iterable[CallEvent]) -> dict[str, Any]:
    """Fields of a message, or of a part of one, that are neither content nor calls; none where there is none."""
    fields: dict[str, str] = {}
    for event in events:
        if isinstance(event, Aside):
            name = "reasoning_content" if event.kind == "reasoning" else event.kind
            fields[name] = fields.get(name, "") + event.text
    return fields


def behind(follower: TextFollower, end: End) -> openai.FlexspecPart | msgspec.UnsetType:
    """Provisional text of an answer that ended with it."""
    left = follower.left(end)
    return UNSET if left is None else openai.FlexspecPart(provisional=left)


def _reason(end: End, parser: CallParser) -> openai.FinishReason | None:
    """A stop string within the arguments of a call cuts it as the limit does."""
    if end.reason != "stop" or not parser.calls:
        return end.reason
    return "length" if parser.within else "tool_calls"
