"""Fields of API requests: each is honoured, neutral, or refused by its name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_node.api import ollama
from edge_node.api.errors import ApiError
from edge_node.api.http.bodies import parse_object
from edge_node.api.openai.chat import OpenAIRequest
from edge_node.api.openai.requests import chat_request, completion_request
from edge_node.api.openai.responses import responses_request
from edge_node.api.parsers import from_body
from edge_node.api.response_store import ResponseStore
from edge_node.api.settings import ApiSettings
from edge_node.outbox.entries import Entry
from edge_node.text.spec import WHOLE_CONTEXT, IdempotencyKey, TextRequest, unpack
from flexspec_mq.grammar.grammar import GBNF, Grammar
from flexspec_mq.grammar.tools import ReadCall
from flexspec_mq.models.text import Turn
from schemas.messages import LEFT_OPEN, PartialSampling, Sampling

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


def chat(**more: Any) -> OpenAIRequest:
    return chat_request({**HELLO, **more})


def refused(parse: Any, body: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as raised:
        parse(body)
    assert raised.value.status == 400
    return raised.value


def test_the_defaults_are_those_of_openai() -> None:
    request = chat()
    asked = request.spec
    assert asked.sampling == LEFT_OPEN
    assert {asked.seed, asked.limit} == {None}
    assert asked.stops == ()
    assert (request.stream, request.spec.version) == (False, None)
    assert completion_request({"prompt": "x"}).spec.limit == 16


def test_everything_that_is_honoured_arrives() -> None:
    request = chat(
        model="m", temperature=0, top_p=0.5, top_k=7, min_p=0.1, seed=-1, stop="x", max_completion_tokens=9,
        stream=True, stream_options={"include_usage": True, "include_obfuscation": False}, ignore_eos=True, user="me",
    )  # fmt: skip
    assert request.spec.seed == 2**64 - 1
    asked = request.spec
    assert (asked.sampling, asked.stops, asked.limit) == (PartialSampling(0.0, 7, 0.5, 0.1), ("x",), 9)
    assert (request.spec.version, request.stream, request.include_usage) == ("m", True, True)
    assert request.spec.ignore_eos
    assert chat(max_tokens=5, max_completion_tokens=5).spec.limit == 5
    assert chat(stop=["a", "b", "c", "d"][:4]).spec.stops == ("a", "b", "c", "d")


def test_messages_become_turns() -> None:
    parts = [{"type": "text", "text": "wo"}, {"type": "text", "text": "rld"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "go on"},
    ]
    assert chat_request({"messages": messages}).spec.prompt == (
        Turn("system", "be brief"),
        Turn("user", "world"),
        Turn("assistant", "yes"),
        Turn("user", "go on"),
    )


def test_a_last_answer_goes_on() -> None:
    said = [*HELLO["messages"], {"role": "assistant", "content": "well"}]
    tools: dict[str, Any] = {"tools": [TOOL]}
    form: dict[str, Any] = {"response_format": {"type": "json_object"}}
    goes_on, begins = {"continue_final_message": True}, {"add_generation_prompt": True}

    def last(**asked: Any) -> bool:
        prompt = chat_request({"messages": said, **asked}).spec.prompt
        assert prompt[:-1] == (Turn("user", "hello"),)
        return prompt == (Turn("user", "hello"), Turn("assistant", "well", continued=True))

    open_ended = {"add_generation_prompt": False}
    for asked in ({}, goes_on, open_ended, goes_on | open_ended, goes_on | tools | {"tool_choice": "none"}):
        assert last(**asked)
    for other in (begins, {"continue_final_message": False}, tools, form):
        assert not last(**other)
    for wrong in (begins, tools, form, {"messages": HELLO["messages"]}, {"messages": [*said[:1], CALLS]}):
        assert refused(chat_request, {"messages": said, **goes_on, **wrong}).param == "continue_final_message"
    for format_, same in (("", True), ("json", False)):
        prompt = ollama.chat_request({"model": "m", "messages": said, "format": format_}).spec.prompt
        assert prompt[1:] == (Turn("assistant", "well", continued=same),)
    assert refused(chat_request, {**HELLO, **open_ended}).param == "add_generation_prompt"


@pytest.mark.parametrize(
    ("prompt", "read"), [("ab", "ab"), (["ab"], "ab"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2)), ("", "")]
)
def test_prompts_of_completions(prompt: Any, read: Any) -> None:
    assert completion_request({"prompt": prompt}).spec.prompt == read


NEUTRAL = {
    "logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0, "n": 1, "tools": [], "tool_choice": "none",
    "guided_decoding_backend": "auto", "cache_prompt": True, "id_slot": -1, "keep_alive": "5m", "repeat_penalty": 1.0,
    "parallel_tool_calls": True, "functions": [], "function_call": "auto", "response_format": {"type": "text"},
    "logprobs": False, "top_logprobs": 0, "modalities": ["text"], "audio": None, "prediction": None,
    "web_search_options": None, "service_tier": "auto", "reasoning_effort": None, "metadata": {"a": "b"},
    "store": True,
}  # fmt: skip


HARMLESS: dict[str, Any] = {
    "repetition_penalty": 1.0, "length_penalty": 1, "min_tokens": 0, "use_beam_search": False,
    "early_stopping": False, "skip_special_tokens": True, "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False, "n": 1.0,
}  # fmt: skip
"""Fields that clients of other servers always send, with values that change nothing."""


def test_values_that_ask_for_nothing_are_fine() -> None:
    own = {"add_generation_prompt": True, "continue_final_message": False, "add_special_tokens": False}
    words = {"reasoning_effort": "high", "verbosity": "low"}
    for asked in (NEUTRAL, dict.fromkeys(NEUTRAL), {**HARMLESS, **words, **own}):
        assert chat(**asked) == chat()
    neutral = {"best_of": 1, "echo": False, "suffix": "", "logprobs": None, "n": 1, "logit_bias": None}
    for asked in (neutral, {**HARMLESS, "best_of": 1, "echo": False, "add_special_tokens": True}):
        assert completion_request({"prompt": "x", **asked}) == completion_request({"prompt": "x"})


def test_requests_of_known_clients() -> None:
    """Requests as AutoGen, lm-eval and vLLM's benchmark client send them."""
    named = {"role": "user", "content": "hello", "name": "planner"}  # AutoGen
    typed = {"role": "user", "content": "hello", "type": "text"}  # lm-eval
    for message in (named, typed):
        assert chat_request({"messages": [message]}) == chat()
    lm_eval = {
        "prompt": ["x"],
        "model": "m",
        "max_tokens": 256,
        "temperature": 0,
        "stop": ["Q:"],
        "seed": 1234,
    }
    assert completion_request(lm_eval).spec.stops == ("Q:",)
    vllm = {
        "model": "m", "prompt": "x", "repetition_penalty": 1.0, "max_tokens": 128, "logprobs": None,
        "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True,
    }  # fmt: skip
    assert (completion_request(vllm).spec.limit, completion_request(vllm).include_usage) == (128, True)
    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    assert chat(stream=True, **options).include_usage


