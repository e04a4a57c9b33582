"""What a user says about the API, as settings of ``flexspec-edge serve``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from edge_node.api.settings import ApiSettings
from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Setting, verify


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """Where the API listens and how much it takes on; `Setting.help` has the words."""

    api_host: Annotated[str, Setting(help="address that the API listens on")] = "127.0.0.1"
    api_port: Annotated[int, Setting(help="its port; 0 takes a free one", between=(0, 65_535))] = 8080
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
        Setting(help="names beside those of loopback by which clients may reach the API", metavar="HOST"),
    ] = ()
    api_cors_origins: Annotated[
        tuple[str, ...],
        Setting(
            help="web pages that may use the API, for example https://example.org; '*' is all",
            metavar="ORIGIN",
        ),
    ] = ()
    lenient: Annotated[
        bool, Setting(help="ignore fields of API requests that are unknown or not supported")
    ] = False
    api_texts: Annotated[int, Setting(help="texts written at a time; beyond it 429", least=1)] = 64
    api_timeout: Annotated[
        float, Setting(help="seconds for a whole text, waiting included", unit="seconds", above=0)
    ] = 600.0

    api_wait: Annotated[
        float,
        Setting(
            help="seconds that a text waits for a worker while none serves its version; 0 says so at once",
            unit="seconds",
            least=0,
        ),
    ] = 0.0

    def __post_init__(self) -> None:
        """Refuse what no API can be made of.

        Raises:
            UsageError: naming the setting.
        """
        verify(self)
        if self.api_key is not None and self.api_key_file is not None:
            raise UsageError("api_key and api_key_file are both set", hint="leave one of them out")

    def settings(self, version: str) -> ApiSettings:
        """For the API of a node that asks for `version`.

        Raises:
            UsageError: the key's file cannot be read, or the API would be open to the world by accident.
        """
        key = self.api_key
        if self.api_key_file is not None:
            try:
                key = self.api_key_file.read_text(encoding="utf-8").split("\n", 1)[0]
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"--api-key-file {self.api_key_file} cannot be read: {error}") from error
        return ApiSettings(
            version=version,
            host=self.api_host,
            port=self.api_port,
            api_key=key,
            insecure_anywhere=self.api_insecure_anywhere,
            hosts=tuple(host.lower() for host in self.api_hosts),
            cors_origins=tuple(origin.lower() for origin in self.api_cors_origins),
            lenient=self.lenient,
            max_texts=self.api_texts,
            timeout=self.api_timeout,
            wait=self.api_wait,
        )
