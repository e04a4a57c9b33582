"""``/v1/responses``: its items, events and kept responses, as OpenAI's own types and client read them."""

import itertools
from typing import Any

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from broker.launcher import PrivateBroker
from edge_node.api.errors import ApiError
from edge_node.api.openai.responses import Output, responses_request
from edge_node.api.response_store import ResponseStore
from edge_node.api.settings import ApiSettings
from flexspec_mq.grammar.tools import HERMES, CallParser, Tool, ToolUse
from flexspec_mq.models.text import Turn
from schemas.messages import PartialSampling
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import expected, said, served, shown, tokenizer

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOLS = ToolUse(tools=(Tool("f"), Tool("turn_on", parameters={"type": "object"})))
TEXT = (
    'Yes: {"a"}.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
    '<tool_call>\n{"name": "turn_on", "arguments": {"room": "\\"}\\u00e9 {", "at": [{}, 3]}}\n</tool_call>'
)
BEGUN = {
    "id": "resp_t0", "created_at": 0, "model": "m", "object": "response", "output": [], "tools": [],
    "parallel_tool_calls": True, "tool_choice": "auto",
}  # fmt: skip
FUNCTION = {
    "type": "function",
    "name": "f",
    "parameters": {"type": "object", "properties": {}},
    "strict": True,
}


def told(pieces: list[str]) -> tuple[Output, list[Any]]:
    """Items and events of a text that is over."""
    output, parser = Output("t0"), CallParser(HERMES, TOOLS)
    read = [event for piece in pieces for event in parser.push(piece)] + parser.finish()
    made = [event for each in read for event in output.take(each)]
    return output, [*made, *output.finish("incomplete")]


@given(st.lists(st.integers(0, len(TEXT)), max_size=20), st.integers(0, len(TEXT)))
def test_events_tell_the_items_however_the_text_comes(cuts: list[int], length: int) -> None:
    at = sorted({0, length, *(min(cut, length) for cut in cuts)})
    output, made = told([TEXT[a:b] for a, b in itertools.pairwise(at)])
    assert output.items == told([TEXT[:length]])[0].items
    client = ResponseStreamState(input_tools=omit, text_format=omit)  # refuses what is out of order
    client.handle_event(
        EVENT.validate_python({"type": "response.created", "sequence_number": 0, "response": BEGUN})
    )
    done = []
    for number, event in enumerate(made):
        read = EVENT.validate_json(msgspec.json.encode(event), strict=True)
        client.handle_event(read)
        assert (read.type, read.sequence_number) == (event.type, number)
        if read.type == "response.output_item.done":
            done.append(read.item.to_dict())
    assert done == msgspec.json.decode(msgspec.json.encode(output.items))
    if length == len(TEXT):
        message, first, second = done
        assert (message["content"][0]["text"], message["status"]) == ('Yes: {"a"}.', "completed")
        assert (first["name"], first["arguments"], first["status"]) == ("f", "{}", "completed")
        assert msgspec.json.decode(second["arguments"]) == {"room": '"}é {', "at": [{}, 3]}


ITEMS: list[dict[str, Any]] = [
    {"role": "developer", "content": "be brief"},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}], "status": None},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
    {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [
        {"type": "output_text", "text": "b", "annotations": [], "logprobs": []}]},
    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"x": 1}', "namespace": None},
    {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}", "status": "completed"},
    {"type": "function_call_output", "call_id": "c2", "output": "two"},
    {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "one"}]},
    {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c3", "output": "three"},
]  # fmt: skip


def asked(**more: Any) -> Any:
    return responses_request({"input": "a", **more}, store=ResponseStore(ApiSettings()), client=b"")


def test_items_become_turns() -> None:
    turns = asked(input=ITEMS, instructions="first").spec.prompt
    assert [(turn.role, turn.content, [call.name for call in turn.calls], turn.tool) for turn in turns] == [
        ("system", "first", [], ""),
        ("system", "be brief", [], ""),
        ("user", "a", [], ""),
        ("assistant", "b", ["f", "g"], ""),
        ("tool", "one", [], "f"),
        ("tool", "two", [], "g"),
        ("assistant", "", ["f"], ""),
        ("tool", "three", [], "f"),
    ]
    assert asked().spec.prompt == (Turn("user", "a"),)
    assert asked(temperature=1, min_p=0.1).spec.sampling == PartialSampling(1.0, min_p=0.1)