@pytest.mark.parametrize("limit", [-1, -1.0])
def test_a_limit_of_minus_one_is_what_the_context_leaves(limit: float) -> None:
    assert chat(max_tokens=limit).spec.limit == WHOLE_CONTEXT
    assert chat(max_completion_tokens=limit).spec.limit == WHOLE_CONTEXT
    assert completion_request({"prompt": "x", "max_tokens": limit}).spec.limit == WHOLE_CONTEXT


def test_penalties_and_a_bias_are_read() -> None:
    asked = chat(
        logit_bias={"40": -100, "7": 1.5}, frequency_penalty=0.5, presence_penalty=-1, repetition_penalty=1.1
    )
    sampling = asked.spec.sampled(3, Sampling(0.7))
    assert sampling == Sampling(0.7, 0, 1.0, 3, 0.0, 1.1, 0.5, -1.0, ((7, 1.5), (40, -100.0)))
    wrong: dict[str, Any] = {
        "logit_bias": {"x": 1}, "frequency_penalty": 2.1, "presence_penalty": -3, "repetition_penalty": 0,
    }  # fmt: skip
    for field, value in wrong.items():
        assert (refused(chat_request, {**HELLO, field: value}).param or "").startswith(field)


def test_a_prediction_is_read() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    for content in ("a b", parts):
        assert chat(prediction={"type": "content", "content": content}).spec.prediction == "a b"


