"""The app around an edge node that runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from edge_node.api.auth import HEADER, AuthMiddleware, RequestIds
from edge_node.api.refusals import ClientRefusals
from edge_node.api.request_body import Bodies
from edge_node.api.routes import refuse, routes
from edge_node.api.state import Api
from edge_node.completion.generator import CompletionGenerator
from edge_node.completion.metrics import Metrics
from edge_node.completion.options import WHOLE_CONTEXT
from edge_node.completion.store import CompletionStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_node.api.settings import ApiSettings
    from edge_node.node import EdgeNode
    from flexspec_mq.controller.plan import Policy
    from flexspec_mq.models.load import LoadedText

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/v1/plan",
    "/openapi.json",
    "/healthz",
    "/readyz",
    "/metrics",
)
"""Paths by which requests are counted."""


_ONE_TRY = 0.5
"""Seconds for an attempt to connect, which a new text brings about while the link is down: the broker may be back."""


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

    def link_patience() -> float:
        """An outage is told at once when it has lasted; one that began just now may end as soon."""
        return max(settings.link_patience - node.link.down_for, _ONE_TRY)

    limit = settings.api_max_tokens or WHOLE_CONTEXT
    generator = CompletionGenerator(node, model, policy, link_patience, limit)
    texts = CompletionStore(generator, settings, metrics)
    refusals = ClientRefusals(metrics.refused)
    api = Api(settings, texts, node, metrics, refusals, Bodies(settings), int(time.time()))
    app = Starlette(
        routes=routes(api),
        middleware=[
            Middleware(RequestIds),
            *_cors(settings),
            Middleware(AuthMiddleware, settings=settings, metrics=metrics, refusals=refusals, paths=PATHS),
        ],
        exception_handlers={HTTPException: refuse},
    )
    app.state.api = api
    return app


def _cors(settings: ApiSettings) -> list[Middleware]:
    if not settings.api_cors_origins:
        return []
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.api_cors_origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=(HEADER.decode(), "retry-after"),
    )
    return [cors]
