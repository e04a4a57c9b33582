import json
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from lab.frameworks import __main__ as frameworks
from lab.frameworks.recording import Exchange, recorder
from lab.frameworks.validity import judge
from tests.edge_node.api.served import served

LAMP = {"type": "object", "properties": {"room": {"enum": ["hall"]}}, "required": ["room"]}
TOOLS = [{"type": "function", "function": {"name": "lamp", "parameters": LAMP}}]
FLAT = [{"type": "function", "name": "lamp", "parameters": LAMP}]
CHAT, RESPONSES, OLLAMA = "/v1/chat/completions", "/v1/responses", "/api/chat"
FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": LAMP}}}
RIGHT, WRONG = '{"room": "hall"}', '{"room": "bath"}'


def chat(finish: str = "stop", **message: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}]})


def chat_stream(*pieces: str) -> str:
    first: dict[str, Any] = {"index": 0, "id": "c", "function": {"name": "lamp", "arguments": ""}}
    deltas = [first, *({"index": 0, "function": {"arguments": piece}} for piece in pieces)]
    events = [{"choices": [{"index": 0, "delta": {"tool_calls": [delta]}}]} for delta in deltas]
    return ": waits\n\n" + "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def response(arguments: str, status: str = "completed") -> str:
    call = {"type": "function_call", "name": "lamp", "arguments": arguments}
    event = {"type": "response.completed", "response": {"status": status, "output": [call]}}
    return f"event: response.completed\ndata: {json.dumps(event)}\n\n"


def ollama(room: str, done: str = "stop") -> str:
    call = {"function": {"name": "lamp", "arguments": {"room": room}}}
    lines = [
        {"message": {"content": "", "tool_calls": [call]}},
        {"message": {"content": ""}, "done_reason": done},
    ]
    return "\n".join(map(json.dumps, lines))


def called(arguments: str, name: str = "lamp") -> dict[str, Any]:
    return {"content": None, "tool_calls": [{"id": "c", "function": {"name": name, "arguments": arguments}}]}


@pytest.mark.parametrize(
    ("path", "asked", "answer", "faults"),
    [
        (CHAT, {"tools": TOOLS}, chat(**called(RIGHT)), 0),
        (CHAT, {"tools": TOOLS}, chat(**called(WRONG)), 1),
        (CHAT, {"tools": TOOLS}, chat(**called('{"room": ')), 1),
        (CHAT, {"tools": TOOLS}, chat("length", **called('{"room": ')), 0),
        (CHAT, {"tools": TOOLS}, chat(**called(RIGHT, "door")), 1),
        (CHAT, {"tools": TOOLS, "tool_choice": "required"}, chat(content="Hello."), 1),
        (CHAT, {"tools": TOOLS}, chat_stream(RIGHT[:4], RIGHT[4:]), 0),
        (CHAT, {"tools": TOOLS}, chat_stream(WRONG[:4], WRONG[4:]), 1),
        (CHAT, FORMAT, chat(content=RIGHT), 0),
        (CHAT, FORMAT, chat(content="The hall."), 1),
        (CHAT, {}, "data: [DONE]\n\n", 1),
        (RESPONSES, {"tools": FLAT}, response(RIGHT), 0),
        (RESPONSES, {"tools": FLAT}, response(WRONG), 1),
        (RESPONSES, {"tools": FLAT}, response(WRONG, "incomplete"), 0),
        (OLLAMA, {"tools": TOOLS}, ollama("hall"), 0),
        (OLLAMA, {"tools": TOOLS}, ollama("bath"), 1),
        (OLLAMA, {"tools": TOOLS}, ollama("bath", "length"), 0),
        (
            OLLAMA,
            {"tools": TOOLS, "tool_choice": "required"},
            json.dumps({"message": {"content": "Hello."}}),
            0,
        ),
        (OLLAMA, {"format": LAMP}, json.dumps({"message": {"content": WRONG}, "done_reason": "stop"}), 1),
    ],
)
def test_an_answer_is_held_against_what_its_request_asked_for(
    path: str, asked: dict[str, Any], answer: str, faults: int
) -> None:
    assert len(judge(Exchange(path, asked, 200, answer)).faults) == faults


async def test_the_example_of_openais_client_is_run_and_what_it_asks_recorded(
    mosquitto: PrivateBroker,
) -> None:
    """By a target that knows no tools; what only calls can show is judged above."""
    example = Path(frameworks.__file__).parent / "examples/python/use_openai.py"
    async with served(mosquitto) as api, recorder(api.url) as (recorded, url):
        env = {"URL": url, "KEY": "none", "MODEL": api.version}
        came = await frameworks.run_example("openai", [sys.executable, str(example)], env, recorded)
    assert came["chat"] == came["stream"] == came["chat_responses"] == frameworks.OK, came
    assert {exchange.path for exchange in recorded.exchanges} == {CHAT, RESPONSES}
