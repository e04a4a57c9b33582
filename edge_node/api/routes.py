"""Paths of the API and their handlers."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_node.api.errors import ApiError, bad
from edge_node.api.requests import chat_request, completion_request
from edge_node.api.streaming import reply
from edge_node.api.validation import canonical, parse_object
from edge_node.completion.figures import plan_told
from edge_node.completion.store import IdempotencyKey
from schemas.openai import Health, ModelList
from schemas.openapi import document
from schemas.plan import PlanList, VersionPlan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from edge_node.api.requests import TextRequest
    from edge_node.api.state import Api

    Handler = Callable[[Api, Request, Send], Awaitable[Response | None]]

JSON = "application/json"
MAX_KEY = 255
"""Characters of an idempotency key."""


class Endpoint:
    """A path of the app, as an ASGI app of its own: it sees when its client goes away."""

    def __init__(self, api: Api, handler: Handler) -> None:
        self._api = api
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        response = await self._handler(self._api, Request(scope, receive), send)
        if response is not None:
            await response(scope, receive, send)


def routes(api: Api) -> list[Route]:
    """All paths."""
    table: list[tuple[str, str, Handler]] = [
        ("/v1/chat/completions", "POST", partial(_text, chat_request)),
        ("/v1/completions", "POST", partial(_text, completion_request)),
        ("/v1/models", "GET", _models),
        ("/v1/models/{model:path}", "GET", _model),
        ("/v1/plan", "GET", _plan),
        ("/openapi.json", "GET", _document),
        ("/healthz", "GET", _health),
        ("/readyz", "GET", _ready),
        ("/metrics", "GET", _metrics),
    ]
    return [Route(path, Endpoint(api, handler), methods=[method]) for path, method, handler in table]


async def _text(
    parse: Callable[[dict[str, Any], bool], TextRequest], api: Api, request: Request, send: Send
) -> None:
    body = parse_object(await api.bodies.read(request))
    key = _key(request, body)
    wanted = parse(body, api.settings.lenient)
    options = wanted.options(api.version(wanted.model), api.settings.api_timeout, api.settings.api_wait)
    with ExitStack() as reading:
        text = reading.enter_context(api.texts.reading(wanted.prompt, options, key))
        await reply(text, wanted, api.settings, request.receive, send, reading.close)


def _key(request: Request, body: dict[str, Any]) -> IdempotencyKey | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY:
        raise bad(
            None, f"the Idempotency-Key has not 1 to {MAX_KEY} characters", code="invalid_idempotency_key"
        )
    return IdempotencyKey(key, canonical([request.url.path, body]))


def _json(found: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(found), status, media_type=JSON)


async def _models(api: Api, _request: Request, _send: Send) -> Response:
    return _json(ModelList(data=list(api.models().values())))


async def _model(api: Api, request: Request, _send: Send) -> Response:
    return _json(api.model(request.path_params["model"]))


async def _plan(api: Api, _request: Request, _send: Send) -> Response:
    now, active = time.monotonic(), api.node.active_versions
    plans = [
        VersionPlan(
            version=version,
            under_way=version in active,
            age_s=None if planned.seen.at is None else max(0.0, now - planned.seen.at),
            plan=plan_told(planned),
            alternatives=list(planned.alternatives),
            estimates=dict(planned.estimates()),
            limits=list(planned.limits),
        )
        for version, planned in sorted(api.node.plans.items())
    ]
    return _json(PlanList(data=plans))


async def _document(_api: Api, _request: Request, _send: Send) -> Response:
    return Response(_encoded_document(), media_type=JSON)


@cache
def _encoded_document() -> bytes:
    """The OpenAPI document; it is about the server that it comes from."""
    return msgspec.json.encode({**document(), "servers": [{"url": "/"}]})


async def _health(_api: Api, _request: Request, _send: Send) -> Response:
    return _json(Health("ok"))


async def _ready(api: Api, _request: Request, _send: Send) -> Response:
    if (why := api.not_ready()) is not None:
        return _json(Health("not ready", why), 503)
    return _json(Health("ready", api.node.models.differing() or UNSET))


async def _metrics(api: Api, _request: Request, _send: Send) -> Response:
    return Response(api.metrics.page(), headers={"content-type": CONTENT_TYPE_LATEST})


def refuse(_request: Request, error: Exception) -> Response:
    """Refuse what the router could not find, in the shape of all errors.

    Raises:
        ApiError: 404 or 405.
    """
    status = getattr(error, "status_code", 404)
    said = "this path is for another method" if status == 405 else "there is no such path"
    raise ApiError(status, said, code="not_found" if status == 404 else "method_not_allowed")
