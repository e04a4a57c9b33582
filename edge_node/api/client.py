"""Requests to an API on this machine, for commands beside the node that serves it. Blocks."""

import http.client
import json
import time
from typing import Any, NamedTuple

import msgspec

from flexspec_mq import waiting
from flexspec_mq.daemon.words import duration
from schemas.status import ConnectionStatus

_MOST = 2**26
"""Bytes of an answer that are read."""


def reached_at(host: str) -> str:
    """The address by which this machine reaches an API that listens on a host's addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound


class RunningNode(NamedTuple):
    """An edge node that serves its API on this machine.

    Attributes:
        not_ready: reason of its ``/readyz``; empty if it can write.
        state: online, degraded or offline, and since when, in words; empty where it does not say.
    """

    host: str
    port: int
    not_ready: str
    state: str = ""

    @property
    def url(self) -> str:
        """Its address, for people."""
        return f"http://{self.host}:{self.port}"


def find_node(host: str, port: int) -> RunningNode | None:
    """Return the edge node that answers there; None if it is something else."""
    try:
        if ask(host, port, "/healthz") != (200, {"status": "ok"}):
            return None
        status, answer = ask(host, port, "/readyz")
    except (OSError, http.client.HTTPException, ValueError):
        return None
    if (status, answer.get("status")) not in ((200, "ready"), (503, "not ready")):
        return None
    reason = "" if status == 200 else str(answer.get("reason", "")) or "it does not say why"
    try:
        connection = msgspec.convert(answer.get("connection"), ConnectionStatus)
    except msgspec.ValidationError:  # an older one
        return RunningNode(host, port, reason)
    state = f"{connection.state} for {duration(max(time.time() - connection.since, 0.0))}"
    return RunningNode(host, port, reason, state)


def ask(
    host: str,
    port: int,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    key: str | None = None,
    timeout: float = waiting.CONNECT,
) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of a GET, or of a POST where there is a body, unless another method is named.

    Raises:
        OSError, http.client.HTTPException, ValueError: there is no such answer.
    """
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        if body is None:
            connection.request(method or "GET", path, headers=headers)
        else:
            headers["content-type"] = "application/json"
            connection.request(method or "POST", path, json.dumps(body), headers)
        with connection.getresponse() as answer:
            body = json.loads(answer.read(_MOST))
    finally:
        connection.close()
    if not isinstance(body, dict):
        raise ValueError("the answer is no JSON object")  # noqa: TRY004  the callers expect it
    return answer.status, body
