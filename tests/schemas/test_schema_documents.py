"""The committed schemas are those of the types, and say of messages and requests what codec and validation say."""

import inspect
import json
from functools import partial
from typing import Any, get_args

import msgspec
import pytest

from edge_node.api.app import PATHS
from edge_node.api.errors import ApiError
from edge_node.api.openai.requests import chat_request, completion_request
from edge_node.api.openai.responses import responses_request
from edge_node.api.response_store import ResponseStore
from edge_node.api.settings import ApiSettings
from flexspec_mq import topics
from flexspec_mq.cli import main
from schemas.__main__ import GENERATED, as_text, generate
from schemas.asyncapi import BODIES, CHANNELS, MESSAGES
from schemas.catalogue import CatalogueVersion, Signed
from schemas.messages import Identity, Message
from schemas.openapi import ENDPOINTS, TYPES
from schemas.statement import Statement
from tests.catalogue.family import catalogue, key_set
from tests.codec.samples import SAMPLES
from tests.schemas.json_schema import DOCUMENTS, problem, references, resolve

STATEMENT = Statement(1, 7, {"*": bytes(32), "v1": bytes(range(32))}, frozenset({bytes(8)}))
ASYNCAPI: dict[str, Any] = DOCUMENTS["asyncapi.json"]
OPENAPI: dict[str, Any] = DOCUMENTS["openapi.json"]
SCHEMAS = ASYNCAPI["components"]["schemas"]


def test_the_committed_files_are_up_to_date() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in GENERATED.iterdir()}
    assert committed == {name: as_text(schema) for name, schema in generate().items()}


@pytest.mark.parametrize("name", generate())
def test_every_reference_leads_somewhere(name: str) -> None:
    document = generate()[name]
    for reference in references(document):
        assert resolve(document, reference)


@pytest.mark.parametrize("kind", [*get_args(Message), Identity, Signed, *BODIES, CatalogueVersion])
def test_array_items_carry_the_names_of_their_fields(kind: type[msgspec.Struct]) -> None:
    items = SCHEMAS[kind.__name__]["items"]
    names = [field.name for field in msgspec.structs.fields(kind)]
    assert [item["title"] for item in items] == (["type", *names] if kind in get_args(Message) else names)


@pytest.mark.parametrize("kind", [*MESSAGES, *BODIES, CatalogueVersion, Identity])
def test_every_documented_attribute_reaches_the_schema(kind: type[msgspec.Struct]) -> None:
    schema = SCHEMAS[kind.__name__]
    items = schema.get("items") or schema["properties"].values()
    described = sum("description" in item for item in items)
    said = [
        inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")[2]
        for one in kind.__mro__
        if one.__module__ == kind.__module__
    ]
    assert described == sum(line[:5].count(" ") == 4 for text in said for line in text.splitlines())


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_have_the_shape_that_their_schema_gives(name: str) -> None:
    """Types, bounds and lengths of every item."""
    message = SAMPLES[name]
    kind = type(message).__name__
    document = json.loads(msgspec.json.encode(message))
    assert not problem(document, "asyncapi.json", kind)
    required = sum(field.required for field in msgspec.structs.fields(message))
    for broken in (
        *(document[:required], [99, *document[1:]]),
        *([document[0], wrong, *document[2:]] for wrong in (-1, "1")),
    ):
        assert problem(broken, "asyncapi.json", kind)


@pytest.mark.parametrize("body", [catalogue(), key_set(), STATEMENT])
def test_signed_bodies_have_the_shape_that_their_schema_gives(body: msgspec.Struct) -> None:
    kind = type(body).__name__
    document = json.loads(msgspec.json.encode(body))
    assert not problem(document, "asyncapi.json", kind)
    for broken in (document[:-3], [document[0], "", *document[2:]]):
        assert problem(broken, "asyncapi.json", kind)


def test_asyncapi_is_well_formed() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(ASYNCAPI["info"])
    assert set(ASYNCAPI) <= {
        *("asyncapi", "info", "defaultContentType", "channels", "operations", "components")
    }
    for channel in ASYNCAPI["channels"].values():
        parameters = {level[1:-1] for level in channel["address"].split("/") if level[0] == "{"}
        assert set(channel["parameters"]) == parameters
        assert channel["messages"]
    for operation in ASYNCAPI["operations"].values():
        assert operation["action"] in ("send", "receive")
        channel = operation["channel"]["$ref"]
        assert all(message["$ref"].startswith(f"{channel}/messages/") for message in operation["messages"])
    used = {reference.rsplit("/", 1)[1] for reference in references(ASYNCAPI["channels"])}
    assert used == set(ASYNCAPI["components"]["messages"]) == {kind.__name__ for kind in MESSAGES}


def test_asyncapi_has_no_tuple_that_draft_07_would_miss() -> None:
    text = json.dumps(ASYNCAPI)
    assert "prefixItems" not in text
    for schema in SCHEMAS.values():
        for item in schema.get("items", []):
            assert "$ref" not in item or set(item) == {"$ref"}


