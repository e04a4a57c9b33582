"""The app around an edge node that runs: the state that its paths share, the paths and their handlers."""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_node.api import ollama
from edge_node.api.auth import HEADER, AuthMiddleware, ClientRefusals, RequestIds
from edge_node.api.bodies import Bodies, canonical, parse_object
from edge_node.api.errors import ApiError, bad
from edge_node.api.requests import chat_request, completion_request
from edge_node.api.responses import ResponseStore, client_of, responses_request
from edge_node.api.sending import IGNORED, reply
from edge_node.completion.completion import IdempotencyKey
from edge_node.completion.generator import CompletionGenerator, plan_told
from edge_node.completion.metrics import Metrics
from edge_node.completion.options import SEED_BITS, WHOLE_CONTEXT
from edge_node.completion.store import CompletionStore
from schemas.openai import Health, Model, ModelList, ModelVersion
from schemas.openapi import document
from schemas.plan import PlanList, VersionPlan
from schemas.responses import ResponseDeleted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.types import Receive, Scope, Send

    from edge_node.api.ollama import OllamaRequest
    from edge_node.api.sending import TextRequest
    from edge_node.api.settings import ApiSettings
    from edge_node.completion.options import CompletionOptions
    from edge_node.node import EdgeNode
    from flexspec_mq.controller.plan import Policy
    from flexspec_mq.models.load import LoadedText

    Handler = Callable[["Api", Request, Send], Awaitable[Response | None]]

_JSON = "application/json"
_log = logging.getLogger(__name__)
MAX_KEY = 255
"""Characters of an idempotency key."""


