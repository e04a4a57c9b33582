"""Answers held against their requests: calls of given tools with arguments that fit, text that fits a schema."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import fastjsonschema

from lab.frameworks.recording import Exchange


@dataclass(slots=True)
class Answer:
    """An answer, whatever the API.

    Attributes:
        text: text of it.
        calls: names of tools, and arguments as JSON.
        cut: true where it ended at a limit.
    """

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """Outcome of an exchange.

    Attributes:
        faults: why its answer is not valid; one that was cut owes nothing.
        cut: whether an answer ended at a limit.
        tools: whether there were tools to call.
        calls: how many calls were made.
    """

    faults: tuple[str, ...] = ()
    cut: bool = False
    tools: bool = False
    calls: int = 0


def judge(exchange: Exchange) -> Judged:
    """Hold an answer against its request."""
    path, asked = exchange.path.partition("?")[0], dict(exchange.request or {})
    if exchange.status != HTTPStatus.OK or path not in _READERS:
        return Judged()
    if path.startswith("/api/"):
        asked.pop("tool_choice", None)  # clients send it, and Ollama's API has no such field
    answers = list(_READERS[path](exchange.answer))
    found = [fault for answer in answers if not answer.cut for fault in faults(asked, answer)]
    calls = sum(len(answer.calls) for answer in answers)
    cut = any(answer.cut for answer in answers)
    return Judged(tuple(found if answers else ["no answer"]), cut, bool(asked.get("tools")), calls)


def faults(asked: dict[str, Any], answer: Answer) -> Iterator[str]:
    """Why an answer is not what a request asked for."""
    tools = {tool["name"]: tool.get("parameters") for tool in map(_function, asked.get("tools") or ())}
    for name, arguments in answer.calls:
        if name not in tools:
            yield f"a call of {name!r}, which is no tool of the request"
        else:
            yield from _fits(arguments, tools[name] or {}, f"arguments of {name}")
    schema = _schema(asked)
    if schema is not None and not answer.calls:
        yield from _fits(answer.text, schema, "text")
    choice = asked.get("tool_choice")
    if (choice == "required" or (isinstance(choice, dict) and "mode" not in choice)) and not answer.calls:
        yield f"no call, though tool_choice is {choice!r}"


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    found = tool.get("function", tool)
    assert isinstance(found, dict)
    return found


def _schema(asked: dict[str, Any]) -> Any:
    """The schema that text must fit; None where there is none."""
    given = asked.get("response_format") or (asked.get("text") or {}).get("format") or asked.get("format")
    if not isinstance(given, dict):
        return {} if given == "json" else None
    kind = given.get("type")
    if kind == "json_schema":
        return given.get("json_schema", given)["schema"]
    return {"text": None, "json_object": {"type": "object"}}.get(str(kind), given)


def _fits(text: str, schema: Any, what: str) -> Iterator[str]:
    try:
        value = json.loads(text)
    except ValueError:
        yield f"{what} is no JSON: {text[:200]!r}"
        return
    try:
        fastjsonschema.validate(schema, value)
    except fastjsonschema.JsonSchemaValueException as error:
        yield f"{what}: {error.message[:200]}"


def _events(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a body: one, one a line, or server-sent events."""
    if not text.startswith(("data:", "event:", ":")):
        yield from map(json.loads, filter(None, [text] if "\n" not in text.strip() else text.splitlines()))
        return
    for line in text.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _chat(text: str) -> Iterator[Answer]:
    found: dict[int, Answer] = {}
    for event in _events(text):
        for choice in event.get("choices", ()):
            answer = found.setdefault(choice.get("index", 0), Answer())
            part = choice.get("message") or choice.get("delta") or {}
            answer.text += part.get("content") or ""
            answer.cut |= choice.get("finish_reason") == "length"
            for position, call in enumerate(part.get("tool_calls") or ()):
                at, given = call.get("index", position), call["function"]
                if at == len(answer.calls):
                    answer.calls.append(("", ""))
                name, arguments = answer.calls[at]
                answer.calls[at] = (
                    name + (given.get("name") or ""),
                    arguments + (given.get("arguments") or ""),
                )
    yield from found.values()


def _responses(text: str) -> Iterator[Answer]:
    for event in _events(text):
        response = event.get("response", event)
        if response.get("status") not in {"completed", "incomplete"} or "output" not in response:
            continue
        answer = Answer(cut=response["status"] == "incomplete")
        for item in response["output"]:
            if item["type"] == "function_call":
                answer.calls.append((item["name"], item["arguments"]))
            answer.text += "".join(part.get("text", "") for part in item.get("content") or ())
        yield answer


def _ollama(text: str) -> Iterator[Answer]:
    answer = Answer()
    for event in _events(text):
        part = event.get("message", {})
        answer.text += part.get("content") or event.get("response") or ""
        answer.cut |= event.get("done_reason") == "length"
        for call in map(_function, part.get("tool_calls") or ()):
            answer.calls.append((call["name"], json.dumps(call["arguments"])))
    yield answer


_READERS = {
    "/v1/chat/completions": _chat,
    "/v1/responses": _responses,
    "/api/chat": _ollama,
    "/api/generate": _ollama,
}
