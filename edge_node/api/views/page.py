"""The page at ``/``: static files beside this package, the same for everybody, so they need no key."""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response

from edge_node.api.errors import ApiError
from edge_node.api.http.auth import PAGE

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Send

    from edge_node.api.serving import Api

_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
VENDORED = "vendored"
"""Folder of others' modules, unchanged; vendored.toml there says which they are."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "vary": "accept",
}


@cache
def _page() -> dict[str, tuple[bytes, dict[str, str]]]:
    """All files, and their headers, by name."""
    found = {}
    page = files("edge_node").joinpath("page")
    for folder, below in ((page, ""), (page.joinpath(VENDORED), f"{VENDORED}/")):
        for file in folder.iterdir():
            if kind := _KINDS.get(file.name.rpartition(".")[2]):
                body = file.read_bytes()
                tag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
                found[below + file.name] = body, {**_HEADERS, "content-type": kind, "etag": tag}
    return found


def _file(name: str, request: Request) -> Response:
    if name not in _page():
        raise ApiError(404, "there is no such file of the page", code="not_found")
    body, headers = _page()[name]
    if headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(
            status_code=304, headers={name: headers[name] for name in ("etag", "cache-control", "vary")}
        )
    return Response(body, headers=headers)


async def _root(_api: Api, request: Request, _send: Send) -> Response:
    """Answer browsers with the page, and all others, Ollama's clients among them, as Ollama does."""
    if "text/html" in request.headers.get("accept", ""):
        return _file("index.html", request)
    return PlainTextResponse("Ollama is running", headers={"vary": "accept"})


async def _below(_api: Api, request: Request, _send: Send) -> Response:
    return _file(request.path_params["file"], request)


TABLE = (("/", "GET", _root), (PAGE + "{file:path}", "GET", _below))
"""Paths, methods and handlers."""
