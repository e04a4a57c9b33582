"""The OpenAPI 3.1 document of the edge node's HTTP API, made from the types of its requests and answers."""

import re
from typing import Literal, NamedTuple

import msgspec

from schemas import node, ollama, openai, plan, responses, status
from schemas.jsonschema import Json, described


class _Endpoint(NamedTuple):
    """A path and what it takes and gives.

    Attributes:
        gives: the type of the answer; None is another object if the path says so, else Prometheus' text.
        chunk: the type of the events of a streamed answer.
        locked: true where it asks for the key, if there is one.
    """

    method: Literal["get", "post", "delete"]
    path: str
    summary: str
    gives: type[msgspec.Struct] | None
    takes: type[msgspec.Struct] | None = None
    chunk: type[msgspec.Struct] | None = None
    locked: bool = True


ENDPOINTS = (
    _Endpoint(
        "post",
        "/v1/chat/completions",
        "The next turn of a conversation.",
        openai.ChatCompletion,
        openai.ChatCompletionRequest,
        openai.ChatCompletionChunk,
    ),
    _Endpoint(
        "post",
        "/v1/completions",
        "Go on with a text.",
        openai.TextCompletion,
        openai.CompletionRequest,
        openai.TextCompletion,
    ),
    _Endpoint(
        "post",
        "/v1/responses",
        "Answer, or call tools, and maybe keep that for later.",
        responses.Response,
        responses.ResponsesRequest,
        responses.ResponseEvent,
    ),
    _Endpoint("get", "/v1/responses/{response}", "A response that the node keeps.", responses.Response),
    _Endpoint("delete", "/v1/responses/{response}", "Forget a response.", responses.ResponseDeleted),
    _Endpoint(
        "post",
        "/api/chat",
        "The next turn of a conversation, by Ollama's API.",
        ollama.OllamaChatAnswer,
        ollama.OllamaChatRequest,
        ollama.OllamaChatAnswer,
    ),
    _Endpoint(
        "post",
        "/api/generate",
        "A single turn, or go on with a text, by Ollama's API.",
        ollama.OllamaGenerateAnswer,
        ollama.OllamaGenerateRequest,
        ollama.OllamaGenerateAnswer,
    ),
    _Endpoint("post", "/v1/embeddings", "Vectors of texts.", openai.EmbeddingList, openai.EmbeddingRequest),
    _Endpoint(
        "post",
        "/api/embed",
        "Vectors of texts, by Ollama's API.",
        ollama.OllamaEmbedAnswer,
        ollama.OllamaEmbedRequest,
    ),
    _Endpoint(
        "post",
        "/api/embeddings",
        "The vector of a text, by Ollama's older API.",
        ollama.OllamaEmbeddingsAnswer,
        ollama.OllamaEmbeddingsRequest,
    ),
    _Endpoint("get", "/api/tags", "Target versions that can be asked for.", ollama.OllamaModels),
    _Endpoint("get", "/api/ps", "The same; all of them are loaded.", ollama.OllamaModels),
    _Endpoint("post", "/api/show", "One of them.", ollama.OllamaShown, ollama.OllamaModelRequest),
    _Endpoint("post", "/api/pull", "Whether it is there.", ollama.OllamaStatus, ollama.OllamaModelRequest),
    _Endpoint("get", "/api/version", "Version of Ollama whose API this is.", ollama.OllamaVersion),
    _Endpoint("get", "/", "Whether Ollama is running, as its clients ask.", None, locked=False),
    _Endpoint("get", "/v1/models", "Target versions that can be asked for.", openai.ModelList),
    _Endpoint("get", "/v1/models/{model}", "One of them.", openai.Model),
    _Endpoint("get", "/v1/events", "Events of the node, as its page shows them.", None, chunk=node.NodeView),
    _Endpoint("get", "/v1/outbox", "Requests that the node keeps.", node.OutboxList),
    _Endpoint(
        "get",
        "/v1/outbox/{id}",
        "One of them with its text; or a stream of this in the form of its request.",
        node.OutboxText,
    ),
    _Endpoint("post", "/v1/outbox/{id}", "Send it again, if it waits for its user.", node.OutboxText),
    _Endpoint("delete", "/v1/outbox/{id}", "Cancel and forget it.", node.OutboxDropped),
    _Endpoint("get", "/openapi.json", "This document.", None, locked=False),
    _Endpoint("get", "/healthz", "Whether the process lives.", openai.Health, locked=False),
    _Endpoint(
        "get", "/readyz", "Whether a text can be written now; 503 if not.", openai.Health, locked=False
    ),
    _Endpoint("get", "/metrics", "For Prometheus.", None),
)
_STREAMS = openai.ChatCompletionChunk, openai.TextCompletion, responses.ResponseEvent
"""Events of streams that go on behind the last one that a client has."""
_STATED = {
    kind.__name__: kind
    for kind in (
        status.DraftOffer,
        status.Outage,
        status.TokenizerStatus,
        status.VersionFigures,
        status.VersionStatus,
    )
}
"""Parts of statuses, as events have them."""
TYPES: tuple[type[msgspec.Struct], ...] = tuple(
    kind
    for name, kind in (
        vars(openai) | vars(ollama) | vars(plan) | vars(responses) | vars(node) | _STATED
    ).items()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and not name.startswith(("_", "Sampled"))
)