def test_lenient_ignores_what_is_unknown_or_unsupported_but_not_what_is_wrong() -> None:
    odd = {"tempreature": 1, "bad_words": ["x"], "logprobs": True, "guided_what": "x"}
    message = {"role": "user", "content": "hello", "colour": "red", "function_call": {}, "audio": {"id": "x"}}
    asked = {"messages": [message], **odd, "stream_options": {"what": 1}}
    took = chat_request(asked, lenient=True)
    assert replace(took, ignored=()) == chat()
    assert {*took.ignored} == {*odd, "stream_options.what", "messages[0].audio", "messages[0].colour"}
    assert len(replace(took, ignored=("x" * 600,) * 2).ignored_names) == 1000  # of a header
    assert refused(chat_request, asked).param is not None

    def leniently(body: dict[str, Any]) -> OpenAIRequest:
        return chat_request(body, lenient=True)

    assert refused(leniently, {**HELLO, "temperature": 9}).param == "temperature"
    audio = {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}
    error = refused(leniently, {"messages": [audio]})
    assert (error.param, "as text" in error.words) == ("messages[0].content[0].type", True)


def test_errors_do_not_repeat_a_whole_value() -> None:
    long = "x" * 10**6
    for wrong in ({"role": long}, {"content": {"a": long}}, {"role": "tool", "tool_call_id": long}):
        message = {"role": "user", "content": "x", **wrong}
        assert len(refused(chat_request, {"messages": [message]}).message) < 300


MADE: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": ""}}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "now"}}
OTHER: dict[str, Any] = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}


