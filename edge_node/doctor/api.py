"""The port of the API: free, taken by ourselves, or taken by somebody else."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_node.api.client import get, reached_at
from flexspec_mq.doctor.machine import port_complaint, who_listens

if TYPE_CHECKING:
    from edge_node.api.settings import ApiSettings
    from flexspec_mq.doctor.findings import Findings


@dataclass(frozen=True, slots=True)
class Answering:
    """An edge node that serves its API on this machine.

    Attributes:
        ready: what its ``/readyz`` says against it; empty if it can write.
    """

    host: str
    port: int
    ready: str

    @property
    def url(self) -> str:
        """For people."""
        return f"http://{self.host}:{self.port}"


def check_api(findings: Findings, options: ApiSettings) -> Answering | None:
    """Whether the API could listen; the edge node that does so already, if it is one of ours. Blocks."""
    findings.tell("looking at the API's port")
    host, port = options.api_host, options.api_port
    if port == 0:
        findings.ok("api", "the API takes any free port")
        return None
    why = port_complaint(host, port)
    if not why:
        findings.ok("api", f"{host}:{port} is free for the API")
        return None
    if why != "taken":
        detail = f"the API cannot listen on {host}:{port}: {why}"
        findings.fail("api", "port taken", detail, "give an address and a port that this user may have")
        return None
    found = our_node(reached_at(host), port)
    who = who_listens(port)
    if found is None:
        by = f" by {who}" if who else ""
        detail = f"{host}:{port}, where the API is to listen, is taken{by}"
        findings.fail("api", "port taken", detail, "stop that, or give the API another port: --api-port N")
    elif found.ready:
        detail = f"an edge node serves {found.url} already, and is not ready: {found.ready}"
        findings.warn("api", detail, "what is wrong is among the other findings")
    else:
        findings.ok("api", f"already running: an edge node serves {found.url}{f', {who}' if who else ''}")
    return found


def our_node(host: str, port: int) -> Answering | None:
    """The edge node that answers there; None if it is something else."""
    try:
        healthy, said = get(host, port, "/healthz")
        if healthy != 200 or said != {"status": "ok"}:
            return None
        status, said = get(host, port, "/readyz")
    except (OSError, http.client.HTTPException, ValueError):
        return None
    if status == 200 and said.get("status") == "ready":
        return Answering(host, port, "")
    if status == 503 and said.get("status") == "not ready":
        return Answering(host, port, str(said.get("reason", "")) or "it does not say why")
    return None
