"""The gate of every request: its id, the bound of requests, host and origin, the key, errors in one shape."""

from __future__ import annotations

import hmac
import logging
import re
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from edge_node.api.errors import CLIENT_GONE, ApiError, api_error
from edge_node.api.settings import ApiSettings
from flexspec_mq import entropy
from flexspec_mq.daemon.expiring import LogThrottle
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.settings.values import is_loopback

if TYPE_CHECKING:
    from prometheus_client import Counter
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from edge_node.text.metrics import Metrics

PROBES = ("/healthz", "/readyz")
"""Paths that are answered however many requests are under way."""
OPEN = (*PROBES, "/openapi.json", "/")
"""Paths that need no key: they tell nothing but whether the node works, and what everybody may know of the API."""

PAGE = "/page/"
"""Beginning of the paths of the page's files, which are the same for everybody and need no key either."""

_FOREIGN = ("cross-site", "same-site")
"""Values of Sec-Fetch-Site by which a browser says that a page of another origin asks, with an Origin or without."""

HEADER = b"x-request-id"
NOSNIFF = (b"x-content-type-options", b"nosniff")
"""Header of every answer: no page runs it as another type."""
LOGGED = "flexspec.request_id"
"""Key of the scope: the id of an answer that is not a text."""

REFUSALS = (
    "invalid_api_key",
    "wrong_host",
    "wrong_origin",
    "overloaded",
    "body_timeout",
    "body_too_long",
    "head_timeout",
    "too_many_connections",
    "too_many_asks",
)
"""Why a client is kept out, or cut short; all else that is wrong with a request is its author's business."""
_TELL_EVERY = 10.0
"""Seconds from one line in the log about a client and a reason to the next: nobody fills the log of others."""

_SANE = re.compile(r"[\x21-\x7e]{1,128}")
_log = logging.getLogger(__name__)


class ClientRefusals:
    """Clients that were refused: counted by reason, and said in the log.

    Args:
        counter: counter of refusals, by reason.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._throttle = LogThrottle(_TELL_EVERY)
        for reason in REFUSALS:
            counter.labels(reason)

    def note(self, client: str, reason: str | None, why: str) -> None:
        """Count a refusal, and log it.

        Args:
            client: address.
            reason: code of the error; others than `REFUSALS` are not counted here.
            why: words for people.
        """
        if reason not in REFUSALS:
            return
        self._counter.labels(reason).inc()
        if self._throttle.due(client, reason, entropy.now()):
            _log.warning("client %s was refused, %s: %s", client, reason, why)


class AuthMiddleware:
    """Who may ask, and what everybody is told who may not.

    Args:
        app: the app behind it.
        settings: key, hosts and bound.
        metrics: counts requests.
        refusals: told who was refused.
        paths: paths by which requests are counted; all others are ``other``, so that the number of series is bounded.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ApiSettings,
        metrics: Metrics,
        refusals: ClientRefusals,
        paths: tuple[str, ...],
    ) -> None:
        self._app = app
        self._refusals = refusals
        self._settings = settings
        self._metrics = metrics
        self._paths = paths
        self._asking = 0  # requests, but for probes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        asks = scope["path"] not in PROBES
        self._asking += asks

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, counted)
        except FlexSpecError as raised:
            error = api_error(raised)
            self._refusals.note((scope.get("client") or ("unknown", 0))[0], error.code, error.message)
            if error.status == CLIENT_GONE:
                status = CLIENT_GONE
            elif not status:
                await error.response(scope["path"])(scope, receive, counted)
        except Exception:  # noqa: BLE001  the top of a request; logged with its traceback
            _log.exception("request %s to %s failed", scope[LOGGED], self._label(scope))
            if not status:
                error = ApiError(500, "the edge node failed; its log says how", code="internal")
                await error.response(scope["path"])(scope, receive, counted)
        finally:
            self._asking -= asks
            self._metrics.requests.labels(self._label(scope), str(status or CLIENT_GONE)).inc()

    def _label(self, scope: Scope) -> str:
        path = scope["path"]
        return next((own for own in self._paths if path == own or path.startswith(f"{own}/")), "other")

    def _check(self, scope: Scope) -> None:
        """Refuse what is too much, pages in a browser that nobody named, and who lacks the key.

        A page may reach us by a name of its own that leads here, or from its own place by ours. In the second case it
        could read no answer, but it shall not have one made.

        Raises:
            ApiError: 503, 403 or 401.
        """
        if self._asking > self._settings.max_requests and scope["path"] not in PROBES:
            raise ApiError(503, "too many requests are being answered", code="overloaded", retry_after=1)
        headers = Headers(scope=scope)
        host = _host(headers.get("host", ""))
        known = not host or is_loopback(host) or host in self._settings.api_hosts
        if self._settings.loopback and not known:
            hint = "use http://127.0.0.1, or name the host with --api-hosts"
            raise ApiError(403, f"this API is not {host}", code="wrong_host", hint=hint)
        origin = headers.get("origin")
        public = scope["path"] in OPEN or scope["path"].startswith(PAGE)
        if origin is None:
            may = public or headers.get("sec-fetch-site") not in _FOREIGN
        else:
            may = self._may(origin.lower(), headers.get("host", "").lower())
        if not may:
            who, hint = origin or "another origin", "name it with --api-cors-origins"
            raise ApiError(403, f"pages of {who} may not use this API", code="wrong_origin", hint=hint)
        key = self._settings.api_key
        if key is None or public:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
            raise ApiError(
                401, "the API key is missing or wrong", code="invalid_api_key", hint="Authorization: Bearer …"
            )

    def _may(self, origin: str, host: str) -> bool:
        """Whether pages of an origin may use the API: those that are named, and ours, as a proxy may have some."""
        named = self._settings.api_cors_origins
        return "*" in named or origin in named or origin.partition("://")[2] == host


def _host(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


def new_id() -> str:
    """An id that no other request has."""
    return f"req-{entropy.name(12)}"


class RequestIds:
    """Sees to it that every answer has an id, the client's own, else the text's, else a new one; and `NOSNIFF`.

    Args:
        app: the app that answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get(HEADER.decode(), "")
        own = asked.encode() if _SANE.fullmatch(asked) else None
        fallback = own or new_id().encode()
        scope = {**scope, LOGGED: fallback.decode()}

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", [])]
                given = next((value for name, value in headers if name == HEADER), None)
                headers = [header for header in headers if header[0] != HEADER]
                message = {**message, "headers": [*headers, (HEADER, own or given or fallback), NOSNIFF]}
            await send(message)

        await self._app(scope, receive, named)
