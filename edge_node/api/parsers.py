"""Readers of bodies that ask for texts, by path; what the journal keeps of them, and what version 0.2.0 kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from edge_node.api import embeddings, ollama
from edge_node.api.forms import ApiRequest
from edge_node.api.openai.chat import OpenAIRequest
from edge_node.api.openai.requests import chat_request, completion_request
from edge_node.api.openai.responses import ResponsesTextRequest, responses_request
from edge_node.api.response_store import ResponseStore
from edge_node.text.spec import IdempotencyKey, UnknownRequest, unpack
from flexspec_mq.errors import FlexSpecError

if TYPE_CHECKING:
    from edge_node.outbox.entries import Entry

Parser = Callable[[dict[str, Any], bool, bytes, ResponseStore], ApiRequest]
"""Reads a body, leniently or not, of a client, who may go on from a response."""
_KEPT: Any = OpenAIRequest | ollama.OllamaRequest | ResponsesTextRequest | embeddings.EmbeddingRequest
PARSERS: dict[str, Parser] = {
    "/v1/chat/completions": lambda body, lenient, _client, _store: chat_request(body, lenient),
    "/v1/completions": lambda body, lenient, _client, _store: completion_request(body, lenient),
    "/v1/responses": lambda body, lenient, client, store: responses_request(
        body, lenient, store=store, client=client
    ),
    "/api/chat": lambda body, lenient, _client, _store: ollama.chat_request(body, lenient),
    "/api/generate": lambda body, lenient, _client, _store: ollama.generate_request(body, lenient),
    "/v1/embeddings": lambda body, lenient, _client, _store: embeddings.openai_request(body, lenient),
    "/api/embed": lambda body, lenient, _client, _store: embeddings.embed_request(body, lenient),
    "/api/embeddings": lambda body, lenient, _client, _store: embeddings.old_request(body, lenient),
}


def resumed(entry: Entry) -> ApiRequest:
    """A request in the outbox as it was when it came.

    Raises:
        UnknownRequest: this node cannot read it.
    """
    wanted: ApiRequest = unpack(entry.body, _KEPT)
    return wanted


def from_body(responses: ResponseStore, entry: Entry) -> bytes:
    """A request as the journal has it today, where version 0.2.0 kept the body by which it came.

    Args:
        responses: is not asked: a conversation was kept whole.
        entry: request.

    Raises:
        UnknownRequest: it cannot be read.
    """
    try:
        parse = partial(PARSERS[entry.path], json.loads(entry.body), True, entry.client)
        wanted = parse(responses)
    except (ValueError, KeyError, FlexSpecError) as error:
        raise UnknownRequest(f"this request of version 0.2.0 cannot be read: {error}") from error
    spec = wanted.spec
    if wanted.choices > 1:
        first = IdempotencyKey(entry.key.removesuffix(f"\0{entry.choice}"), entry.digest)
        seed = first.seed if spec.seed is None else spec.seed
        spec = replace(spec, seed=(seed + entry.choice) % 2**64)
    return replace(wanted, spec=replace(spec, offline=entry.mode)).pack()
