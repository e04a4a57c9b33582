"""A conversation: its exchanges, how the next answer is to be written, and its form in a file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
NONE = "none"
"""The word that unsets an option."""


class Number(NamedTuple):
    """An option that is a number, with the bounds of the API.

    Attributes:
        unset: words for what holds without the option.
    """

    kind: type[int | float]
    least: float
    most: float
    allowed: str
    unset: str
    help: str

    def read(self, name: str, text: str) -> int | float:
        """The number that a text says.

        Raises:
            UsageError: it says none, or one that the API would refuse.
        """
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if not self.least <= value <= self.most:
            raise UsageError(f"{name.replace('_', '-')} {text!r} is not {self.allowed}")
        return value


_MAKERS = "as the target's makers recommend"
NUMBERS = {
    "temperature": Number(float, 0, 2, "a number from 0 to 2", _MAKERS, "0 is greedy, 1 as the target"),
    "top_p": Number(
        float, math.ulp(0.0), 1, "a number above 0, at most 1", _MAKERS, "keep this mass of tokens"
    ),
    "max_tokens": Number(
        int, 1, 2**31 - 1, "a whole number from 1 to 2147483647", "the node's limit", "tokens of an answer"
    ),
    "seed": Number(
        int,
        -(2**63),
        2**64 - 1,
        "a whole number of 64 bits",
        "drawn for each answer",
        "same seed, same answer",
    ),
}


class GenerationOptions(msgspec.Struct, kw_only=True):
    """How answers are to be written; None leaves it to the API. `system` is what the conversation begins with."""

    model: str | None = None
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None


class Exchange(msgspec.Struct, frozen=True):
    """A question and its answer; `whole` if that was written to its end."""

    question: str
    answer: str
    whole: bool = True


class Saved(GenerationOptions, kw_only=True):
    """A conversation in a file."""

    flexspec_chat: int
    exchanges: list[Exchange]


@dataclass(slots=True)
class Conversation:
    """A conversation so far.

    Attributes:
        options: how the next answer is to be written.
        exchanges: questions and answers, the oldest first.
        unanswered: the last question, if it failed; the conversation stands as it was before it.
    """

    options: GenerationOptions
    exchanges: list[Exchange] = field(default_factory=list)
    unanswered: str | None = None

    def body(self, question: str) -> dict[str, Any]:
        """The request for the answer to a question, with all that was said before."""
        options = {
            name: value for name, value in msgspec.structs.asdict(self.options).items() if value is not None
        }
        said = [("system", options.pop("system"))] if "system" in options else []
        for exchange in self.exchanges:
            said += [("user", exchange.question), ("assistant", exchange.answer)]
        said.append(("user", question))
        return {**options, "messages": [{"role": role, "content": content} for role, content in said]}

    def answered(self, question: str, answer: str, *, whole: bool = True) -> None:
        """Add an exchange."""
        self.exchanges.append(Exchange(question, answer, whole))
        self.unanswered = None

    def take_back(self) -> str:
        """Take the last question back, with its answer if it has one.

        Raises:
            UsageError: nothing was asked yet.
        """
        if self.unanswered is not None:
            question, self.unanswered = self.unanswered, None
            return question
        if not self.exchanges:
            raise UsageError("nothing was asked yet")
        return self.exchanges.pop().question

    def save(self, path: Path) -> None:
        """Write it to a file that only its owner can read.

        Raises:
            UsageError: the file cannot be written, or holds something else.
        """
        if path.exists():
            _read(path)  # another file is not written over by a slip of the fingers
        saved = Saved(flexspec_chat=FORMAT, exchanges=self.exchanges, **msgspec.structs.asdict(self.options))
        try:
            with whole(path) as part:
                part.touch(mode=0o600, exist_ok=False)  # nobody else has it open
                part.write_bytes(msgspec.json.format(msgspec.json.encode(saved), indent=2) + b"\n")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error

    def load(self, path: Path) -> None:
        """Go on with a conversation from a file.

        Raises:
            UsageError: it is none; then nothing has changed.
        """
        saved = msgspec.structs.asdict(_read(path))
        for name, number in NUMBERS.items():
            if saved[name] is not None:
                number.read(name, str(saved[name]))
        self.exchanges, self.unanswered = saved["exchanges"], None
        for name in GenerationOptions.__struct_fields__:
            setattr(self.options, name, saved[name])


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
