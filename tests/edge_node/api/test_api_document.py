"""Real answers of the API are what its OpenAPI document says, with nothing beside it."""

from __future__ import annotations

from typing import Any

from broker.launcher import PrivateBroker
from schemas.openapi import document
from tests.edge_node.api.served import events, served
from tests.schemas.json_schema import problems

DOCUMENT = document()


def fits(found: Any, name: str) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    assert problems(found, schema, DOCUMENT, closed=True) == []
    assert problems({**found, "beside": 1}, schema, DOCUMENT, closed=True)
    for field in schema["required"]:
        assert problems({**found, field: [[]]}, schema, DOCUMENT, closed=True)


async def test_answers_errors_and_events(mosquitto: PrivateBroker) -> None:
    options = {"include_usage": True, "include_origin": True}
    streamed: dict[str, Any] = {"stream": True, "stream_options": options, "max_tokens": 20}
    async with served(mosquitto) as api:
        fits((await api.chat(max_tokens=5)).json(), "ChatCompletion")
        chunks = events((await api.chat(**streamed)).text)
        assert len(chunks) > 3
        for chunk in chunks:
            fits(chunk, "ChatCompletionChunk")
        for chunk in events((await api.chat(max_tokens=5, stream=True)).text):
            fits(chunk, "ChatCompletionChunk")
        fits((await api.post("/v1/completions", {"prompt": "hello"})).json(), "TextCompletion")
        for chunk in events((await api.post("/v1/completions", {"prompt": "hello", **streamed})).text):
            fits(chunk, "TextCompletion")
        for path, name in (
            ("/v1/models", "ModelList"), (f"/v1/models/{api.version}", "Model"), ("/healthz", "Health"),
            ("/readyz", "Health"), ("/nowhere", "ErrorBody"), ("/v1/models/gone", "ErrorBody"),
        ):  # fmt: skip
            fits((await api.http.get(f"{api.url}{path}")).json(), name)
        fits((await api.chat(n=2)).json(), "ErrorBody")
        fits((await api.http.get(f"{api.url}/v1/completions")).json(), "ErrorBody")


async def test_it_is_served_and_names_the_server_that_it_comes_from(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        answer = await api.http.get(f"{api.url}/openapi.json")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {**DOCUMENT, "servers": [{"url": "/"}]}
        path = 'flexspec_edge_requests_total{endpoint="/openapi.json",status="200"}'
        assert await api.metric(path) == 1
