"""One request to an API on this machine, for commands beside the node that serves it. Blocks."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple

_SECONDS = 3.0
_MOST = 2**22
"""Bytes of an answer that are read."""


def reached_at(host: str) -> str:
    """By what this machine reaches an API that listens on a host's addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound


class RunningNode(NamedTuple):
    """An edge node that serves its API on this machine.

    Attributes:
        not_ready: What its ``/readyz`` says against it; empty if it can write.
    """

    host: str
    port: int
    not_ready: str

    @property
    def url(self) -> str:
        """Its address, for people."""
        return f"http://{self.host}:{self.port}"


def find_node(host: str, port: int) -> RunningNode | None:
    """Return the edge node that answers there; None if it is something else."""
    try:
        if get(host, port, "/healthz") != (200, {"status": "ok"}):
            return None
        status, answer = get(host, port, "/readyz")
    except (OSError, http.client.HTTPException, ValueError):
        return None
    if (status, answer.get("status")) not in ((200, "ready"), (503, "not ready")):
        return None
    reason = "" if status == 200 else str(answer.get("reason", "")) or "it does not say why"
    return RunningNode(host, port, reason)


def get(host: str, port: int, path: str, key: str | None = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of a GET.

    Raises:
        OSError, http.client.HTTPException, ValueError: there is no such answer.
    """
    return _request(host, port, "GET", path, None, _headers(key), _SECONDS)


def post(
    host: str, port: int, path: str, body: Any, key: str | None, timeout: float
) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of a POST.

    Raises:
        OSError, http.client.HTTPException, ValueError: there is no such answer.
    """
    headers = {"content-type": "application/json", **_headers(key)}
    return _request(host, port, "POST", path, json.dumps(body), headers, timeout)


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def _request(
    host: str, port: int, method: str, path: str, body: str | None, headers: dict[str, str], timeout: float
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = json.loads(answer.read(_MOST))
    finally:
        connection.close()
    if not isinstance(found, dict):
        raise ValueError("the answer is no JSON object")  # noqa: TRY004  the callers expect it
    return answer.status, found