def test_asyncapi_names_the_topics_that_the_code_uses() -> None:
    version, edge, worker, family, user = "{version}", "{edge}", "{worker}", "{family}", "{user}"
    assert {channel.name: channel.address for channel in CHANNELS} == {
        "open": topics.open_topic(version, edge),
        "draft": topics.draft_topic(worker, edge),
        "verdict": topics.verdict_topic(edge),
        "delivery": topics.delivery_filter(edge).replace("+", "{session}"),
        "workerStatus": topics.worker_status_topic(worker),
        "targetText": topics.target_text_topic(worker),
        "blobRequest": topics.blob_request_topic(worker, edge),
        "blob": topics.blob_topic(edge),
        "longRequest": topics.blob_request_topic(edge, worker),
        "longRequestPiece": topics.request_topic(worker, edge),
        "edgeStatus": topics.edge_status_topic(edge),
        "statement": topics.statement_topic(),
        "keySet": topics.keys_topic(family),
        "catalogue": topics.catalogue_topic(family),
        "ask": topics.ask_topic(edge, user),
        "answer": topics.answer_topic(user, edge),
        "asked": topics.asked_topic(edge),
    }
    descriptions = {channel.name: channel.description for channel in CHANNELS}
    assert topics.open_share(version, "{group}") in descriptions["open"]
    assert topics.draft_filter(worker) in descriptions["draft"]


def test_retained_topics_are_those_of_statuses_and_families() -> None:
    bindings = {name: operation["bindings"]["mqtt"] for name, operation in ASYNCAPI["operations"].items()}
    retained = {name for name, binding in bindings.items() if binding["retain"]}
    assert retained == {
        *(
            "receive-delivery",
            "receive-workerStatus",
            "receive-targetText",
            "send-edgeStatus",
            "receive-statement",
            "receive-keySet",
            "receive-catalogue",
            "send-asked",
        )
    }
    assert all(bindings[name]["qos"] == 1 for name in retained)
    assert all("qos" not in binding for name, binding in bindings.items() if name not in retained)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--openapi"]) == 0
    assert capsys.readouterr().out == as_text(OPENAPI)


def test_it_has_the_paths_of_the_app_and_no_type_for_nothing() -> None:
    assert {path.partition("/{")[0] for path in OPENAPI["paths"]} == set(PATHS)
    assert {one.path for one in ENDPOINTS} == set(OPENAPI["paths"])
    used = {reference.rsplit("/", 1)[1] for reference in references(OPENAPI)}
    streamed = {one.chunk.__name__ for one in ENDPOINTS if one.chunk is not None}
    deeper = {"ChatCompletionChunk", "ChunkChoice", "Delta"}
    assert used | streamed | deeper == {kind.__name__ for kind in TYPES}


HELLO = {"messages": [{"role": "user", "content": "hello"}]}
REQUESTS: list[tuple[dict[str, Any], bool]] = [
    (HELLO, True),
    ({**HELLO, "temperature": 2, "stop": ["a"], "n": 1, "logprobs": False, "tools": []}, True),
    ({**HELLO, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": -1}, True),
    ({**HELLO, "prediction": {"type": "content", "content": [{"type": "text", "text": "x"}]}}, True),
    ({}, False),
    ({"messages": []}, False),
    ({**HELLO, "temperature": 2.1}, False),
    ({**HELLO, "top_p": 0}, False),
    (
        {
            **HELLO,
            "n": 2,
            "tools": [{"type": "function", "function": {"name": "x"}}],
            "tool_choice": "required",
        },
        True,
    ),
    ({**HELLO, "n": 0}, False),
    ({**HELLO, "tools": [{"type": "function"}]}, False),
    ({**HELLO, "logprobs": True}, False),
    ({**HELLO, "stop": ["a"] * 1025}, False),
    ({**HELLO, "stop": "x" * 1025}, False),
    ({**HELLO, "seed": 2**64}, False),
    ({**HELLO, "what": 1}, False),
    ({"messages": [{"role": "function", "content": "x"}]}, False),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, False),
    ({"prompt": "x"}, True),
    ({"prompt": [1, 2], "best_of": 1, "max_tokens": 5}, True),
    ({"prompt": [-1]}, False),
    ({"prompt": "x", "echo": True}, False),
    ({"prompt": "x", "logprobs": 0}, False),
    ({"input": "x", "store": False, "metadata": {"a": "b"}, "reasoning": {"effort": "low"}}, True),
    (
        {
            "input": [{"role": "user", "content": "x"}, {"type": "reasoning", "summary": []}],
            "background": False,
        },
        True,
    ),
    (
        {
            "input": "x",
            "tools": [{"type": "function", "name": "f", "strict": True}],
            "tool_choice": "required",
        },
        True,
    ),
    ({"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}}, True),
    ({"input": "x", "tools": [{"type": "web_search"}]}, False),
    ({"input": [{"type": "web_search_call", "id": "x"}]}, False),
    ({"input": "x", "conversation": "conv_1"}, False),
    ({"input": "x", "metadata": {"a": 1}}, False),
]


@pytest.mark.parametrize(("body", "fine"), REQUESTS)
def test_the_document_and_validation_agree(body: dict[str, Any], fine: bool) -> None:
    respond: Any = partial(responses_request, store=ResponseStore(ApiSettings()), client=b"")
    parse, name = (
        (completion_request, "CompletionRequest")
        if "prompt" in body
        else (respond, "ResponsesRequest")
        if "input" in body
        else (chat_request, "ChatCompletionRequest")
    )
    found = problem(body, "openapi.json", name)
    assert (not found) == fine, found
    if fine:
        parse(body)
    else:
        with pytest.raises(ApiError):
            parse(body)
