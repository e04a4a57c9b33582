"""A name for each request, in the header ``x-request-id`` of its answer."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
LOGGED = "flexspec.request_id"
"""Key of the scope: the id of an answer that is not a text."""

_SANE = re.compile(r"[\x21-\x7e]{1,128}")


def new_id() -> str:
    """An id that no other request has."""
    return f"req-{secrets.token_hex(12)}"


class RequestIds:
    """Sees to it that every answer has an id: the client's own, else the text's, else a new one.

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
                said = next((value for name, value in headers if name == HEADER), None)
                headers = [header for header in headers if header[0] != HEADER]
                message = {**message, "headers": [*headers, (HEADER, own or said or fallback)]}
            await send(message)

        await self._app(scope, receive, named)