PIXEL = "data:image/png;base64,iVBORw0KGgo="
TOOLS = {"tools": [TOOL, OTHER]}
CALLS = {"role": "assistant", "tool_calls": [MADE]}
CHAT: list[tuple[dict[str, Any], str]] = [
    *(({field: value}, field) for field, value in (
        ("temperature", -0.1), ("temperature", 2.5), ("temperature", "1"), ("temperature", True), ("top_p", 0),
        ("top_p", 1.1), ("seed", 2**64), ("seed", 1.5), ("seed", "1"), ("max_tokens", 0), ("max_tokens", True),
        ("max_tokens", -2), ("stop", ["a"] * 1025), ("stop", [1]), ("stop", 5), ("stop", "x" * 1025), ("n", 0),
        ("n", 129), ("n", True), ("stream", 1), ("model", 5), ("stream_options", {"include_usage": True}),
        ("stream_options", []), ("top_k", -1), ("min_p", 1.5), ("messages", []), ("messages", None),
        ("messages", "hello"), ("ignore_eos", "yes"),
    )),
    *(({field: value}, field) for field in ("max_tokens", "seed", "top_k", "n", "temperature")
      for value in (10**400, -(10**400), 1e300, {"a": [10**400]})),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
    ({"stream": True, "stream_options": {"what": 1}}, "stream_options.what"),
    ({"prediction": {"type": "content"}}, "prediction.content"),
    ({"prediction": {"type": "other", "content": "x"}}, "prediction.type"),
    *(({"messages": [message]}, f"messages[0]{param}") for message, param in (
        ({"role": "tool", "content": "x"}, ".tool_call_id"), ({"role": "function", "content": "x"}, ".role"),
        ({"content": "x"}, ".role"), ({"role": "user"}, ".content"), ({"role": "user", "content": 5}, ".content"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, ".content[0].type"),
        ({"role": "user", "content": [{"type": "image_url"}]}, ".content[0].image_url"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]},
         ".content[0].image_url.url"),
        ({"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}, ".content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, ".content[0].text"),
        ({"role": "user", "content": ["x"]}, ".content[0]"), ({"role": "user", "content": "x", "name": 5}, ".name"),
        ({"role": "user", "content": "x", "colour": "red"}, ".colour"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, ".tool_calls[0].id"),
        ({**CALLS, "role": "user", "content": "x"}, ".tool_calls"), ("hello", ""),
        *(({**CALLS, "tool_calls": [{**MADE, "function": {"name": "now", "arguments": wrong}}]},
           ".tool_calls[0].function.arguments") for wrong in ("[1]", '{"a": "\\ud800"}')),
    )),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]"),
    ({"tools": [TOOL, TOOL]}, "tools"), ({"tool_choice": "required"}, "tool_choice"),
    ({**TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
    ({**TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({**TOOLS, "tool_choice": "any"}, "tool_choice"), ({**TOOLS, "ignore_eos": True}, "ignore_eos"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "xml"}}, "response_format.type"), ({"guided_json": "{"}, "guided_json"),
    ({"guided_json": "[]"}, "guided_json"), ({"guided_choice": []}, "guided_choice"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
    ({"structured_outputs": {"what": "x"}}, "structured_outputs.what"),
]  # fmt: skip
"""Fields of chats that are wrong, and the name of what is."""
PROMPTS: tuple[Any, ...] = (None, [], [[]], ["a", "b"], [[1], [2]], [1, "a"], [-1], [True], [1.5], {}, 3)
COMPLETIONS: list[tuple[dict[str, Any], str]] = [
    *(({"prompt": prompt}, "prompt") for prompt in PROMPTS), ({"prompt": "x", "n": 2, "best_of": 3}, "best_of"),
]  # fmt: skip
NOT_HONOURED: dict[str, list[tuple[str, Any]]] = {
    "chat": [
        ("repeat_penalty", 1.1), ("functions", [{}]),
        ("function_call", {"name": "x"}), ("logprobs", True), ("min_keep", 2), ("top_logprobs", 2),
        ("modalities", ["text", "audio"]), ("audio", {"voice": "x"}), ("service_tier", "flex"),
        ("web_search_options", {}), ("length_penalty", 0.9), ("min_tokens", 5),
        ("use_beam_search", True), ("skip_special_tokens", False), ("include_stop_str_in_output", True),
    ],
    "completion": [("best_of", 2), ("echo", True), ("suffix", "x"), ("logprobs", 0)],
    "unknown": [("tempreature", 1), ("best_of", 1)],
}  # fmt: skip


def test_what_is_wrong_or_not_honoured_is_refused_by_its_name() -> None:
    for parse, base, table in ((chat_request, HELLO, CHAT), (completion_request, {}, COMPLETIONS)):
        for more, param in table:
            assert refused(parse, {**base, **more}).param == param, more
    for kind, fields in NOT_HONOURED.items():
        parse, base = (completion_request, {"prompt": "x"}) if kind == "completion" else (chat_request, HELLO)
        for field, value in fields:
            error = refused(parse, {**base, field: value})
            code = "unknown_parameter" if kind == "unknown" else "unsupported_parameter"
            assert (error.param, error.code, field in error.message) == (field, code, True)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'"x"', b"\xff{}", b'{"temperature": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000,
        b'{"a": ' + b"[" * 128 + b"]" * 128 + b"}", b'{"a":' * 990 + b"1" + b"}" * 990,
        b'{"seed": ' + b"9" * 5000 + b"}", b'{"a": Infinity}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_json_object(body: bytes) -> None:
    assert refused(parse_object, body).code == "invalid_json"  # type: ignore[arg-type]


def test_a_body_may_be_nested() -> None:
    assert parse_object(b'{"a": ' + b"[" * 127 + b"]" * 127 + b"}").keys() == {"a"}


def test_tools_and_their_choice_are_read() -> None:
    named = {"type": "function", "function": {"name": "now"}}
    allowed = {"mode": "auto", "tools": [named]}
    asked: Any
    for choice, only, required, parallel in (
        (None, None, False, True),
        ("auto", None, False, True),
        ("required", None, True, False),
        (named, {"now"}, True, False),
        ({"type": "allowed_tools", "allowed_tools": allowed}, {"now"}, False, True),
    ):
        asked = chat(**TOOLS, tool_choice=choice).spec.tools
        assert (asked.only, asked.required, asked.parallel) == (only, required, parallel)
        assert [tool.name for tool in asked.tools] == ["now", "other"]
    asked = chat(**TOOLS, parallel_tool_calls=False).spec.tools
    assert not asked.parallel
    asked = chat(**TOOLS, parallel_tool_calls=True, tool_choice="required").spec.tools
    assert asked.parallel
    assert chat(**TOOLS, tool_choice="none") == chat()


def test_results_of_tools_stand_in_the_order_of_their_calls() -> None:
    calls = [MADE, {**MADE, "id": "c2", "function": {"name": "other", "arguments": '{"a": 1}'}}]
    history = [
        *HELLO["messages"],
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "one"}]},
    ]
    made = (ReadCall("now", "{}", "c1"), ReadCall("other", '{"a": 1}', "c2"))
    assert chat_request({"messages": history}).spec.prompt == (
        Turn("user", "hello"),
        Turn("assistant", "", made),
        Turn("tool", "one", tool="now", answers="c1"),
        Turn("tool", "two", tool="other", answers="c2"),
    )
    for wrong in ({"tool_call_id": "c3"}, {}, {"tool_call_id": "c2"}):
        again = {"messages": [*history, {"role": "tool", "content": "x", **wrong}]}
        assert refused(chat_request, again).param == "messages[4].tool_call_id"


