"""The app around an edge node that runs: the paths and their handlers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_node.api.errors import ApiError, bad
from edge_node.api.http.auth import HEADER, AuthMiddleware, ClientRefusals, RequestIds
from edge_node.api.http.bodies import Bodies, json_answer
from edge_node.api.parsers import PARSERS, from_body
from edge_node.api.response_store import ResponseStore, client_of
from edge_node.api.sending import IGNORED, OUTBOX
from edge_node.api.serving import Api, serve_text
from edge_node.api.settings import ApiSettings
from edge_node.api.views import models, outbox, page
from edge_node.api.views.events import events
from edge_node.outbox.journal import Journal
from edge_node.outbox.outbox import Outbox
from edge_node.text.generator import CompletionGenerator
from edge_node.text.metrics import Metrics
from edge_node.text.spec import WHOLE_CONTEXT
from edge_node.text.texts import Texts
from flexspec_mq import entropy
from flexspec_mq.controller.plan import Policy
from flexspec_mq.daemon.instruments import CONTENT_TYPE
from schemas.openai import Health
from schemas.openapi import document
from schemas.responses import ResponseDeleted

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from edge_node.api.serving import Handler
    from edge_node.node import EdgeNode
    from flexspec_mq.models.load import LoadedText

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path of the app, as an ASGI app of its own: it sees when its client goes away."""

    api: Api
    handler: Handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        response = await self.handler(self.api, Request(scope, receive), send)
        if response is not None:
            await response(scope, receive, send)


async def _document(_api: Api, _request: Request, _send: Send) -> Response:
    return Response(_encoded_document(), media_type=_JSON)


@cache
def _encoded_document() -> bytes:
    """The OpenAPI document; it is about the server that it comes from."""
    return msgspec.json.encode({**document(), "servers": [{"url": "/"}]})


async def _health(_api: Api, _request: Request, _send: Send) -> Response:
    return json_answer(Health("ok"))


async def _ready(api: Api, _request: Request, _send: Send) -> Response:
    connection = api.node.state.look()
    if why := api.node.state.not_ready:
        return json_answer(Health("not ready", why, connection), 503)
    return json_answer(Health("ready", api.node.models.differing() or UNSET, connection))


async def _metrics(api: Api, _request: Request, _send: Send) -> Response:
    return Response(api.metrics.page(), headers={"content-type": CONTENT_TYPE})


async def _response(api: Api, request: Request, _send: Send) -> Response:
    if request.query_params.get("stream", "false") != "false":
        raise bad("stream", "a response that is over is not streamed again; ask without stream")
    return json_answer(api.responses.get(client_of(request), request.path_params["response"]).response)


async def _delete_response(api: Api, request: Request, _send: Send) -> Response:
    name = request.path_params["response"]
    api.responses.delete(client_of(request), name)
    return json_answer(ResponseDeleted(id=name))


def _refuse(request: Request, error: Exception) -> Response:
    """Refuse what the router could not find, in the shape of all errors.

    Raises:
        ApiError: 404, 405, or 501 to clients of Ollama; OpenAI's would ask again.
    """
    api, name = [*request.url.path.split("/")[1:3], "", ""][:2]
    if api in {"api", "v1"} and (advice := models.LACKING.get(name)):
        lacking, status = f"{request.url.path[:80]} is not done here", 501 if api == "api" else 404
        raise ApiError(status, lacking, code="not_implemented", hint=advice)
    status = getattr(error, "status_code", 404)
    message = "this path is for another method" if status == 405 else "there is no such path"
    raise ApiError(status, message, code="not_found" if status == 404 else "method_not_allowed")


_TABLE: tuple[tuple[str, str, Handler], ...] = (
    *((path, "POST", serve_text) for path in PARSERS),
    ("/v1/responses/{response}", "GET", _response),
    ("/v1/responses/{response}", "DELETE", _delete_response),
    *models.TABLE,
    *page.TABLE,
    ("/v1/events", "GET", events),
    *outbox.TABLE,
    ("/openapi.json", "GET", _document),
    ("/healthz", "GET", _health),
    ("/readyz", "GET", _ready),
    ("/metrics", "GET", _metrics),
)
PATHS = tuple(path for path, _, _ in _TABLE if "{" not in path)
"""Paths by which requests are counted."""


def create_app(
    node: EdgeNode,
    model: LoadedText | None,
    *,
    policy: Callable[[], Policy],
    settings: ApiSettings,
    journal: Journal | None = None,
) -> Starlette:
    """Make the app.

    Args:
        node: runs for as long as the app does.
        model: whose tokenizer is the targets'.
        policy: makes the policy of each session.
        settings: settings of the API.
        journal: keeps requests with a key; without one they are kept in memory.

    Returns:
        The app; `app.state.api` is its `Api`.
    """
    responses = ResponseStore(settings)
    kept = Outbox(journal or Journal(None, settings.bounds), partial(from_body, responses))
    metrics = Metrics(node, kept)
    limit = settings.api_max_tokens or WHOLE_CONTEXT
    generator = CompletionGenerator(node, model, policy, limit, settings.deliver)
    texts = Texts(generator, settings, metrics, kept)
    node.state.waiting = lambda: texts.waiting
    refusals = ClientRefusals(metrics.refused)
    api = Api(
        settings,
        texts,
        node,
        metrics,
        refusals,
        Bodies(settings),
        responses,
        int(entropy.wall()),
    )
    routes = [Route(path, Endpoint(api, handler), methods=[method]) for path, method, handler in _TABLE]
    gate = Middleware(AuthMiddleware, settings=settings, metrics=metrics, refusals=refusals, paths=PATHS)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(RequestIds), *_cors(settings), gate],
        exception_handlers={HTTPException: _refuse},
    )
    app.state.api = api
    return app


def _cors(settings: ApiSettings) -> list[Middleware]:
    if not settings.api_cors_origins:
        return []
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.api_cors_origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=(HEADER.decode(), "retry-after", IGNORED, OUTBOX),
    )
    return [cors]
