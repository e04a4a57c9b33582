"""All that the API is told: what a user says of it, as settings of ``flexspec-edge serve``, and its bounds."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Self, get_args

from edge_node.text.texts import TextBounds
from flexspec_mq import waiting
from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Setting, verify
from flexspec_mq.settings.values import is_loopback, read_api_key
from schemas.openai import LOCAL_ONLY, Offline

_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:]+", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://[a-z0-9.\[\]:_-]+|null|\*", re.IGNORECASE)


def _host(value: str) -> None:
    if not _HOST.fullmatch(value):
        raise UsageError(f"{value!r} is no host's name", hint="no scheme, no port")


def _origin(value: str) -> None:
    if not _ORIGIN.fullmatch(value):
        raise UsageError(f"{value!r} is no origin", hint="for example https://example.org, without a path")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings(TextBounds):
    """Settings of an API server; `Setting.help` has the words for users, `TextBounds` says how much it takes on.

    Attributes, times in seconds and sizes in bytes:
        max_body: of a request.
        max_bodies: of all requests together that are being read.
        send_timeout: that a client may take to accept one chunk before it is taken for gone.
        head_timeout: for a request's head to arrive, idle time between two requests included.
        body_timeout: for a request's body to arrive.
        heartbeat: silence in a stream after which an SSE comment is sent.
        keep_responses: responses that later ones may go on from, at most.
        keep_responses_for: how long one is kept.
        keep_response_bytes: of all of them, with their conversations.
    """

    api_host: Annotated[str, Setting(help="address that the API listens on")] = "127.0.0.1"
    api_port: Annotated[int, Setting(help="its port; 0 takes a free one", least=0, most=65_535)] = 8080
    api_key: Annotated[
        str | None,
        Setting(help="what clients must send as a bearer token; file and environment only", secret=True),
    ] = field(default=None, repr=False)
    api_key_file: Annotated[
        Path | None, Setting(help="file with the API key on its first line", replaces="api_key")
    ] = None
    api_insecure_anywhere: Annotated[
        bool, Setting(help="let the API, which speaks no TLS, listen beyond this machine")
    ] = False
    api_hosts: Annotated[
        tuple[str, ...],
        Setting(
            help="names beside those of loopback by which clients may reach the API",
            check=_host,
        ),
    ] = ()
    api_cors_origins: Annotated[
        tuple[str, ...],
        Setting(
            help="web pages that may use the API, for example https://example.org; '*' is all",
            check=_origin,
        ),
    ] = ()
    api_client_connections: Annotated[
        int,
        Setting(
            help="connections of one address where the API listens beyond this machine; a proxy is one address",
            least=1,
            most=65_535,
        ),
    ] = 64
    lenient: Annotated[
        bool, Setting(help="ignore fields of API requests that are unknown or not supported")
    ] = False
    offline: Annotated[
        Offline,
        Setting(
            help="what becomes of texts whose request does not say it while nobody can be reached: 'hold' waits, "
            "'provisional' has local or the draft write on and marks that as unverified, 'deliver' has a worker write "
            "on for a device that goes away",
            choices=tuple(mode for mode in get_args(Offline) if mode != LOCAL_ONLY),
        ),
    ] = "hold"
    api_timeout: Annotated[
        float, Setting(help="seconds for a whole text, waiting included", unit="seconds", above=0)
    ] = 5 * waiting.PATIENCE
    max_body: int = 4 * 2**20
    max_bodies: int = 64 * 2**20
    send_timeout: float = 2 * waiting.KEEPALIVE
    head_timeout: float = 2 * waiting.CONNECT
    body_timeout: float = waiting.KEEPALIVE
    heartbeat: float = waiting.KEEPALIVE / 2
    keep_responses: int = 1024
    keep_responses_for: float = 86_400.0
    keep_response_bytes: int = 16 * 2**20

    def __post_init__(self) -> None:
        """Refuse what no API can be made of.

        Raises:
            UsageError: naming the setting.
        """
        verify(self)
        if self.api_key is not None and self.api_key_file is not None:
            raise UsageError("api_key and api_key_file are both set", hint="leave one of them out")

    def for_serving(self) -> Self:
        """With the key that the file holds, and names in small letters.

        Raises:
            UsageError: the key cannot be used, or the API would be open to the world by accident.
        """
        if not self.loopback and not self.api_insecure_anywhere:
            raise UsageError(
                f"the API would listen beyond this machine, on {self.api_host}, without TLS",
                hint="listen on 127.0.0.1, put a TLS proxy before it, or say --api-insecure-anywhere",
            )
        key = self.key()
        if not self.loopback and key is None:
            raise UsageError(
                f"whoever reaches {self.api_host} could use the API, as it asks for no key",
                hint="give a file with a key on its first line, that only you can guess: --api-key-file FILE",
            )
        return replace(
            self,
            api_key=key,
            api_key_file=None,
            api_hosts=tuple(host.lower() for host in self.api_hosts),
            api_cors_origins=tuple(origin.lower() for origin in self.api_cors_origins),
        )

    def key(self) -> str | None:
        """The key that clients must send; None if there is none.

        Raises:
            UsageError: its file cannot be read, or it cannot stand in a header.
        """
        return read_api_key(self.api_key, self.api_key_file)

    @property
    def max_requests(self) -> int:
        """Requests at a time, but for probes; far above what texts need."""
        return max(512, 4 * self.api_texts)

    @property
    def loopback(self) -> bool:
        """Whether `api_host` is this machine only."""
        return is_loopback(self.api_host)
