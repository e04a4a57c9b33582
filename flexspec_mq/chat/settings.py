"""Settings of ``flexspec chat``: where the API is, how to reach it, and how answers are to be written."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from flexspec_mq import waiting
from flexspec_mq.daemon.files import state_folder
from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Program, Section, Setting
from flexspec_mq.settings.values import is_loopback, read_api_key

_ADDRESS = re.compile(r"https?://(\[[0-9a-f:.]+\]|[\w.-]+)(:[1-9]\d{0,4})?(/v1)?/?", re.IGNORECASE)


def _url(value: str) -> None:
    if _ADDRESS.fullmatch(value) is None:
        raise UsageError(f"{value!r} is no address of an API", hint="for example http://127.0.0.1:8080")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions(Section):
    """Where the API is; `Setting.help` has the words for most.

    Attributes:
        timeout: seconds that the API may be silent.
        patience: seconds to try again while it cannot be reached.
    """

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
    history: Annotated[
        str,
        Setting(
            help="file for the lines that were typed, or 'none'",
            default="$XDG_STATE_HOME/flexspec-mq/chat-history",
            path_unless=("none",),
        ),
    ] = ""
    timeout: float = waiting.QUEUED + 2 * waiting.KEEPALIVE
    patience: float = waiting.CONNECT

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
        return read_api_key(self.api_key, self.api_key_file)

    def history_file(self) -> Path | None:
        """Where typed lines are kept; None keeps none."""
        if self.history == "none":
            return None
        if self.history:
            return Path(self.history).expanduser()
        return state_folder("chat-history")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """All settings of ``flexspec chat``."""

    chat: ChatOptions


PROGRAM = Program("chat", ChatConfig)
"""``chat.toml`` and ``FLEXSPEC_CHAT_…``."""


class Number(NamedTuple):
    """A field of requests that is a number: its kind, what it does, and what holds without it. The API has bounds."""

    kind: type[int | float]
    help: str
    default: str

    def read(self, name: str, text: str) -> int | float:
        """The number that a text says.

        Raises:
            UsageError: it says none.
        """
        try:
            return self.kind(text)
        except ValueError as error:
            kind = "a whole number" if self.kind is int else "a number"
            raise UsageError(f"{name.replace('_', '-')} {text!r} is not {kind}", hint=self.help) from error


_MAKERS = "as the target's makers recommend"
NUMBERS = {
    "temperature": Number(float, "0 is greedy, 1 as the target, 2 the most", _MAKERS),
    "top_p": Number(float, "keep this mass of tokens, up to 1", _MAKERS),
    "min_p": Number(float, "keep tokens so likely beside the likeliest, up to 1", _MAKERS),
    "max_tokens": Number(int, "tokens of an answer", "the node's limit"),
    "seed": Number(int, "same seed, same answer", "drawn for each answer"),
}
