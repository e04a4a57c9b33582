"""Requests that the node keeps: what there is, the text of one, and an end to it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec.structs import replace

from edge_node.api.errors import ApiError
from edge_node.api.http.bodies import json_answer
from edge_node.api.parsers import resumed
from edge_node.api.sending import reply
from edge_node.text.outbox_views import listed, shown
from edge_node.text.texts import key_of
from schemas.node import OutboxDropped, OutboxList, OutboxView

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Send

    from edge_node.api.serving import Api, Handler
    from edge_node.outbox.entries import Entry
    from edge_node.text.machine import Text

View = TypeVar("View", bound=OutboxView)


async def _list(api: Api, _request: Request, _send: Send) -> Response:
    outbox = api.texts.outbox
    views = await outbox.run(listed, outbox.journal)
    return json_answer(OutboxList(data=[_alive(view, api.texts.text(view.id)) for view in views]))


async def _show(api: Api, request: Request, send: Send) -> Response | None:
    entry = await _entry(api, request.path_params["id"])
    if "text/event-stream" in request.headers.get("accept", ""):
        await _stream(api, entry, request, send)
        return None
    return await _shown(api, entry.id)


async def _shown(api: Api, name: str) -> Response:
    outbox = api.texts.outbox
    view = await outbox.run(shown, outbox.journal, name)
    if view is None:
        raise _none(name)
    text = api.texts.text(name)
    view = _alive(view, text)
    if text is not None:
        figures = None if text.figures is None else text.figures()
        reason = (text.end and text.end.reason) or ""
        view = msgspec.structs.replace(
            view, text=text.whole, provisional=text.provisional, reason=reason, figures=figures
        )
    return json_answer(view)


async def _stream(api: Api, entry: Entry, request: Request, send: Send) -> None:
    """Send the text of a request as a stream in the form that this asked for, from its Last-Event-ID on.

    Raises:
        ApiError: it waits for its user, or has failed.
    """
    if entry.state in ("stale", "failed"):
        hint = "POST sends it again" if entry.state == "stale" else "ask again with its key"
        raise ApiError(409, f"there is no text: {entry.error}", code=f"outbox_{entry.state}", hint=hint)
    wanted = replace(resumed(entry), stream=True, choices=1)
    since = request.headers.get("last-event-id")
    async with AsyncExitStack() as reading:
        text = await reading.enter_async_context(api.texts.reading(wanted, key_of(entry)))
        receive, settings = request.receive, api.settings
        await reply([text], wanted, api.responses, settings, receive, send, reading.aclose, since)


async def _send_again(api: Api, request: Request, _send: Send) -> Response:
    entry = await _entry(api, request.path_params["id"])
    if entry.state == "stale":
        await api.texts.outbox.send(entry)
    return await _shown(api, entry.id)


async def _drop(api: Api, request: Request, _send: Send) -> Response:
    entry = await _entry(api, request.path_params["id"])
    await api.texts.drop(entry.id)
    return json_answer(OutboxDropped(id=entry.id))


async def _entry(api: Api, name: str) -> Entry:
    """A request by its id, or by its key, which its client knows before the id.

    Raises:
        ApiError: 404.
    """
    outbox = api.texts.outbox
    entry = await outbox.run(outbox.journal.entry, name) or await outbox.run(outbox.journal.under, name)
    if entry is None:
        raise _none(name)
    return entry


def _alive(view: View, text: Text | None) -> View:
    """A request with the tokens of its text that is being written, which the journal learns a little later."""
    if text is None or text.figures is None:
        return view
    state = "writing" if view.state == "queued" else view.state
    return msgspec.structs.replace(view, tokens=text.figures().tokens, state=state)


def _none(name: str) -> ApiError:
    hint = "only requests with an idempotency key are kept, for as long as `outbox_for` says"
    return ApiError(404, f"there is no request {name[:80]!r} in the outbox", code="not_found", hint=hint)


TABLE: tuple[tuple[str, str, Handler], ...] = (
    ("/v1/outbox", "GET", _list),
    ("/v1/outbox/{id:path}", "GET", _show),
    ("/v1/outbox/{id:path}", "POST", _send_again),
    ("/v1/outbox/{id:path}", "DELETE", _drop),
)
"""Paths, methods and handlers."""
