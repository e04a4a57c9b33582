"""Where the user's turns come from: a terminal with line editing, or standard input, a line each."""

from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth

from flexspec_mq.daemon.streams import InputLines
from flexspec_mq.errors import UsageError

GOES_ON = "\\"
"""At the end of a line: the next one belongs to the same turn."""


class Terminal:
    """Turns that are typed. Ctrl-C throws the line away, or ends the chat if it is empty; so does Ctrl-D.

    Args:
        history: file that typed lines are kept in; None forgets them.
        words: words that Tab completes at the beginning of a line.

    Raises:
        UsageError: the history cannot be used.
    """

    def __init__(self, history: Path | None, words: Iterable[str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation="… ",
            completer=WordCompleter(sorted(words), sentence=True),
            complete_while_typing=False,
            color_depth=ColorDepth.DEPTH_1_BIT,
        )

    async def next(self) -> str | None:
        """The next turn; None at the end."""
        try:
            return await self._session.prompt_async([("", "\n"), ("bold", "› ")])
        except (EOFError, KeyboardInterrupt):
            return None


def _history(path: Path | None) -> History:
    """Typed lines of earlier chats; nobody else can read them."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
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
        self._lines = InputLines()

    async def next(self) -> str | None:
        """The next turn; None at the end.

        Raises:
            UsageError: a line is too long, or not UTF-8; the turn after it may be asked for.
        """
        turn: list[str] = []
        while (line := await self._lines.next()) is not None:
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(f"a line of standard input is not UTF-8: {error.reason}") from error
            if not text.endswith(GOES_ON):
                return "\n".join([*turn, text])
            turn.append(text.removesuffix(GOES_ON))
        return "\n".join(turn) if turn else None
