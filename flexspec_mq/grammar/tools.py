"""Tools that a text may call: how a target writes a call, the grammar of such texts, and calls read out of a text.

A format is the target's own, by its chat template. With `ToolUse.grammar` a text has no other form, so that
`CallParser` reads calls as they are written. Needs no llguidance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from flexspec_mq.errors import UsageError
from flexspec_mq.grammar.grammar import Grammar, json_part

MAX_CALLS = 8
"""Calls of one answer at most: a small model may repeat itself."""
NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
"""Names that a tool may have."""

_ANY = r"(.|\n)*"
_ARGUMENTS = re.compile(r'"arguments\\?": ')
"""The key of a call in JSON, as a template writes it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a text may call.

    Attributes:
        parameters: JSON schema of the arguments, an object; None takes none.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be called.

        Raises:
            UsageError: the name has other characters, or the arguments are no object.
        """
        if not NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name[:60]!r} is no name of a tool", hint="1 to 128 letters, digits, '_', '-' and '.'"
            )
        if self.schema.get("type") != "object":
            raise UsageError(f"the parameters of {self.name} are no object", hint='say "type": "object"')

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.parameters}

    def as_told(self) -> dict[str, Any]:
        """The tool as chat templates take it."""
        told = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": told}


class ReadCall(NamedTuple):
    """A call of a tool.

    Attributes:
        arguments: a JSON object, or its beginning where the text was cut.
        id: the client's name of a call, by which its result refers to it.
    """

    name: str
    arguments: str
    id: str = ""

    @property
    def value(self) -> Any:
        """Its arguments as a JSON value; their text where it was cut."""
        try:
            return json.loads(self.arguments)
        except (ValueError, RecursionError):
            return self.arguments


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """Form of a call in a target's text: ``BEGIN{"name": NAME, KEY: ARGUMENTS}END``.

    Where an answer is free to be text, it may also begin with a call as JSON alone, as small models write it.

    Attributes:
        trigger: beginning of a call that free text cannot have; empty where a call is JSON alone.
        between: text between two calls; None is for a single call.
        native: whether the target's template writes tools, calls and results; else `prompt` does.
        marks: whether the trigger and the end are tokens of their own, by which no other spelling is meant.
        channels: whether the text has marks between content, reasoning and calls instead, as a server told them.
    """

    begin: str = "<tool_call>\n"
    key: str = "arguments"
    end: str = "\n</tool_call>"
    trigger: str = "<tool_call>"
    between: str | None = "\n"
    native: bool = False
    marks: bool = False
    channels: bool = False

    @property
    def bare(self) -> ToolFormat:
        """A call as JSON alone."""
        return ToolFormat("", self.key, "", "", self.between)

    def head(self, name: str) -> str:
        """A call as far as its arguments."""
        return f'{self.begin}{{"name": "{name}", "{self.key}": '

    def call(self, call: ReadCall) -> str:
        """A call, as the target would write it."""
        return f"{self.head(call.name)}{as_written(call.value)}}}{self.end}"


HERMES = ToolFormat()
"""The form of Hermes 2 Pro and Qwen 2.5; that of every target whose template has none that is known here."""
LLAMA = ToolFormat("", "parameters", "", "", None, native=True)
"""JSON alone, as Llama 3's template writes it: a single call, without text before it."""


def tool_format(template: str, added: Iterable[str] = ()) -> ToolFormat:
    """The form of calls that a target knows.

    Args:
        template: chat template of the target; empty where it has none, or takes no tools.
        added: the added tokens of its tokenizer.
    """
    marks = {"<tool_call>", "</tool_call>"} <= set(added)
    if "<tool_call>" in template and _ARGUMENTS.search(template) and "<function=" not in template:
        return ToolFormat(native=True, marks=marks)
    if '"parameters": ' in template and "ipython" in template:
        return LLAMA
    return ToolFormat(marks=marks)


