"""Models that can be asked for, as OpenAI's clients and Ollama's list them."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from edge_node.api.errors import bad
from edge_node.api.http.bodies import json_answer, parse_object, read
from edge_node.api.ollama import LATEST, OllamaForm, rfc3339
from edge_node.text.service import Service
from flexspec_mq import waiting
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.protocol.edge.patience import Waits
from schemas import ollama
from schemas.messages import PartialSampling
from schemas.openai import LOCAL_ONLY, Model, ModelList

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Send

    from edge_node.api.serving import Api, Handler

VERSION = "0.13.0"
"""Version of Ollama whose API this is; clients ask whether it is new enough for tools and schemas."""
_FOR_EVER = "9999-12-31T23:59:59Z"


async def _models(api: Api, _request: Request, _send: Send) -> Response:
    await api.node.directory.refreshed()
    return json_answer(ModelList(data=list(api.models().values())))


async def _model(api: Api, request: Request, _send: Send) -> Response:
    return json_answer(await api.model(request.path_params["model"]))


def _version_of(model: Model) -> str:
    return model.id if model.flexspec is UNSET else model.flexspec.version


def _listed(api: Api, name: str, model: Model, **more: Any) -> ollama.OllamaModel:
    version = _version_of(model)
    if model.flexspec is UNSET:  # clients remember by it what is shown of a model
        status = api.node.directory.status(version)
        told = "" if status is None else f" {status.fingerprint} {status.weights} {status.grammar}"
        digest = sha256(f"{version}{told}".encode()).hexdigest()
    else:
        digest = model.flexspec.digest
    tagged = name if ":" in name else name + LATEST
    return ollama.OllamaModel(
        name=tagged,
        model=tagged,
        modified_at=rfc3339(model.created),
        digest=digest,
        details=_details(api, version),
        **more,
    )


def _details(api: Api, version: str) -> ollama.OllamaDetails:
    return ollama.OllamaDetails(quantization_level=api.node.directory.described(version)[1])


async def _ollama_models(more: dict[str, Any], api: Api, _request: Request, _send: Send) -> Response:
    if not more:  # those that are loaded are asked for again and again, and worth no byte of the link
        await api.node.directory.refreshed()
    return json_answer(
        ollama.OllamaModels(
            models=[_listed(api, name, model, **more) for name, model in api.models().items()]
        )
    )


async def _asked(api: Api, request: Request) -> tuple[ollama.OllamaModelRequest, Model]:
    """A request for a model that is there.

    Raises:
        ApiError: 404, or 400.
    """
    ignored: list[str] | None = [] if api.settings.lenient else None
    raw = await api.bodies.read(request, typed=False)
    body = await api.bodies.work(len(raw), parse_object, raw)
    asked = read(ollama.OllamaModelRequest, body, ignored=ignored)
    if not (name := asked.model or asked.name):
        raise bad("model", "model is required")
    return asked, await api.model(name)


async def _show(api: Api, request: Request, _send: Send) -> Response:
    _, model = await _asked(api, request)
    version = _version_of(model)
    directory = api.node.directory
    await directory.wait_until(lambda: directory.status(version) is not None, 0.3 * waiting.ANSWER)
    if version == LOCAL_ONLY and (voice := api.texts.voice) is not None:
        text, grammar = voice.text, bool(engine_name())
    else:
        text = await Service(api.node, version, b"", Waits(), lambda _wait: None).text(api.texts.model)
        grammar = any(status.grammar for status in directory.statuses(version))
    template, sampling = text.tokenizer.chat_template, directory.recommended(version)
    stated = ((name, getattr(sampling, name)) for name in PartialSampling.__struct_fields__)
    tools = text.served or grammar
    # a server counts in its own tokens, and what is known here is bytes
    length = {} if text.served else {"flexspec.context_length": text.max_context}
    return json_answer(
        ollama.OllamaShown(
            modelfile=f"FROM {model.id}\n",
            parameters="\n".join(f"{name} {value:g}" for name, value in stated),
            template=template if isinstance(template, str) else "",
            details=_details(api, version),
            model_info={"general.architecture": "flexspec", "general.basename": model.id, **length},
            capabilities=["completion", *(["tools"] if tools else [])],
            modified_at=rfc3339(model.created),
        )
    )


async def _pull(api: Api, request: Request, _send: Send) -> Response:
    asked, _ = await _asked(api, request)
    done = msgspec.json.encode(ollama.OllamaStatus(status="success"))
    return Response(done + b"\n", media_type=OllamaForm.kind if asked.stream else "application/json")


async def _version(_api: Api, _request: Request, _send: Send) -> Response:
    return json_answer(ollama.OllamaVersion(version=VERSION))


_FILES = "the node keeps no files; send their text in messages"
_MAKE = "models are at workers: start one with `flexspec-cloud`"
LACKING = {
    "create": _MAKE,
    "copy": _MAKE,
    "push": _MAKE,
    "delete": _MAKE,
    "blobs": _MAKE,
    "audio": "the node neither hears nor speaks; name another server for it, and send the node text",
    "images": "the node makes no images; name another server for them",
    "moderations": "the node judges no texts; name another server for it",
    "files": _FILES,
    "uploads": _FILES,
    "vector_stores": _FILES,
    "batches": "send each request by itself, with an Idempotency-Key to have it outlive the node",
    "assistants": "ask /v1/responses, which goes on from a previous_response_id",
    "threads": "ask /v1/responses, which goes on from a previous_response_id",
    "fine_tuning": "heads of a target are made and published where it runs: see `flexspec head`",
}
"""Advice in place of what the node does not do, by what follows ``/api/`` or ``/v1/``."""
TABLE: tuple[tuple[str, str, Handler], ...] = (
    ("/v1/models", "GET", _models),
    ("/v1/models/{model:path}", "GET", _model),
    ("/api/tags", "GET", partial(_ollama_models, {})),
    ("/api/ps", "GET", partial(_ollama_models, {"expires_at": _FOR_EVER, "size_vram": 0})),
    ("/api/show", "POST", _show),
    ("/api/pull", "POST", _pull),
    ("/api/version", "GET", _version),
)
"""Paths, methods and handlers."""
