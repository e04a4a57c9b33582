"""A request's body: bounded in size and time before anything parses it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edge_node.api.errors import CLIENT_GONE, ApiError

if TYPE_CHECKING:
    from starlette.requests import Request

    from edge_node.api.settings import ApiSettings


def gone() -> ApiError:
    """The client went away. Nobody is told; it counts in the metrics."""
    return ApiError(CLIENT_GONE, "the client went away", code="client_gone")


async def read_body(request: Request, settings: ApiSettings) -> bytes:
    """The body of a request that says to be JSON.

    Raises:
        ApiError: 415, another type; 413, too long; 408, too slow; 499, the client went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page in a browser cannot send this type to us unasked
        raise ApiError(
            415,
            f"the body is of type {kind or 'none'}, not application/json",
            code="unsupported_media_type",
            hint="send the header Content-Type: application/json",
        )
    stated = request.headers.get("content-length", "0")
    if stated.isascii() and stated.isdigit() and int(stated) > settings.max_body:
        raise _too_long(settings.max_body)
    try:
        async with asyncio.timeout(settings.body_timeout):
            return await _read(request, settings.max_body)
    except TimeoutError:
        raise ApiError(
            408, f"the body did not arrive within {settings.body_timeout:g} s", code="body_timeout"
        ) from None


async def _read(request: Request, most: int) -> bytes:
    found = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise gone()
        found += message.get("body", b"")
        if len(found) > most:
            raise _too_long(most)
        if not message.get("more_body", False):
            return bytes(found)


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"the body has more than {most} bytes", code="body_too_long")