def document() -> Json:
    """Build the document from `ENDPOINTS` and the types."""
    paths: Json = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FlexSpec MQ, edge node",
            "version": "1.0.0",
            "description": "HTTP APIs of OpenAI and Ollama, served by an edge node; docs/api.md has the rest.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8080"}],
        "paths": paths,
        "components": {
            "schemas": described(TYPES),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: _Endpoint) -> Json:
    error = ollama.OllamaError if endpoint.path.startswith("/api/") else openai.ErrorBody
    operation: Json = {
        "summary": endpoint.summary,
        # Without a key of the API, which is the default, anybody may ask.
        "security": [{"key": []}, {}] if endpoint.locked else [],
        "responses": {
            "200": {"description": "Done.", "content": _content(endpoint)},
            "default": {"description": "An error.", "content": _json(error)},
        },
    }
    if endpoint.path == "/readyz":
        operation["responses"]["503"] = {"description": "Not ready.", "content": _json(openai.Health)}
    if endpoint.takes is not None:
        operation["requestBody"] = {"required": True, "content": _json(endpoint.takes)}
    parameters = [("path", name) for name in re.findall(r"\{(\w+)\}", endpoint.path)]
    if endpoint.takes is not None and endpoint.chunk is not None:
        parameters.append(("header", "Idempotency-Key"))
    if endpoint.chunk in _STREAMS or (endpoint.gives, endpoint.method) == (node.OutboxText, "get"):
        parameters.append(("header", "Last-Event-ID"))
    if parameters:
        operation["parameters"] = [_text(where, name) for where, name in parameters]
    return operation


def _content(endpoint: _Endpoint) -> Json:
    if endpoint.chunk is node.NodeView:
        words = "Each event's data is of the type that `x-events` gives for the event's name."
        kinds = {
            name: {"$ref": f"#/components/schemas/{kind.__name__}"} for name, kind in node.EVENTS.items()
        }
        schema = {"type": "string", "description": words, "x-events": kinds}
        return {"text/event-stream": {"schema": schema}}
    if endpoint.gives is None:
        media, kind = (
            ("application/json", "object") if endpoint.path.endswith(".json") else ("text/plain", "string")
        )
        return {media: {"schema": {"type": kind}}}
    content = _json(endpoint.gives)
    if endpoint.chunk is not None and endpoint.path.startswith("/api/"):
        words = f"Each line is one {endpoint.chunk.__name__}; or an OllamaError, which is the last."
        content["application/x-ndjson"] = {"schema": {"type": "string", "description": words}}
    elif endpoint.chunk is not None:
        end = "" if endpoint.chunk is responses.ResponseEvent else ", at the end [DONE]; or an ErrorBody"
        words = f"Each event's data is one {endpoint.chunk.__name__}{end}."
        content["text/event-stream"] = {"schema": {"type": "string", "description": words}}
    return content


def _json(kind: type[msgspec.Struct]) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def _text(where: str, name: str) -> Json:
    return {"in": where, "name": name, "required": where == "path", "schema": {"type": "string"}}
