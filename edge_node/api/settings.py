"""What the API is told when it starts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from edge_node.completion.limits import CompletionLimits
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.hosts import is_loopback

_POSITIVE = (
    "max_texts",
    "max_readers",
    "max_body",
    "timeout",
    "link_patience",
    "send_timeout",
    "head_timeout",
    "body_timeout",
)
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:]+")
_ORIGIN = re.compile(r"https?://[a-z0-9.\[\]:_-]+|null")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings(CompletionLimits):
    """One API server; `CompletionLimits` says how much it takes on, beyond which it answers 429.

    Attributes, times in seconds and sizes in bytes:
        version: target version of the edge node; the model that is used when a request names none.
        host: address to listen on.
        port: 0 takes a free one.
        api_key: what clients must send as ``Authorization: Bearer …``; None asks for nothing.
        insecure_anywhere: listen beyond loopback although the API speaks no TLS.
        lenient: ignore fields of requests that are unknown or not supported.
        hosts: names beside those of loopback by which clients may reach it.
        cors_origins: web pages that may use it, as ``https://example.org``; ``*`` is all.
        max_body: of a request.
        timeout: for a whole text, waiting included.
        wait: for a worker, while none serves the version.
        send_timeout: that a client may take to accept one chunk before it is taken for gone.
        head_timeout: for a request's head to arrive, idle time between two requests included.
        body_timeout: for a request's body to arrive.
        heartbeat: silence in a stream after which an SSE comment is sent.
    """

    version: str = "base"
    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = field(default=None, repr=False)
    insecure_anywhere: bool = False
    lenient: bool = False
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body: int = 4 * 2**20
    timeout: float = 600.0
    wait: float = 0.0
    send_timeout: float = 60.0
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    heartbeat: float = 15.0

    def __post_init__(self) -> None:
        """Refuse what no server can be made of, and what would be open to the world by accident.

        Raises:
            UsageError: naming the value.
        """
        if not 0 <= self.port < 2**16:
            raise UsageError(f"API port {self.port} is not between 0 and 65535")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:  # nan is not either
                raise UsageError(f"{name} {getattr(self, name)} is not above 0")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip()):
            raise UsageError("the API key is empty or not ASCII", hint="clients send it in an HTTP header")
        if wrong := next((host for host in self.hosts if not _HOST.fullmatch(host)), None):
            raise UsageError(f"{wrong!r} is no host's name", hint="without scheme and port, in small letters")
        if wrong := next(
            (one for one in self.cors_origins if one != "*" and not _ORIGIN.fullmatch(one)), None
        ):
            raise UsageError(
                f"{wrong!r} is no origin", hint="for example https://example.org, without a path"
            )
        if not self.loopback and not self.insecure_anywhere:
            raise UsageError(
                f"the API would listen beyond this machine, on {self.host}, without TLS",
                hint="listen on 127.0.0.1, put a TLS proxy before it, or say --api-insecure-anywhere",
            )

    @property
    def max_requests(self) -> int:
        """Requests at a time, but for probes; far above what texts need."""
        return max(512, 4 * self.max_texts)

    @property
    def loopback(self) -> bool:
        """Whether `host` is this machine only."""
        return is_loopback(self.host)
