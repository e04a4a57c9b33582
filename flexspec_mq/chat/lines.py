"""Where the user's turns come from: a terminal with line editing, or standard input, a line each."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.output import ColorDepth

from flexspec_mq.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyPressEvent

GOES_ON = "\\"
"""At the end of a line: the next one belongs to the same turn."""
MAX_TURN = 2**20
"""Bytes of a turn on standard input."""


class Lines(Protocol):
    """Gives the user's turns, one at a time."""

    async def next(self) -> str | None:
        """The next one; None at the end.

        Raises:
            UsageError: what came cannot be used; the one after it may be.
        """


class Terminal:
    """Turns that are typed. Ctrl-C throws the line away, or ends the chat if it is empty; so does Ctrl-D.

    Args:
        history: file that typed lines are kept in; None forgets them.
        words: completed by Tab at the beginning of a line.
    """

    def __init__(self, history: Path | None, words: Iterable[str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation="… ",
            completer=_Words(words),
            complete_while_typing=False,
            color_depth=ColorDepth.DEPTH_1_BIT,
        )

    async def next(self) -> str | None:
        """The next turn; None at the end."""
        try:
            return await self._session.prompt_async([("", "\n"), ("bold", "› ")])
        except (EOFError, KeyboardInterrupt):
            return None


class _Words(Completer):
    def __init__(self, words: Iterable[str]) -> None:
        self._words = sorted(words)

    def get_completions(self, document: Document, _event: CompleteEvent) -> Iterator[Completion]:
        before = document.text_before_cursor
        if before.startswith("/"):
            for word in self._words:
                if word.startswith(before):
                    yield Completion(word, start_position=-len(before))


def _history(path: Path | None) -> History:
    """Typed lines of earlier chats; nobody else can read them.

    Raises:
        UsageError: the file cannot be used.
    """
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)) as file:
            os.fchmod(file.fileno(), 0o600)
    except OSError as error:
        raise UsageError(
            f"the history {path} cannot be written: {error.strerror}",
            hint="name another file with --history, or say --history none",
        ) from error
    return FileHistory(str(path))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith(GOES_ON):
            buffer.delete_before_cursor(len(GOES_ON))
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


class Pipe:
    """Turns from standard input, a line each."""

    def __init__(self) -> None:
        self._fd = None if sys.stdin is None else sys.stdin.fileno()  # None: closed by whoever started us
        self._read = bytearray()
        self._ended = self._fd is None

    async def next(self) -> str | None:
        """The next turn; None at the end.

        Raises:
            UsageError: it is too long, or not UTF-8.
        """
        turn: list[str] = []
        while (line := await self._line()) is not None:
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(f"a line of standard input is not UTF-8: {error.reason}") from error
            if not text.endswith(GOES_ON):
                return "\n".join([*turn, text])
            turn.append(text.removesuffix(GOES_ON))
        return "\n".join(turn) if turn else None

    async def _line(self) -> bytes | None:
        while b"\n" not in self._read and not self._ended:
            part = await self._some()
            self._read += part
            self._ended = not part
            if len(self._read) > MAX_TURN and b"\n" not in self._read:
                self._read.clear()
                await self._skip()
                raise UsageError(f"a line has more than {MAX_TURN} bytes", hint="shorten it")
        if not self._read:
            return None
        line, _, rest = bytes(self._read).partition(b"\n")
        self._read = bytearray(rest)
        return line.removesuffix(b"\r")

    async def _skip(self) -> None:
        """Drop what is left of a line."""
        while not self._ended:
            part = await self._some()
            self._ended = not part
            _, newline, rest = part.partition(b"\n")
            if newline:
                self._read += rest
                return

    async def _some(self) -> bytes:
        """What is there next; empty at the end. Waits in a way that Ctrl-C ends."""
        assert self._fd is not None  # noqa: S101  it has ended otherwise
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        try:
            loop.add_reader(self._fd, ready.set)
        except OSError:  # a file, for which nobody has to wait
            return os.read(self._fd, 2**16)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._fd)
        return os.read(self._fd, 2**16)


def lines(*, people: bool, history: Callable[[], Path | None], words: Iterable[str]) -> Lines:
    """Where turns come from.

    Raises:
        UsageError: the history cannot be used.
    """
    return Terminal(history(), words) if people else Pipe()
