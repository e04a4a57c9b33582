"""State that all paths share, and the texts that requests ask for, from any API."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from edge_node.api.errors import CLIENT_GONE, ApiError, api_error, bad
from edge_node.api.forms import ApiRequest
from edge_node.api.http.auth import ClientRefusals
from edge_node.api.http.bodies import Bodies, canonical, parse_object
from edge_node.api.ollama import LATEST
from edge_node.api.parsers import PARSERS, resumed
from edge_node.api.response_store import ResponseStore, client_of
from edge_node.api.sending import reply, unknown_event
from edge_node.api.settings import ApiSettings
from edge_node.text.spec import SEED_BITS, IdempotencyKey, TextSpec, is_local
from edge_node.text.texts import Texts
from edge_node.text.voice import NoVoice
from flexspec_mq import entropy
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.telemetry import Carrier, Telemetry, context_of
from schemas.openai import LOCAL_ONLY, Model, ModelVersion

if TYPE_CHECKING:
    from starlette.types import Send

    from edge_node.node import EdgeNode
    from edge_node.text.metrics import Metrics

    Handler = Callable[["Api", Request, Send], Awaitable[Response | None]]
    """Answers a request, or has sent its answer by itself."""

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
    texts: Texts
    node: EdgeNode
    metrics: Metrics
    refusals: ClientRefusals
    bodies: Bodies
    responses: ResponseStore
    since: int

    def versions(self) -> dict[str, int]:
        """Versions that can be asked for, and since when; the node's own also while no worker is known."""
        own = self.node.settings.version
        online = {version: epoch // 1000 for version, epoch in self.node.directory.versions().items()}
        return {own: online.get(own, self.since)} | online

    def models(self) -> dict[str, Model]:
        """All that can be asked for now, by id; the device's own model the last."""
        voice = self.texts.voice
        own = (
            {}
            if voice is None
            else {LOCAL_ONLY: Model(id=LOCAL_ONLY, created=self.since, max_model_len=voice.text.max_context)}
        )
        return self._of_targets() | own

    def _of_targets(self) -> dict[str, Model]:
        if self.node.models.followed is None:
            return {
                name: Model(id=name, created=since, max_model_len=self._context(name))
                for name, since in sorted(self.versions().items())
            }
        return {
            name: Model(
                id=name,
                created=since // 1000,
                max_model_len=self._context(version.name),
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

    def _context(self, version: str) -> int | UnsetType:
        texts, status = self.node.texts, self.node.directory.status(version)
        text = None if texts is None or status is None else texts.of(status)
        return UNSET if text is None or isinstance(text, str) or text.served else text.max_context

    async def resolved(self, spec: TextSpec) -> TextSpec:
        """A request with the version and the mode that it means.

        Raises:
            ApiError: 404; or it must not leave the device, and nothing here can write it.
        """
        mode = spec.offline or self.settings.offline
        if is_local(mode, spec.version):
            if self.texts.voice is None:
                raise api_error(NoVoice())
            return replace(spec, version=None, offline=LOCAL_ONLY)
        if spec.inputs and mode == "provisional":
            mode = "hold"  # no draft writes vectors
        return replace(spec, version=await self.version(spec.version), offline=mode)

    async def version(self, asked: str | None) -> str | None:
        """The version that a request means; with a family what it asks for, which means one when its text opens.

        Raises:
            ApiError: 404.
        """
        if self.node.models.followed is not None:
            return asked and asked.removesuffix(LATEST)
        if asked is None:
            return None
        if asked not in self.versions():
            await self.node.directory.refreshed()
        known = self.versions()
        here = asked in known or (asked := asked.removesuffix(LATEST)) in known
        if not here and self.node.link.is_up:  # without a link nobody can know
            raise _unknown(asked, sorted(known))
        return asked

    async def model(self, asked: str) -> Model:
        """A name that can be asked for, and its meaning.

        Raises:
            ApiError: 404.
        """
        await self.node.directory.refreshed()
        known = self.models()
        if asked not in known and (asked := asked.removesuffix(LATEST)) not in known:
            raise _unknown(asked, sorted(known))
        return known[asked]


def _unknown(asked: str, known: list[str]) -> ApiError:
    return ApiError(
        404,
        f"there is no model {asked!r} here",
        code="model_not_found",
        param="model",
        hint=f"there is {', '.join(known) or 'none now'}",
    )


async def serve_text(api: Api, request: Request, send: Send) -> Response | None:
    """Write the texts that a request asks for, and send them.

    Raises:
        ApiError: nothing was sent.
    """
    path, client = request.url.path, client_of(request)
    raw = await api.bodies.read(request, typed=not path.startswith("/api/"))
    work = partial(api.bodies.work, len(raw))
    body = await work(parse_object, raw)
    local = is_local(body.get("offline"), body.get("model"))
    with _request_span(None if local else api.node.telemetry, request) as context:
        key, outbox = await work(_key, request, body, client), api.texts.outbox
        entry = None if key is None else await outbox.run(outbox.journal.under, key.key)
        since = request.headers.get("last-event-id")
        if since and entry is None:
            raise unknown_event(since)  # nothing is begun for it
        if entry is not None and key is not None and entry.digest == key.digest:
            wanted = resumed(entry)
        else:
            wanted = await work(PARSERS[path], body, api.settings.lenient, client, api.responses)
            if (instead := wanted.instead) is not None:
                await api.model(wanted.spec.version or "")
                return Response(instead, media_type="application/json")
            spec = await api.resolved(wanted.spec)
            if key is None and spec.offline == "deliver":
                key = await work(_named, entropy.name(16), path, body, client)
            timeout = api.settings.api_timeout if key is None else None  # else its patience is its bound
            wanted = replace(wanted, spec=replace(spec, timeout=timeout))
        wanted = replace(wanted, spec=replace(wanted.spec, trace_context=context))
        if wanted.ignored:
            _log.warning("fields of a request to %s were ignored: %s", path, wanted.ignored_names)
        async with AsyncExitStack() as reading:
            texts = [
                await reading.enter_async_context(api.texts.reading(each, name))
                for each, name in _choices(wanted, key)
            ]
            receive, settings = request.receive, api.settings
            await reply(texts, wanted, api.responses, settings, receive, send, reading.aclose, since)
    return None


@contextmanager
def _request_span(telemetry: Telemetry | None, request: Request) -> Iterator[Carrier]:
    """The span of a request, which ends with the block; yields the context of what it asks for."""
    context = context_of(request.headers)
    if telemetry is None:
        yield context
        return
    method, path, status = request.method, request.url.path, 200
    about = {
        "http.request.method": method,
        "http.route": path,
        "url.path": path,
        "url.scheme": request.url.scheme,
    }
    span, within = telemetry.start(f"{method} {path}", "SERVER", context, about)
    try:
        yield within
    except FlexSpecError as error:
        status = api_error(error).status
        raise
    except BaseException as error:
        status = 500 if isinstance(error, Exception) else CLIENT_GONE
        raise
    finally:
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(telemetry.failed)
        span.end()


def _choices(
    wanted: ApiRequest, key: IdempotencyKey | None
) -> Iterator[tuple[ApiRequest, IdempotencyKey | None]]:
    """Each text of a request, and its key; their seeds follow each other."""
    if wanted.choices == 1:
        yield wanted, key
        return
    seed = wanted.spec.seed
    if seed is None:
        seed = entropy.bits(SEED_BITS) if key is None else key.seed
    for at in range(wanted.choices):
        name = key and replace(key, key=f"{key.key}\0{at}" if at else key.key, choice=at)
        yield replace(wanted, spec=replace(wanted.spec, seed=(seed + at) % 2**64)), name


def _key(request: Request, body: dict[str, Any], client: bytes) -> IdempotencyKey | None:
    """The key that the client gives a request."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_KEY:
        raise bad(
            None, f"the Idempotency-Key has not 1 to {MAX_KEY} characters", code="invalid_idempotency_key"
        )
    return None if key is None else _named(key, request.url.path, body, client)


def _named(key: str, path: str, body: dict[str, Any], client: bytes) -> IdempotencyKey:
    return IdempotencyKey(key, blake2b(canonical([path, body])).digest(), path, client=client)