def as_written(value: object) -> str:
    """JSON as chat templates write it."""
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """Tools of a text.

    Attributes:
        tools: tools that the prompt describes.
        only: names of those that may be called; None is all.
        required: whether the text is a call, and nothing else.
        parallel: whether it may make several calls.
    """

    tools: tuple[Tool, ...]
    only: frozenset[str] | None = None
    required: bool = False
    parallel: bool = True

    def __post_init__(self) -> None:
        """Refuse tools that cannot be told apart.

        Raises:
            UsageError: naming the tool.
        """
        names = [tool.name for tool in self.tools]
        if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
            raise UsageError(f"two tools have the name {twice}")
        if self.only is not None and (unknown := sorted(self.only.difference(names))):
            raise UsageError(f"there is no tool {unknown[0]}", hint=f"there is {', '.join(names) or 'none'}")

    @property
    def callable(self) -> tuple[Tool, ...]:
        """Tools that may be called."""
        return tuple(tool for tool in self.tools if self.only is None or tool.name in self.only)

    def grammar(self, form: ToolFormat, content: Grammar | None = None) -> Grammar:
        """Texts that are free or calls, or calls alone.

        Args:
            form: the target's.
            content: texts that are allowed in place of calls; None is all.

        Raises:
            UsageError: calls in this form cannot be told from such texts.
        """
        if content is not None and not self.required and not form.trigger:
            raise UsageError(
                "this target writes calls as bare JSON, so that an answer in a form of its own could be one",
                hint="have a tool be required, or leave the form of the answer out",
            )
        tools, named = self.callable, form.trigger if form.marks else _quoted(form.trigger)
        opening = form.head("\0")[len(form.trigger) :].partition("\0")
        end = form.end if not form.marks else form.end.removesuffix("</tool_call>")
        close = f"{_quoted('}' + end)}{' </tool_call>' if form.marks else ''}"
        rules = [
            f"call: ({' | '.join(f'tool_{at}' for at in range(len(tools)))}) {close}",
            *(
                f"tool_{at}: {_quoted(opening[0] + tool.name + opening[2])} @args_{at}"
                for at, tool in enumerate(tools)
            ),
        ]
        several = form.between if self.parallel else None
        calls, bare = "call", "bare"
        if several is not None:
            calls, bare = (f"{first} {first}_more{{0,{MAX_CALLS - 1}}}" for first in ("call", "bare"))
            rules.append(f"call_more: {_quoted(several)} {named} call")
        grammars: list[dict[str, Any]] = [
            json_part(tool.schema, name=f"args_{at}") for at, tool in enumerate(tools)
        ]
        if self.required:
            rules.insert(0, f"start: {named} {calls}")
        elif content is not None:
            grammars += content.parts("content")
            rules.insert(0, f"start: @content | {named} {calls}")
        else:
            # A lazy lexeme ends as soon as it can: no text has the trigger in it, or begins with a call.
            opened = [f"opened {calls}"] if form.trigger else []
            opened += [f"TEXT {named} {calls}"] if form.marks else []
            heads = [_quoted(form.bare.head(tool.name)) for tool in tools]
            rules[:0] = [
                f"start: {' | '.join(['TEXT', bare, *opened])}",
                f"TEXT: /{_ANY}/",
                *([f"opened[lazy]: TEXT {_quoted(form.trigger)}"] if opened else []),
                f"bare: ({' | '.join(f'bare_{at} @args_{at}' for at in range(len(tools)))}) {_quoted('}')}",
                *(f"bare_{at}[lazy]: {head}" for at, head in enumerate(heads)),
            ]
            if several is not None:
                again = " | ".join(f"{head} @args_{at}" for at, head in enumerate(heads))
                rules.append(f"bare_more: {_quoted(several)} ({again}) {_quoted('}')}")
        return Grammar.from_parts([{"name": "text", "lark_grammar": "\n".join(rules)}, *grammars])

    def prompt(self) -> str:
        """Words of a system turn about the tools, where the target's template has no words for them."""
        tools = "\n".join(as_written(tool.as_told()) for tool in self.tools)
        return (
            "You may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n"
            f"<tools>\n{tools}\n</tools>\n\n"
            "For each function call, return a JSON object with function name and arguments within "
            "<tool_call></tool_call> XML tags:\n"
            '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        )


def _quoted(text: str) -> str:
    return json.dumps(text) if text else ""


class Content(NamedTuple):
    """A part of the text that is no call.

    Attributes:
        at: characters of the whole text before it.
    """

    text: str
    at: int
    kind: Literal["content"] = "content"


class Aside(NamedTuple):
    """A part of what is neither content nor a call.

    Attributes:
        kind: name of its channel.
        at: characters of the whole text before it.
    """

    text: str
    at: int
    kind: Literal["reasoning", "refusal"]


class CallBegins(NamedTuple):
    """A call begins; the number of calls before it."""

    number: int
    name: str


class CallArguments(NamedTuple):
    """A part of a call's arguments, as JSON."""

    number: int
    text: str


class CallEnds(NamedTuple):
    """A call is complete."""

    number: int


CallEvent = Content | Aside | CallBegins | CallArguments | CallEnds


class CallParser:
    """Calls of a text, read piece by piece; what is told does not depend on how the text was cut.

    White space before a call and between calls belongs to the format. The unfinished head of a call is told to nobody.

    Args:
        form: the target's.
        use: tools of the text; None where it has none, and all of it is content.

    Attributes:
        calls: complete ones, and the one that is being written.
    """

    def __init__(self, form: ToolFormat, use: ToolUse | None) -> None:
        self.calls: list[ReadCall] = []
        self._form = form
        self._required = use is not None and use.required
        tools = () if use is None else use.callable
        self._heads = {form.head(tool.name): tool.name for tool in tools}
        self._bare = {form.bare.head(tool.name): tool.name for tool in tools}
        self._held = ""
        self._at = 0  # characters before those
        self._state = self._text
        self._depth, self._string, self._escaped = 0, False, False

    @property
    def within(self) -> bool:
        """Whether the text stands within the arguments of a call."""
        return self._state == self._arguments

    def push(self, piece: str) -> list[CallEvent]:
        """Add text; returns what has become certain."""
        self._held += piece
        events: list[CallEvent] = []
        while self._state(events):
            pass
        return events

    def ahead(self, text: str) -> str:
        """Content that the text would go on with by `text`, as far as its next call, of which nobody is told yet."""
        if not self._heads:
            return text
        content = ""
        for event in deepcopy(self).push(text):
            if not isinstance(event, Content):
                break
            content += event.text
        return content

    def finish(self) -> list[CallEvent]:
        """The text is over: what was held back, but for the beginning of a call."""
        held, self._held = self._held, ""
        trigger = self._form.trigger
        call = self.calls or self._required or (trigger and trigger in held)
        return [Content(held, self._at)] if held and not call else []

    def _text(self, events: list[CallEvent]) -> bool:
        """Read free text, or what is between calls, as far as the head of a call; whether to go on."""
        form, held = self._form, self._held
        if not self._heads:
            return self._content(len(held), events)
        if not self._at or (self.calls and not form.trigger and form.between is not None):
            begin = len(held) - len(held.lstrip()) if self.calls else 0
            if (head := self._head(self._bare, begin)) is not None:
                return self._begins(begin, head, form.bare, events)
        if not form.trigger:
            return self._content(len(held), events)
        begin = held.find(form.trigger)
        if begin < 0:
            return self._content(len(held[: len(held) - overlap(held, form.trigger)].rstrip()), events)
        if (head := self._head(self._heads, begin)) is not None:
            return self._begins(begin, head, form, events)
        self._content(begin + len(form.trigger), events)  # no call, whatever it looks like
        return True

    def _head(self, heads: Iterable[str], begin: int) -> str | None:
        """The head with which the held text goes on from there, as far as it has come."""
        come = len(self._held) - begin
        return next((head for head in heads if self._held.startswith(head[:come], begin)), None)

    def _begins(self, begin: int, head: str, form: ToolFormat, events: list[CallEvent]) -> bool:
        """Read the head of a call, once it is there."""
        come = len(self._held) - begin
        self._content(len(self._held[:begin].rstrip()), events)
        if come < len(head):
            return False
        self._take(self._held.index(head) + len(head))
        self._form, name = form, (self._heads | self._bare)[head]
        self.calls.append(ReadCall(name, ""))
        events.append(CallBegins(len(self.calls) - 1, name))
        self._state = self._arguments
        return True

    def _arguments(self, events: list[CallEvent]) -> bool:
        """Read a JSON object as far as its end."""
        end = self._object_end()
        if part := self._take(len(self._held) if end is None else end):
            self.calls[-1] = self.calls[-1]._replace(arguments=self.calls[-1].arguments + part)
            events.append(CallArguments(len(self.calls) - 1, part))
        if end is not None:
            self._state = self._close
        return end is not None

    def _object_end(self) -> int | None:
        """Characters up to the end of the object; None where it goes on."""
        for at, character in enumerate(self._held):
            if self._string:
                self._string = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    return at + 1
        return None

    def _close(self, events: list[CallEvent]) -> bool:
        """Read the end of a call."""
        end = "}" + self._form.end
        if len(self._held) < len(end) and end.startswith(self._held):
            return False
        if self._held.startswith(end):
            self._take(len(end))
        events.append(CallEnds(len(self.calls) - 1))
        self._state = self._text
        return True

    def _content(self, size: int, events: list[CallEvent]) -> bool:
        if size:
            at = self._at
            events.append(Content(self._take(size), at))
        return False

    def _take(self, size: int) -> str:
        taken, self._held = self._held[:size], self._held[size:]
        self._at += size
        return taken


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of a text with which a mark begins."""
    most = min(len(mark) - 1, len(text))
    return next((size for size in range(most, 0, -1) if text.endswith(mark[:size])), 0)
