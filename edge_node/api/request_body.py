"""Requests' bodies: bounded in size and time, each and all together, before anything parses them."""

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


class Bodies:
    """The bodies that are being read.

    Args:
        settings: settings of the API.

    Attributes:
        held: bytes of them that have come.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self.held = 0

    async def read(self, request: Request) -> bytes:
        """The body of a request that says to be JSON.

        Raises:
            ApiError: 415, another type; 413, too long; 408, too slow; 503, too many at a time; 499, the client went
                away.
        """
        settings = self._settings
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
        found = bytearray()
        try:
            async with asyncio.timeout(settings.body_timeout):
                await self._read_into(found, request)
        except TimeoutError:
            raise ApiError(
                408, f"the body did not arrive within {settings.body_timeout:g} s", code="body_timeout"
            ) from None
        finally:
            self.held -= len(found)
        return bytes(found)

    async def _read_into(self, found: bytearray, request: Request) -> None:
        more = True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise gone()
            part, more = message.get("body", b""), message.get("more_body", False)
            found += part
            self.held += len(part)
            if len(found) > self._settings.max_body:
                raise _too_long(self._settings.max_body)
            if self.held > self._settings.max_bodies:
                raise ApiError(503, "too many long requests are being read", code="overloaded", retry_after=1)


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"the body has more than {most} bytes", code="body_too_long")
