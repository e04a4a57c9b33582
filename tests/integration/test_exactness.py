"""The default model and draft behind a real broker: the target's own text, with tools and grammars as well."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import msgspec
import ollama
import pytest
import pytest_asyncio
import torch
from openai import AsyncOpenAI, BadRequestError, pydantic_function_tool
from pydantic import BaseModel

from broker.launcher import PrivateBroker
from edge_node.api.openai.requests import chat_request
from edge_node.api.server import serve_node
from edge_node.api.settings import ApiSettings
from edge_node.generation import Generation, GenerationRequest
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.daemon.tasks import running
from flexspec_mq.drafting.load import DraftModel
from flexspec_mq.drafting.load import load as load_draft
from flexspec_mq.errors import GrammarError, WorkerError
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.grammar.tools import HERMES, CallParser, Content, ToolUse
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.text import Turn, decode, encode_turns
from flexspec_mq.protocol.edge.patience import Waits
from flexspec_mq.protocol.effects import Finish
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.mqtt import mqtt_link
from lab.benchmarks.exact.reference import Reference, Text
from lab.benchmarks.exact.sampling import Params
from lab.testbed.process import Process
from schemas.messages import Open, Sampling
from tests.integration.processes import CODEC, PATIENCE, edge_of, events_of, start_worker, status
from tests.transport.reading import linked

pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
    # Its new name is not known to all versions of transformers that we support.
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
]

SKY = "Why is the sky blue? Answer in two sentences."
SEA = "List three facts about the sea."
GREEDY = Sampling()
WARM = Sampling(0.8, 0, 1.0, 20_240_229)
PLAIN = Plan(draft_length=4, in_flight=1, qos=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(module_mosquitto: PrivateBroker) -> AsyncIterator[PrivateBroker]:
    """A broker with a worker that has the default model and its draft."""
    drafts = ("--draft", "default", "--draft-rows", "all")
    worker = await start_worker(module_mosquitto, "w1", *drafts)
    told = await status(module_mosquitto, "w1", lambda found: found.state == "online")
    assert told.draft
    assert told.grammar == engine_name() != ""
    yield module_mosquitto
    await worker.kill()


@cache
def draft() -> DraftModel:
    return load_draft(EdgeSettings(edge="test"), lambda _: None)


def prompt_of(text: str) -> tuple[int, ...]:
    loaded = draft().text
    return encode_turns(loaded.tokenizer, [Turn("user", text)], max_context=loaded.max_context)


def request(prompt: tuple[int, ...], params: Sampling, limit: int, plan: Plan = PLAIN) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, sampling=params, limit=limit, policy=FixedPolicy(plan))


@cache
def reference() -> Reference:
    torch.set_num_threads(1)
    return Reference(str(default_model_path()), "bfloat16")


@cache
def alone(
    prompt: tuple[int, ...], params: Sampling, limit: int, eos: tuple[int, ...], grammar: str = ""
) -> tuple[int, ...]:
    """Reference text: the target alone, by transformers' own code, llguidance's, and a second writing of sampling."""
    sampling = Params(*msgspec.structs.astuple(params))
    return tuple(reference().write(Text(0, prompt, sampling, limit, eos, grammar)).tokens)


async def read(generation: Generation) -> tuple[int, ...]:
    """All tokens."""
    async with asyncio.timeout(PATIENCE):
        async for event in generation:
            if isinstance(event, Finish):
                assert event.error is None
    return tuple(generation.machine.committed)


def check(generation: Generation, tokens: tuple[int, ...]) -> None:
    wish = generation.request
    assert tokens == alone(wish.prompt, wish.sampling, wish.limit, draft().text.eos)


PENALIZED = (
    Sampling(repetition_penalty=1.2, logit_bias=((40, 5.0),)),
    Sampling(0.8, seed=9, frequency_penalty=0.7, presence_penalty=0.4),
)
PLANS = {
    "each token asked for": Plan(0, 1, 0),
    "device": Plan(4, 1, 1),
    "device, two in flight": Plan(4, 2, 1),
    "device, many in flight": Plan(8, 4, 0),
    "device, worker runs ahead": Plan(4, 1, 2, 16),
    "worker": Plan(0, 1, 1, 64, worker_draft=4),
    "both": Plan(2, 2, 1, 8, worker_draft=8),
}


async def test_it_is_the_targets_text_whoever_drafts(broker: PrivateBroker) -> None:
    """Drawn texts by all plans in one batch, beside a greedy one, one with `min_p` and two with penalties."""
    prompt = prompt_of(SEA)
    async with edge_of(broker, "edge", draft().drafter, draft().text) as node:
        asked = {who: node.generate(request(prompt, WARM, 28, plan)) for who, plan in PLANS.items()}
        others = [
            node.generate(request(prompt_of(SKY), params, 24))
            for params in (GREEDY, Sampling(1.2, seed=7, min_p=0.05), *PENALIZED)
        ]
        texts = await asyncio.gather(*map(read, (*asked.values(), *others)))
    for generation, tokens in zip((*asked.values(), *others), texts, strict=True):
        check(generation, tokens)
    length = len(texts[0])
    assert asked["device"].machine.counters.accepted > 0
    assert asked["device"].machine.counters.rounds < length
    # A forward takes longer than verdicts wait for each other, so a token more than verdicts is one that was drafted.
    assert asked["worker"].machine.counters.drafted == 0
    assert asked["worker"].machine.counters.rounds < 0.8 * length


WITHOUT_TORCH = (
    "import sys\n"
    "absent = 'torch', 'transformers', 'safetensors', 'accelerate', 'gguf', 'onnx'\n"
    "sys.modules.update(dict.fromkeys(absent))\n"
    "from edge_node.__main__ import main\n"
    "sys.exit(main(sys.argv[1:]))"
)
"""A device where importing torch, transformers or what writes graphs is an error."""


async def test_the_command_of_a_device_without_torch_prints_the_targets_text(broker: PrivateBroker) -> None:
    # Here, and in all tests of this file.
    assert draft().engine == "ONNX Runtime, mixed weights, 16,384 token ids"
    folder = str(draft().text.source)
    finishes: list[dict[str, Any]] = []
    for drafts in (("--draft", folder), ("--draft", "none", "--tokenizer", folder, "--draft-length", "0")):
        asked = await Process.start(
            "edge",
            (
                *(sys.executable, "-c", WITHOUT_TORCH, "ask", SEA, *drafts, "--no-lookup", "--events"),
                *("--broker", f"{broker.host}:{broker.port}", "--max-tokens", "28"),
                *("--temperature", str(WARM.temperature), "--seed", str(WARM.seed)),
            ),
        )
        finishes.append((await events_of(asked))[-1])
    drafted, undrafted = finishes
    expected = alone(prompt_of(SEA), WARM, 28, draft().text.eos)
    assert tuple(drafted["tokens"]) == tuple(undrafted["tokens"]) == expected
    assert drafted["stats"]["accepted"] > 0 == undrafted["stats"]["accepted"]


# Tools and grammars, by clients of OpenAI and Ollama and without any

ROOM = {"type": "string", "enum": ["kitchen", "bath", "hall"]}
LIGHT = {
    "type": "object",
    "properties": {"room": ROOM, "brightness": {"type": "integer"}},
    "required": ["room"],
}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "turn_on_light", "description": "Turns a light on.", "parameters": LIGHT},
    },
    {"type": "function", "function": {"name": "get_time", "description": "Tells the time."}},
]
LIMIT = 32
ASKED: dict[str, Any] = {
    "model": "base", "messages": [{"role": "user", "content": "Turn on the light in the kitchen."}],
    "max_tokens": LIMIT,
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(broker: PrivateBroker) -> AsyncIterator[AsyncOpenAI]:
    drafter, text = draft().drafter, draft().text
    node = EdgeNode(EdgeSettings(edge="tools"), drafter, text.fingerprint, text.eos)
    link = LinkSettings(port=broker.port, client_id="e-tools")
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = serve_node(
        *(node, text, mqtt_link, link),
        policy=lambda: FixedPolicy(Plan(4, 2, 1)), settings=ApiSettings(api_port=0), started=port.set_result,
    )  # fmt: skip
    async with running(serving, "api"):
        url = f"http://127.0.0.1:{await asyncio.wait_for(port, PATIENCE)}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE) as made:
            yield made


def called_alone(params: Sampling, **more: Any) -> tuple[str, list[tuple[str, str]]]:
    """Content and calls of the text that the target alone writes under the mask, with our tools or `more` ones."""
    asked = chat_request({**ASKED, "tools": TOOLS, **more})
    use, text = asked.spec.tools, draft().text
    assert isinstance(use, ToolUse)
    turns = [turn for turn in asked.spec.prompt if isinstance(turn, Turn)]
    prompt = encode_turns(text.tokenizer, turns, use, max_context=text.max_context)
    parser = CallParser(HERMES, use)
    tokens = alone(prompt, params, LIMIT, text.eos, use.grammar(HERMES).source)
    events = parser.push(decode(text.tokenizer, tokens)) + parser.finish()
    content = "".join(event.text for event in events if isinstance(event, Content))
    return content, [(call.name, call.arguments) for call in parser.calls]


@pytest.mark.parametrize("choice", ["auto", {"type": "function", "function": {"name": "turn_on_light"}}])
async def test_calls_are_what_the_target_alone_writes(client: AsyncOpenAI, choice: Any) -> None:
    asked = {**ASKED, "tools": TOOLS, "tool_choice": choice, "temperature": 0.9, "seed": 3, "top_p": 1}
    whole = (await client.chat.completions.create(**asked, extra_body={"top_k": 0})).choices[0]
    calls = [(call.function.name, call.function.arguments) for call in whole.message.tool_calls or ()]
    expected = called_alone(Sampling(0.9, 0, 1.0, 3), tool_choice=choice)
    assert (whole.message.content or "", calls) == expected
    if choice != "auto":
        assert calls
        done = calls if whole.finish_reason == "tool_calls" else calls[:-1]
        for name, arguments in done:
            assert name == "turn_on_light"
            assert json.loads(arguments)["room"] in ROOM["enum"]


@pytest.mark.parametrize(
    ("form", "param", "words"),
    [
        ({"tools": [{"type": "function", "function": {"name": "bad", "parameters": {
            "type": "object", "properties": {"a": {"type": "nope"}}}}}]}, "tools", "the tool bad"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/no"}}}},
         "response_format", "/no"),
        ({"extra_body": {"guided_regex": "(("}}, "guided_regex", "regular expression"),
        ({"extra_body": {"grammar": "nonsense"}}, "grammar", "nor GBNF"),
    ],
)  # fmt: skip
async def test_forms_that_cannot_be_followed(
    client: AsyncOpenAI, form: dict[str, Any], param: str, words: str
) -> None:
    for stream in (False, True):
        with pytest.raises(BadRequestError, match=re.escape(words)) as raised:
            await client.chat.completions.create(**ASKED, **form, stream=stream)
        assert raised.value.param == param


FUNCTIONS: list[Any] = [{"type": "function", "strict": True, **tool["function"]} for tool in TOOLS]
RESPOND: dict[str, Any] = {
    "model": "base", "input": "Turn on the light in the kitchen.", "max_output_tokens": 50, "tools": FUNCTIONS,
    "top_p": 1,
}  # fmt: skip


class Light(BaseModel):
    room: Literal["kitchen", "bath", "hall"]
    brightness: int


def called(response: Any) -> list[tuple[str, str]]:
    """Name and arguments of the calls of a response."""
    return [(item.name, item.arguments) for item in response.output if item.type == "function_call"]


async def test_a_result_goes_back_with_and_without_kept_responses(client: AsyncOpenAI) -> None:
    first = await client.responses.create(
        **RESPOND, tool_choice="required", parallel_tool_calls=False, temperature=0
    )
    (call,) = first.output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "The light is on."}
    asked = {**RESPOND, "temperature": 0}
    kept = await client.responses.create(**{**asked, "input": [result]}, previous_response_id=first.id)
    question = {"role": "user", "content": RESPOND["input"]}
    for sent in (call.to_dict(), {"type": "item_reference", "id": call.id}):
        again = await client.responses.create(**{**asked, "input": [question, sent, result]}, store=False)
        assert (again.output_text, called(again)) == (kept.output_text, called(kept))
        assert again.usage.input_tokens == kept.usage.input_tokens > first.usage.input_tokens


async def test_openais_client_parses_responses(client: AsyncOpenAI) -> None:
    asked = {**RESPOND, "max_output_tokens": 200, "tools": [], "text_format": Light}
    parsed = await client.responses.parse(**asked, extra_body={"seed": 1})
    assert isinstance(parsed.output_parsed, Light)
    async with client.responses.stream(**asked, extra_body={"seed": 1}) as stream:
        async for _ in stream:
            pass
        assert (await stream.get_final_response()).output_parsed == parsed.output_parsed
    calls = await client.responses.parse(
        **{**RESPOND, "max_output_tokens": 200, "tools": [pydantic_function_tool(Light)]},
        tool_choice={"type": "function", "name": "Light"},
    )
    (call,) = calls.output
    assert isinstance(call.parsed_arguments, Light)
    bad = {"format": {"type": "json_schema", "name": "bad", "schema": {"$ref": "#/no"}}}
    for more, param in (
        ({"text": bad}, "text.format"),
        ({"tools": [{**FUNCTIONS[0], "parameters": {"type": "object", "$ref": "#/no"}}]}, "tools"),
    ):
        with pytest.raises(BadRequestError, match="/no") as raised:
            await client.responses.create(**{**RESPOND, **more})
        assert raised.value.param == param


async def test_ollamas_client_is_told_of_tools_and_of_forms_that_cannot_be_followed(
    client: AsyncOpenAI,
) -> None:
    asked: dict[str, Any] = {"model": "base:latest", "messages": ASKED["messages"]}
    bad = {"type": "object", "properties": {"a": {"type": "nope"}}}
    async with ollama.AsyncClient(str(client.base_url.join("/")), trust_env=False, timeout=PATIENCE) as ask:
        assert (await ask.show("base")).capabilities == ["completion", "tools"]
        for wrong in ({"format": bad}, {"tools": [{"function": {"name": "bad", "parameters": bad}}]}):
            with pytest.raises(ollama.ResponseError, match="nope") as raised:
                await ask.chat(**asked, **wrong)
            assert raised.value.status_code == 400


CALL = Grammar.from_json_schema({
    "type": "object",
    "properties": {
        "name": {"const": "light.turn_on"},
        "arguments": {
            "type": "object",
            "properties": {
                "entity_id": {"enum": ["light.kitchen", "light.bed_room", "light.hall"]},
                "brightness": {"type": "integer", "minimum": 0, "maximum": 255},
                "note": {"type": "string", "maxLength": 20},
            },
            "required": ["entity_id", "brightness", "note"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
})  # fmt: skip


async def test_the_text_is_what_the_target_alone_writes_under_the_mask(broker: PrivateBroker) -> None:
    prompt, limit = prompt_of("Turn on the kitchen light at half brightness."), 80
    params = Sampling(0.9, 40, 0.95, 11)
    grammars = draft().text.grammars()
    assert grammars is not None
    compiled = grammars.compile(CALL)
    wish = GenerationRequest(
        prompt=prompt, sampling=params, limit=limit, policy=FixedPolicy(Plan(4, 1, 1)), grammar=CALL,
        engine=engine_name(), compiled=compiled,
    )  # fmt: skip
    async with edge_of(broker, "edge", draft().drafter, draft().text) as node:
        asked = {who: node.generate(replace(wish, policy=FixedPolicy(plan))) for who, plan in PLANS.items()}
        asked["a device that reads no grammars"] = node.generate(replace(wish, compiled=None))
        texts = await asyncio.gather(*map(read, asked.values()))
    expected = alone(prompt, params, limit, draft().text.eos, CALL.source)
    assert dict(zip(asked, texts, strict=True)) == dict.fromkeys(asked, expected)
    assert max(each.machine.counters.forced for each in asked.values()) > 30
    assert asked["each token asked for"].machine.counters.rounds <= len(expected) - 30
    assert asked["device"].machine.counters.rounds < asked["each token asked for"].machine.counters.rounds
    json.loads(decode(draft().text.tokenizer, expected))


async def test_a_grammar_travels_once_and_a_wrong_one_is_told(broker: PrivateBroker) -> None:
    """Also by a device that reads none itself."""
    prompt = prompt_of("Turn on the kitchen light at half brightness.")
    wish = GenerationRequest(
        prompt=prompt, sampling=Sampling(), limit=80, policy=FixedPolicy(Plan(4, 1, 1)), grammar=CALL,
        engine=engine_name(),
    )  # fmt: skip
    asks = (Subscription("f1/o/+/+"), Subscription("f1/d/+/+"))
    listens = LinkSettings(port=broker.port, client_id="hears", subscriptions=asks)
    async with edge_of(broker, "edge", draft().drafter, draft().text) as node, linked(listens) as link:
        first = node.generate(wish)
        text = await read(first)
        again = node.generate(replace(wish, prompt=(*prompt, *text, *prompt)))
        await read(again)
        assert (again.machine.counters.named, again.machine.counters.misses) == (1, 0)
        carried = dict[int, list[bytes]]()
        async for event in link.events():
            if isinstance(event, Inbound) and isinstance(opened := CODEC.decode(event.payload), Open):
                carried.setdefault(opened.session, []).append(opened.grammar)
                if opened.session == again.session:
                    break
        assert set(carried[first.session]) == {CALL.pack()}
        assert carried[again.session] == [b""]
        wrong = node.generate(replace(wish, grammar=Grammar.from_json_schema({"type": "strin"})))
        told = await anext(aiter(wrong))
        assert isinstance(told, Finish)
        assert isinstance(told.error, GrammarError)
        assert "strin" in told.error.message
        other = node.generate(replace(wish, engine="another 1", waits=Waits.of(3.0)))
        busy = await anext(aiter(other))
        assert isinstance(busy, Finish)
        assert isinstance(busy.error, WorkerError)
        assert other.machine.counters.busy > 0
