"""What the API says, as types; fields that are not used here are skipped."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from flexspec_mq.errors import RemoteProtocolError

T = TypeVar("T")


class Figures(msgspec.Struct, frozen=True):
    """``usage.flexspec``: what an answer took; see docs/edge-api.md."""

    drafted: int = 0
    accepted: int = 0
    rounds: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    version: str = ""
    seed: int | None = None
    exactness: str = ""


class Usage(msgspec.Struct, frozen=True):
    """``usage``."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    flexspec: Figures = Figures()


class Failure(msgspec.Struct, frozen=True):
    """``error``."""

    message: str = ""
    code: str | int | None = None


class Refusal(msgspec.Struct, frozen=True):
    """The body of an answer that is an error."""

    error: Failure


class Delta(msgspec.Struct, frozen=True):
    """``choices[].delta``."""

    content: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """``choices[]``."""

    delta: Delta = Delta()
    finish_reason: str | None = None


class Origin(msgspec.Struct, frozen=True):
    """``flexspec``: the chunk's text, cut by who wrote it."""

    pieces: list[tuple[str, bool]] = []


class Chunk(msgspec.Struct, frozen=True):
    """One event of a stream."""

    model: str = ""
    choices: list[Choice] = []
    usage: Usage | None = None
    flexspec: Origin | None = None
    error: Failure | None = None

    @property
    def content(self) -> str:
        """Its text."""
        return "".join(choice.delta.content or "" for choice in self.choices)

    @property
    def pieces(self) -> list[tuple[str, bool | None]]:
        """Its text in pieces by who wrote it; None where the API does not say."""
        told = [] if self.flexspec is None else self.flexspec.pieces
        if "".join(piece for piece, _ in told) == self.content:
            return [*told]
        return [(self.content, None)]

    @property
    def reason(self) -> str | None:
        """Why the text ended, in the event that ends it."""
        return next((choice.finish_reason for choice in self.choices if choice.finish_reason), None)


class Model(msgspec.Struct, frozen=True):
    """An entry of the list of models."""

    id: str


class Models(msgspec.Struct, frozen=True):
    """``GET /v1/models``."""

    data: list[Model]


def read(data: bytes | str, kind: type[T]) -> T:
    """Read JSON.

    Raises:
        RemoteProtocolError: it is something else.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise RemoteProtocolError(
            f"what answers is no API of an edge node: {error}", hint="check the address after --url"
        ) from error
