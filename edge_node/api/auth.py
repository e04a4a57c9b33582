"""What every request passes: the host's name, the key, errors in one shape, and the count."""

from __future__ import annotations

import hmac
import logging
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from edge_node.api.errors import CLIENT_GONE, ApiError, api_error
from edge_node.api.streaming import send_error
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.settings.hosts import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from edge_node.api.metrics import Metrics
    from edge_node.api.settings import ApiSettings

OPEN = ("/healthz", "/readyz")
"""Paths that need no key: they tell nothing but whether the node works."""

_log = logging.getLogger(__name__)


class Gate:
    """The outermost layer of the app.

    Args:
        app: what is behind it.
        settings: key and host.
        metrics: counts requests.
        paths: that a request is counted under; all others are ``other``, so that the number of series is bounded.
    """

    def __init__(self, app: ASGIApp, settings: ApiSettings, metrics: Metrics, paths: tuple[str, ...]) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

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
            if error.status == CLIENT_GONE:
                status = CLIENT_GONE
            elif not status:
                await send_error(counted, error)
        except Exception:  # noqa: BLE001  the top of a request; logged with its traceback
            _log.exception("a request to %s failed", self._label(scope))
            if not status:
                await send_error(
                    counted, ApiError(500, "the edge node failed; its log says how", code="internal")
                )
        finally:
            self._metrics.requests.labels(self._label(scope), str(status or CLIENT_GONE)).inc()

    def _label(self, scope: Scope) -> str:
        path = scope["path"]
        return next((one for one in self._paths if path == one or path.startswith(f"{one}/")), "other")

    def _check(self, scope: Scope) -> None:
        """Refuse a page in a browser that reached us by a name of its own, and whoever lacks the key.

        Raises:
            ApiError: 403 or 401.
        """
        headers = Headers(scope=scope)
        host = _host(headers.get("host", ""))
        if self._settings.loopback and host and not is_loopback(host):
            raise ApiError(403, f"this API is not {host}", code="wrong_host", hint="use http://127.0.0.1")
        key = self._settings.api_key
        if key is None or scope["path"] in OPEN:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
            raise ApiError(
                401, "the API key is missing or wrong", code="invalid_api_key", hint="Authorization: Bearer …"
            )


def _host(header: str) -> str:
    """The host of a Host header without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()
