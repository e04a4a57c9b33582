"""One request to an API on this machine, for commands beside the node that serves it. Blocks."""

from __future__ import annotations

import http.client
import json
from typing import Any

_SECONDS = 3.0
_MOST = 2**22
"""Bytes of an answer that are read."""


def reached_at(host: str) -> str:
    """By what this machine reaches an API that listens on a host's addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound


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
