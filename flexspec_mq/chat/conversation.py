"""A conversation: its exchanges, what the next request says, and its form in a file. Sans-IO but for files."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from flexspec_mq.chat.options import NUMBERS, GenerationOptions
from flexspec_mq.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1


class Exchange(msgspec.Struct, frozen=True):
    """A question and its answer.

    Attributes:
        whole: the answer was written to its end.
    """

    question: str
    answer: str
    whole: bool = True


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation in a file."""

    flexspec_chat: int
    exchanges: list[Exchange]
    model: str | None = None
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None


@dataclass(slots=True)
class Conversation:
    """What was said so far.

    Attributes:
        options: for the next answer.
        exchanges: the oldest first.
        unanswered: the last question, if it failed; the conversation stands as it was before it.
    """

    options: GenerationOptions
    exchanges: list[Exchange] = field(default_factory=list)
    unanswered: str | None = None

    def body(self, question: str) -> dict[str, Any]:
        """The request for the answer to a question, with all that was said before."""
        said = [] if self.options.system is None else [("system", self.options.system)]
        for exchange in self.exchanges:
            said += [("user", exchange.question), ("assistant", exchange.answer)]
        said.append(("user", question))
        messages = [{"role": role, "content": content} for role, content in said]
        return {**self.options.fields(), "messages": messages}

    def answered(self, question: str, answer: str, *, whole: bool = True) -> None:
        """The exchange becomes part of the conversation."""
        self.exchanges.append(Exchange(question, answer, whole))
        self.unanswered = None

    def failed(self, question: str) -> None:
        """There is no answer: the question is taken back."""
        self.unanswered = question

    def take_back(self) -> str | None:
        """Take the last question back, with its answer if it has one; None if there is none."""
        if self.unanswered is not None:
            question, self.unanswered = self.unanswered, None
            return question
        return self.exchanges.pop().question if self.exchanges else None

    def clear(self) -> None:
        """Forget what was said; the options stay."""
        self.exchanges, self.unanswered = [], None

    def save(self, path: Path) -> None:
        """Write it to a file that only its owner can read; whole, or not at all.

        Raises:
            UsageError: the file cannot be written, or holds something else.
        """
        if path.exists():
            _read(path)  # another file is not written over by a slip of the fingers
        options = self.options
        saved = Saved(
            flexspec_chat=FORMAT,
            exchanges=self.exchanges,
            model=options.model,
            system=options.system,
            **{name: getattr(options, name) for name in NUMBERS},
        )
        data = msgspec.json.format(msgspec.json.encode(saved), indent=2) + b"\n"
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error

    def load(self, path: Path) -> None:
        """Go on with a conversation from a file.

        Raises:
            UsageError: it is none; then nothing has changed.
        """
        saved = _read(path)
        for name, number in NUMBERS.items():
            if (value := getattr(saved, name)) is not None:
                number.read(name, str(value))
        self.exchanges, self.unanswered = list(saved.exchanges), None
        for name in ("model", "system", *NUMBERS):
            setattr(self.options, name, getattr(saved, name))


def _read(path: Path) -> Saved:
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=Saved)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UsageError(
            f"{path} is no conversation that /save wrote: {error}", hint="name another file"
        ) from error
    if saved.flexspec_chat != FORMAT:
        raise UsageError(f"{path} has format {saved.flexspec_chat}, and this program knows {FORMAT}")
    return saved