@dataclass(frozen=True, slots=True)
class Api:
    """State that the routes share.

    Attributes:
        bodies: bodies of the requests that are being read.
        responses: responses that later ones may go on from.
        since: seconds since the Unix epoch at which the app was made.
    """

    settings: ApiSettings
    texts: CompletionStore
    node: EdgeNode
    metrics: Metrics
    refusals: ClientRefusals
    bodies: Bodies
    responses: ResponseStore
    since: int

    def versions(self) -> dict[str, int]:
        """Versions that can be asked for, and since when; the node's own also while no worker is known."""
        own = self.node.version
        online = {version: epoch // 1000 for version, epoch in self.node.directory.versions().items()}
        return {own: online.get(own, self.since)} | online

    def models(self) -> dict[str, Model]:
        """All that can be asked for now, by id."""
        if self.node.models.followed is None:
            return {name: Model(id=name, created=since) for name, since in sorted(self.versions().items())}
        return {
            name: Model(
                id=name,
                created=since // 1000,
                flexspec=ModelVersion(
                    version=version.name,
                    state=version.state.name.lower(),
                    digest=version.digest.hex(),
                    share=version.share,
                    draft="independent" if version.base else "shared",
                ),
            )
            for name, since, version in self.node.models.listed()
        }

    async def version(self, asked: str | None) -> str | None:
        """The version that a request means; with a family what it asks for, which means one when its text opens.

        Raises:
            ApiError: 404.
        """
        if self.node.models.followed is not None:
            return asked and asked.removesuffix(ollama.LATEST)
        if asked is None:
            return self.node.version
        if asked not in self.versions():
            await self.node.directory.refreshed()
        known = self.versions()
        if asked not in known and (asked := asked.removesuffix(ollama.LATEST)) not in known:
            raise _unknown(asked, sorted(known))
        return asked

    async def model(self, asked: str) -> Model:
        """A name that can be asked for, and its meaning.

        Raises:
            ApiError: 404.
        """
        await self.node.directory.refreshed()
        known = self.models()
        if asked not in known and (asked := asked.removesuffix(ollama.LATEST)) not in known:
            raise _unknown(asked, sorted(known))
        return known[asked]

    def not_ready(self) -> str:
        """Why no text can be written now; empty when it can."""
        if not self.node.link.is_up:
            return "the edge node has no link to its broker"
        return self.node.lapsed or self.node.models.not_ready()


def _unknown(asked: str, known: list[str]) -> ApiError:
    return ApiError(
        404,
        f"there is no model {asked!r} here",
        code="model_not_found",
        param="model",
        hint=f"there is {', '.join(known) or 'none now'}",
    )


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


async def _text(
    parse: Callable[[dict[str, Any], bool], TextRequest], api: Api, request: Request, send: Send
) -> None:
    body = parse_object(await api.bodies.read(request))
    await serve_text(api, parse(body, api.settings.lenient), body, request, send)


async def _respond(api: Api, request: Request, send: Send) -> None:
    parse = partial(responses_request, store=api.responses, client=client_of(request))
    await _text(parse, api, request, send)


async def _response(api: Api, request: Request, _send: Send) -> Response:
    kept = api.responses.get(client_of(request), request.path_params["response"])
    return _json(kept.response)


async def _delete_response(api: Api, request: Request, _send: Send) -> Response:
    name = request.path_params["response"]
    api.responses.delete(client_of(request), name)
    return _json(ResponseDeleted(id=name))


async def _ollama_text(
    parse: Callable[[dict[str, Any], bool], OllamaRequest], api: Api, request: Request, send: Send
) -> Response | None:
    body = parse_object(await api.bodies.read(request, typed=False))
    wanted = parse(body, api.settings.lenient)
    if wanted.loads is None:
        await serve_text(api, wanted, body, request, send)
        return None
    await api.model(wanted.asked_model)
    return Response(wanted.encoded(done=True, done_reason=wanted.loads), media_type=_JSON)


async def serve_text(
    api: Api, wanted: TextRequest, body: dict[str, Any], request: Request, send: Send
) -> None:
    """Write the texts that a request asks for, and send them.

    Raises:
        ApiError: nothing was sent.
    """
    key = _key(request, body)
    if wanted.ignored:
        _log.warning(
            "fields of a request to %s were ignored: %s", request.url.path, ", ".join(wanted.ignored)
        )
    version = await api.version(wanted.model)
    options = wanted.options(version, api.settings.api_timeout)
    with ExitStack() as reading:
        texts = [
            reading.enter_context(api.texts.reading(wanted.prompt, each, name))
            for each, name in _choices(options, wanted.choices, key)
        ]
        await reply(texts, wanted, api.settings, request.receive, send, reading.close)


def _choices(
    options: CompletionOptions, count: int, key: IdempotencyKey | None
) -> Iterator[tuple[CompletionOptions, IdempotencyKey | None]]:
    """Options and key of each text of a request; their seeds follow each other."""
    if count == 1:
        yield options, key
        return
    seed = options.seed
    if seed is None:
        seed = secrets.randbits(SEED_BITS) if key is None else key.seed
    for at in range(count):
        name = None if key is None else IdempotencyKey(f"{key.key}\0{at}", key.digest)
        yield replace(options, seed=(seed + at) % 2**64), name


def _key(request: Request, body: dict[str, Any]) -> IdempotencyKey | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY:
        raise bad(
            None, f"the Idempotency-Key has not 1 to {MAX_KEY} characters", code="invalid_idempotency_key"
        )
    return IdempotencyKey(key, blake2b(canonical([request.url.path, body])).digest())


def _json(body: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type=_JSON)


async def _models(api: Api, _request: Request, _send: Send) -> Response:
    await api.node.directory.refreshed()
    return _json(ModelList(data=list(api.models().values())))


async def _model(api: Api, request: Request, _send: Send) -> Response:
    return _json(await api.model(request.path_params["model"]))


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
    return Response(_encoded_document(), media_type=_JSON)


@cache
def _encoded_document() -> bytes:
    """The OpenAPI document; it is about the server that it comes from."""
    return msgspec.json.encode({**document(), "servers": [{"url": "/"}]})


async def _health(_api: Api, _request: Request, _send: Send) -> Response:
    return _json(Health("ok"))


async def _ready(api: Api, _request: Request, _send: Send) -> Response:
    if why := api.not_ready():
        return _json(Health("not ready", why), 503)
    return _json(Health("ready", api.node.models.differing() or UNSET))


async def _metrics(api: Api, _request: Request, _send: Send) -> Response:
    return Response(api.metrics.page(), headers={"content-type": CONTENT_TYPE_LATEST})


def _refuse(request: Request, error: Exception) -> Response:
    """Refuse what the router could not find, in the shape of all errors.

    Raises:
        ApiError: 404, 405 or 501.
    """
    if advice := ollama.LACKING.get(request.url.path.removeprefix("/api/")):
        raise ApiError(501, f"{request.url.path} is not done here", code="not_implemented", hint=advice)
    status = getattr(error, "status_code", 404)
    message = "this path is for another method" if status == 405 else "there is no such path"
    raise ApiError(status, message, code="not_found" if status == 404 else "method_not_allowed")


_TABLE: tuple[tuple[str, str, Handler], ...] = (
    ("/v1/chat/completions", "POST", partial(_text, chat_request)),
    ("/v1/completions", "POST", partial(_text, completion_request)),
    ("/v1/responses", "POST", _respond),
    ("/v1/responses/{response}", "GET", _response),
    ("/v1/responses/{response}", "DELETE", _delete_response),
    ("/api/chat", "POST", partial(_ollama_text, ollama.chat_request)),
    ("/api/generate", "POST", partial(_ollama_text, ollama.generate_request)),
    *ollama.TABLE,
    ("/v1/models", "GET", _models),
    ("/v1/models/{model:path}", "GET", _model),
    ("/v1/plan", "GET", _plan),
    ("/openapi.json", "GET", _document),
    ("/healthz", "GET", _health),
    ("/readyz", "GET", _ready),
    ("/metrics", "GET", _metrics),
)
PATHS = tuple(path for path, _, _ in _TABLE if "{" not in path)
"""Paths by which requests are counted."""


def create_app(
    node: EdgeNode,
    model: LoadedText,
    *,
    policy: Callable[[], Policy],
    settings: ApiSettings,
) -> Starlette:
    """Make the app.

    Args:
        node: runs for as long as the app does.
        model: whose tokenizer is the targets'.
        policy: makes the policy of each session.
        settings: settings of the API.

    Returns:
        The app; `app.state.api` is its `Api`.
    """
    metrics = Metrics(node)
    limit = settings.api_max_tokens or WHOLE_CONTEXT
    generator = CompletionGenerator(node, model, policy, limit)
    texts = CompletionStore(generator, settings, metrics)
    refusals = ClientRefusals(metrics.refused)
    api = Api(
        settings, texts, node, metrics, refusals, Bodies(settings), ResponseStore(settings), int(time.time())
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
        expose_headers=(HEADER.decode(), "retry-after", IGNORED),
    )
    return [cors]
