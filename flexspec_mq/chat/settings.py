"""What ``flexspec chat`` is told when it starts: where the API is, and how to reach it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Complaint, Loaded, Program, Section, Setting, add_flags, load
from flexspec_mq.settings.hosts import is_loopback

if TYPE_CHECKING:
    import argparse


def _url(value: str) -> Complaint | None:
    try:
        parts = urlsplit(value)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        fits = (
            fits
            and parts.path.rstrip("/") in {"", "/v1"}
            and not (parts.query or parts.fragment or parts.username)
        )
    except ValueError:
        fits = False
    return (
        None if fits else Complaint(f"{value!r} is no address of an API", "for example http://127.0.0.1:8080")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions(Section):
    """Where the API is; `Setting.help` has the words."""

    url: Annotated[str, Setting(help="address of the API", check=_url)] = "http://127.0.0.1:8080"
    api_key: Annotated[str | None, Setting(help="key of the API; file and environment only", secret=True)] = (
        field(default=None, repr=False)
    )
    api_key_file: Annotated[
        Path | None, Setting(help="file with the API's key on its first line", replaces="api_key")
    ] = None
    tls_ca: Annotated[
        Path | None, Setting(help="certificate authority to trust for https", default="the system's")
    ] = None
    model: Annotated[str | None, Setting(help="target version to ask for", default="the node's")] = None
    timeout: Annotated[float, Setting(help="seconds that the API may be silent", unit="seconds", above=0)] = (
        960.0
    )
    patience: Annotated[
        float,
        Setting(help="seconds to try again while the API cannot be reached", unit="seconds", above=0),
    ] = 5.0
    history: Annotated[
        str,
        Setting(
            help="file for the lines that were typed, or 'none'",
            default="$XDG_STATE_HOME/flexspec-mq/chat-history",
            path_unless=("none",),
        ),
    ] = ""
    color: Annotated[bool, Setting(help="colours on a terminal")] = True

    @property
    def base(self) -> str:
        """The address without a path."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")

    @property
    def in_the_clear(self) -> bool:
        """Whether what is said can be read on its way."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not is_loopback(parts.hostname or "")

    def key(self) -> str | None:
        """The API's key.

        Raises:
            UsageError: its file cannot be read, or it cannot stand in a header.
        """
        key = self.api_key
        if self.api_key_file is not None:
            try:
                key = self.api_key_file.read_text(encoding="utf-8").split("\n", 1)[0].strip()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"--api-key-file {self.api_key_file} cannot be read: {error}") from error
        if key is not None and not (key.isascii() and key.isprintable() and key):
            raise UsageError("the API key is empty or not ASCII", hint="it travels in an HTTP header")
        return key

    def history_file(self) -> Path | None:
        """Where typed lines are kept; None keeps none."""
        if self.history == "none":
            return None
        if self.history:
            return Path(self.history).expanduser()
        base = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(base):  # noqa: PTH117  the base directory specification ignores relative ones
            try:
                base = str(Path.home() / ".local" / "state")
            except RuntimeError:  # this user has no home
                return None
        return Path(base, "flexspec-mq", "chat-history")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """All settings of ``flexspec chat``."""

    chat: ChatOptions


PROGRAM = Program("chat", ChatConfig)
"""``chat.toml`` and ``FLEXSPEC_CHAT_…``."""


def add_arguments(parser: argparse.ArgumentParser, *, inner: bool = False) -> None:
    """Add the flags of all settings; `inner` is for a subcommand, since the command itself has them too."""
    add_flags(parser, PROGRAM, titles={"chat": "API and terminal"}, inner=inner)


def from_arguments(args: argparse.Namespace) -> Loaded[ChatConfig]:
    """Settings from parsed flags, the environment and the file; see `add_arguments`.

    Raises:
        UsageError: an unknown key or an impossible value.
    """
    return load(PROGRAM, args)
