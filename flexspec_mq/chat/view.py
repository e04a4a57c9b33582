"""The screen of a chat: on a terminal for people, otherwise answers on standard output and all else beside them."""

import sys
import termios
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.text import Text

from flexspec_mq.chat.answer import AnswerView, legend
from flexspec_mq.daemon.main import print_error
from flexspec_mq.daemon.printable import printable
from flexspec_mq.errors import FlexSpecError


class View:
    """Where a chat is shown.

    Args:
        people: somebody looks at it as it changes.
    """

    def __init__(self, *, people: bool) -> None:
        self.people = people
        self._out = Console(file=sys.stdout, highlight=False, force_terminal=people)
        self._said = self._out if people else Console(file=sys.stderr, highlight=False, no_color=True)

    def legend(self) -> None:
        """Say which colour means what, where there are colours."""
        if self.people:
            self._out.print(legend())

    @contextmanager
    def answer(self) -> Iterator[AnswerView]:
        """Where the next answer is shown; what is typed meanwhile waits for the next prompt, unseen."""
        with without_modes(termios.ECHO) if self.people else nullcontext(), AnswerView(self._out) as answer:
            yield answer

    def say(self, text: str, style: str = "") -> None:
        """Print a line of ours, however long."""
        self._said.print(Text(printable(text), style if self.people else ""), soft_wrap=not self.people)

    def aside(self, text: str) -> None:
        """Print a line that is not that important."""
        self.say(text, "dim")

    def table(self, rows: Iterable[tuple[str, str]]) -> None:
        """Print names and values."""
        for name, value in rows:
            self.say(f"{name:22}  {value}")

    def error(self, error: FlexSpecError) -> None:
        """Print an error and what to do about it."""
        if not self.people:
            print_error(error)
            return
        self._out.print(Text.assemble(("error: ", "red"), printable(error.message)))
        if error.hint:
            self._out.print(Text(f"  hint: {printable(error.hint)}"))


@contextmanager
def without_modes(modes: int) -> Iterator[None]:
    """Turn local modes of the terminal off, such as ``termios.ECHO``, for as long as the block lasts."""
    before = termios.tcgetattr(sys.stdin)
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, [*before[:3], before[3] & ~modes, *before[4:]])
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