@pytest.mark.parametrize(
    ("param", "more"),
    [
        ("background", {"background": True}), ("conversation", {"conversation": "conv_1"}),
        ("include", {"include": ["message.output_text.logprobs"]}), ("input", {"input": []}),
        ("input[0].content[0].type", {"input": [{"role": "user", "content": [{"type": "input_file", "text": ""}]}]}),
        ("input[0].content[0].image_url", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]}),
        ("input[0].type", {"input": [{"type": "search" * 999, "id": "ws_1"}]}),
        ("input[0].call_id", {"input": [{"type": "function_call_output", "call_id": "c" * 9000, "output": ""}]}),
        ("input[0].arguments", {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "[]"}]}),
        ("input[0].id", {"input": [{"id": "msg_0_0"}]}),
        ("input[0].what", {"input": [{"role": "user", "content": "x", "what": 1}]}),
        ("max_output_tokens", {"max_output_tokens": 0}), ("min_p", {"min_p": -0.1}),
        ("metadata", {"metadata": {"a": 1}}), ("previous_response_id", {"previous_response_id": "resp_0" * 999}),
        ("tools[1].type", {"tools": [FUNCTION, {"type": "search" * 999}]}),
        ("tools", {"tools": [FUNCTION, FUNCTION]}), ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}),
        ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "x"}}}),
        ("top_logprobs", {"top_logprobs": 2}), ("what", {"what": 1}),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_its_name(param: str, more: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as raised:
        asked(**more)
    assert (raised.value.status, raised.value.param) == (400, param)
    assert len(raised.value.message) < 300


def test_a_lenient_node_says_what_it_leaves_out() -> None:
    body = {
        "input": [{"type": "web_search_call", "id": "ws_1"}, {"role": "user", "content": "a", "what": 1}],
        "tools": [{"type": "web_search"}, FUNCTION], "background": True,
    }  # fmt: skip
    request = responses_request(body, True, store=ResponseStore(ApiSettings()), client=b"")
    assert request.spec.prompt == (Turn("user", "a"),)
    assert [tool.name for tool in request.tools] == ["f"]
    assert set(request.ignored) == {"background", "input[0]", "input[1].what", "tools[0]"}


def test_tool_choices() -> None:
    tools = [FUNCTION, {**FUNCTION, "name": "g"}]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    for choice, only, required in (
        ("auto", None, False), ("required", None, True), ({"type": "function", "name": "f"}, {"f"}, True),
        (allowed, {"g"}, True), ({**allowed, "mode": "auto"}, {"g"}, False),
    ):  # fmt: skip
        for parallel in (False, True):
            use = asked(tools=tools, tool_choice=choice, parallel_tool_calls=parallel).spec.tools
            assert (use.only, use.required) == (only, required)
            assert use.parallel == (parallel and only != {"f"}), "a tool that is named is called once"
    assert asked(tools=tools).spec.tools.parallel
    assert asked(tools=[]).spec.tools is None


def text_of(prompt: str, seed: int, limit: int) -> tuple[str, int, bool]:
    """Text of the target alone behind a rendered prompt, its tokens, and whether it is cut."""
    tokens, end = expected(tokenizer().encode(prompt), seed, limit)
    return shown(tokens), len(tokens), end == "length"


async def test_a_response_whole_and_as_a_stream(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        for seed, limit in ((1, 40), (2, 400), (3, 400), (4, 1)):
            text, count, cut = text_of("system.be brief,user.hello,assistant.", seed, limit)
            body: dict[str, Any] = {
                "input": "hello", "instructions": "be brief", "seed": seed, "max_output_tokens": limit,
                "metadata": {"a": "b"}, "reasoning": {"effort": "low"}, "text": {"verbosity": "low"},
                "include": ["reasoning.encrypted_content"], "truncation": "auto", "max_tool_calls": 3,
            }  # fmt: skip
            answer = Response.model_validate_json(
                (await api.post("/v1/responses", body)).content, strict=True
            )
            assert answer.output_text == text
            assert answer.status == answer.output[0].status == ("incomplete" if cut else "completed")
            assert (answer.incomplete_details is not None) == cut
            assert (answer.model, answer.metadata, answer.instructions) == (
                api.version,
                {"a": "b"},
                "be brief",
            )
            assert answer.usage is not None
            assert (answer.usage.output_tokens, answer.usage.input_tokens) == (
                count, len(tokenizer().encode("system.be brief,user.hello,assistant.")),
            )  # fmt: skip
            raw = (await api.post("/v1/responses", {**body, "stream": True})).text
            read = [EVENT.validate_python(event, strict=True) for event in events_of(raw)]
            assert [event.sequence_number for event in read] == [*range(len(read))]
            assert [event.type for event in read if event.type != "response.output_text.delta"] == [
                "response.created", "response.in_progress", "response.output_item.added",
                "response.content_part.added", "response.output_text.done", "response.content_part.done",
                "response.output_item.done", "response.incomplete" if cut else "response.completed",
            ]  # fmt: skip
            assert "".join(e.delta for e in read if e.type == "response.output_text.delta") == text
            last = read[-1].response
            assert last.output_text == text
            plain = {"id", "created_at", "completed_at", "output", "usage"}
            assert last.model_dump(exclude=plain) == answer.model_dump(exclude=plain)
            async with api.client.responses.stream(
                model=api.version, input="hello", instructions="be brief", max_output_tokens=limit,
                extra_body={"seed": seed},
            ) as stream:  # fmt: skip
                types = [event.type async for event in stream]
                assert types[-1] == read[-1].type
                if not cut:
                    assert (await stream.get_final_response()).output_text == text


def events_of(raw: str) -> list[dict[str, Any]]:
    """The events of a stream, of which each has its type as its name."""
    made = []
    for event in raw.removesuffix("\n\n").split("\n\n"):
        if not event.startswith(":"):
            name, _, data = event.partition("\ndata: ")
            made.append(msgspec.json.decode(data))
            assert name == f"event: {made[-1]['type']}"
    return made


async def test_later_responses_go_on_from_kept_ones(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        create = api.client.responses.create
        more: dict[str, Any] = {"model": api.version, "max_output_tokens": 8, "extra_body": {"seed": 5}}
        first = await create(input="one", instructions="be brief", **more)
        second = await create(input="two", previous_response_id=first.id, **more)
        said_before = f"user.one,assistant.{first.output_text},user.two,assistant."
        assert second.output_text == text_of(said_before, 5, 8)[0], "instructions are not kept"
        sent = [{"role": "user", "content": "one"}, *first.output, {"role": "user", "content": "two"}]
        assert (await create(input=sent, **more)).output_text == second.output_text
        refers = [sent[0], {"type": "item_reference", "id": first.output[0].id}, sent[-1]]
        assert (await create(input=refers, **more)).output_text == second.output_text
        third = await create(input="three", previous_response_id=second.id, store=False, **more)
        assert (
            third.output_text == text_of(f"{said_before}{second.output_text},user.three,assistant.", 5, 8)[0]
        )
        assert await api.client.responses.retrieve(second.id) == second
        said(await api.get(f"/v1/responses/{second.id}?stream=true"), 400, "invalid_value")
        with pytest.raises(openai.NotFoundError):
            await api.client.responses.retrieve(third.id)
        other = api.client.with_options(api_key="another")
        with pytest.raises(openai.NotFoundError):
            await other.responses.retrieve(second.id)
        with pytest.raises(openai.NotFoundError):
            await other.responses.delete(second.id)
        with pytest.raises(openai.BadRequestError) as raised:
            await other.responses.create(input="x", previous_response_id=second.id, **more)
        assert (raised.value.code, raised.value.param) == (
            "previous_response_not_found",
            "previous_response_id",
        )
        await api.client.responses.delete(second.id)
        with pytest.raises(openai.NotFoundError):
            await api.client.responses.delete(second.id)
        assert (
            await create(input="two", previous_response_id=first.id, **more)
        ).output_text == second.output_text
        assert await api.answers(200, "/v1/responses") == 8
        assert await api.answers(404, "/v1/responses") == 4


@pytest.mark.parametrize(
    "bound", [{"keep_responses": 2}, {"keep_response_bytes": 4000}, {"keep_responses_for": 0}]
)
async def test_what_is_kept_is_bounded(mosquitto: PrivateBroker, bound: dict[str, Any]) -> None:
    async with served(mosquitto, **bound) as api:
        ids = [
            (await api.post("/v1/responses", {"input": "x" * 20, "max_output_tokens": 8})).json()["id"]
            for _ in range(4)
        ]
        there = [(await api.get(f"/v1/responses/{name}")).status_code == 200 for name in ids]
        assert there == [False, False, *[bound.get("keep_responses_for") is None] * 2]


async def test_failures(mosquitto: PrivateBroker) -> None:
    def stop_in_mid_text(_items: Any) -> None:
        if len(engine.batches) == 5:
            engine.gate.clear()

    engine = FakeEngine(stop_in_mid_text)
    async with served(mosquitto, engine=engine, api_timeout=2.0, max_context=100) as api:
        said(await api.post("/v1/responses", {"input": "x" * 150}), 400, "context_length_exceeded")
        raw = (await api.post("/v1/responses", {"input": "x", "stream": True, "ignore_eos": True})).text
        read = [EVENT.validate_python(event, strict=True) for event in events_of(raw)]
        failed = read[-1]
        assert failed.type == "response.failed"
        assert (failed.response.status, failed.response.error.type) == ("failed", "deadline")
        assert failed.sequence_number == len(read) - 1
        said(await api.get(f"/v1/responses/{failed.response.id}"), 404, "not_found")
        engine.gate.set()
        await until(lambda: api.daemons[0].kept == 0)