@given(st.text(), st.integers(min_value=0))
def test_a_call_that_was_cut_may_be_sent_back(word: str, cut: int) -> None:
    whole = json.dumps({"word": word})
    arguments = whole[: 1 + cut % (len(whole) - 1)]
    made = {**MADE, "function": {"name": "now", "arguments": arguments}}
    called = {"role": "assistant", "content": "", "tool_calls": [made]}
    asked = chat_request({"messages": [*HELLO["messages"], called]})
    item = {"type": "function_call", "call_id": "c1", "name": "now", "arguments": arguments}
    prompt = responses_request({"input": [item]}, store=ResponseStore(ApiSettings()), client=b"").spec.prompt
    turn = Turn("assistant", "", (ReadCall("now", arguments, "c1"),))
    assert (asked.spec.prompt[-1], prompt[-1]) == (turn, turn)


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, SCHEMA),
        ({"response_format": {"type": "json_object"}}, {"type": "object"}),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, SCHEMA),
        ({"response_format": {"type": "text"}}, None),
        ({"guided_json": SCHEMA}, SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, SCHEMA),
        ({"json_schema": SCHEMA}, SCHEMA),
        ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, SCHEMA),
        ({"structured_outputs": {"json_object": True}}, {"type": "object"}),
        ({"structured_outputs": {"regex": "a+"}}, Grammar.from_regex("a+")),
        ({"guided_regex": "a+"}, Grammar.from_regex("a+")),
        ({"guided_choice": ["a", "b"]}, Grammar.from_choice(["a", "b"])),
        ({"guided_grammar": "start: /x/"}, Grammar.from_lark("start: /x/")),
        ({"grammar": 'root ::= "x"'}, Grammar.from_parts([{GBNF: 'root ::= "x"'}])),
    ],
)  # fmt: skip
def test_the_form_of_an_answer_is_read_from_whichever_field_says_it(
    fields: dict[str, Any], form: Any
) -> None:
    expected = Grammar.from_json_schema(form) if isinstance(form, dict) else form
    assert chat(**fields).spec.grammar == expected
    assert completion_request({"prompt": "x", **fields}).spec.grammar == expected
    if form is not None:
        assert refused(chat_request, {**HELLO, **fields, "ignore_eos": True}).param == "ignore_eos"
        both = refused(chat_request, {**HELLO, "guided_regex": "x", **fields, "guided_choice": ["x"]})
        assert "both say" in both.message


def test_several_answers() -> None:
    assert chat(n=3).choices == completion_request({"prompt": "x", "n": 3, "best_of": 3}).choices == 3


@pytest.mark.parametrize("seed", [None, 7, 2**64 - 1])
def test_each_text_of_a_request_of_version_0_2_0_keeps_its_seed(seed: int | None) -> None:
    body = json.dumps({"prompt": "x", "n": 3, "seed": seed}).encode()
    first = IdempotencyKey("k", b"d").seed if seed is None else seed
    for choice, key in enumerate(["k", "k\x001", "k\x002"]):
        entry = Entry(
            id="a", key=key, digest=b"d", path="/v1/completions", body=body, choice=choice, accepted=1.0
        )
        spec = unpack(from_body(ResponseStore(ApiSettings()), entry), TextRequest).spec
        assert spec.seed == (first + choice) % 2**64
