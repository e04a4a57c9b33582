"""Settings of ``flexspec chat``: where the API is, how to reach it, and how answers are to be written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from flexspec_mq import waiting
from flexspec_mq.daemon.files import state_folder
from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Program, Section, Setting
from flexspec_mq.settings.values import is_loopback, read_api_key
from schemas.openai import Offline


def _url(value: str) -> None:
    try:
        url = urlsplit(value)
        fits = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        fits &= url.path.rstrip("/") in {"", "/v1"} and not (url.query or url.fragment or url.username)
    except ValueError:
        fits = False
    if not fits:
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
    """An option that is a number, with the bounds of the API and what holds without it."""

    kind: type[int | float]
    setting: Setting

    def read(self, name: str, text: str) -> int | float:
        """The number that a text says.

        Raises:
            UsageError: it says none, or one out of bounds.
        """
        name = name.replace("_", "-")
        try:
            number = self.kind(text)
        except ValueError as error:
            kind = "a whole number" if self.kind is int else "a number"
            raise UsageError(f"{name} {text!r} is not {kind}", hint=self.setting.help) from error
        self.setting.verify(name, number)
        return number


_MAKERS = "as the target's makers recommend"
NUMBERS = {
    "temperature": Number(
        float, Setting(help="0 is greedy, 1 as the target", least=0, most=2, default=_MAKERS)
    ),
    "top_p": Number(float, Setting(help="keep this mass of tokens", above=0, most=1, default=_MAKERS)),
    "min_p": Number(
        float, Setting(help="keep tokens so likely beside the likeliest", least=0, most=1, default=_MAKERS)
    ),
    "max_tokens": Number(
        int, Setting(help="tokens of an answer", least=1, most=2**31 - 1, default="the node's limit")
    ),
    "seed": Number(int, Setting(help="same seed, same answer", default="drawn for each answer")),
}


@dataclass(slots=True, kw_only=True)
class GenerationOptions:
    """How answers are to be written; None leaves it to the API. `system` is what the conversation begins with."""

    model: str | None = None
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    offline: Offline | None = None
