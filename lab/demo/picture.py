"""Run the demo and draw what it showed: ``.venv/bin/python lab/demo/picture.py docs/img/demo.svg``.

Further arguments are the demo's. It is a real run; only the live line of figures and the bars, which vanish on a
terminal too, are left out.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

from flexspec_mq.daemon.main import run_main
from flexspec_mq.terminal.answer import Answer, style
from flexspec_mq.terminal.printable import printable
from lab.demo import main as demo
from lab.demo.screen import Screen

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from flexspec_mq.daemon.progress import Tell
    from schemas.openai import Writer

_WIDTH = 104


class _Whole(Answer):
    """An answer that is shown once it is whole."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._out = console
        self._shown = Text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._out.print(self._shown)

    def text(self, pieces: Iterable[tuple[str, Writer | None]]) -> None:
        for piece, writer in pieces:
            self._shown.append(printable(piece), style(writer))

    def note(self, note: str) -> None:
        """Vanishes on a terminal too."""


class Picture(Screen):
    """A screen that remembers all that stays on it."""

    def __init__(self) -> None:
        self.console = Console(
            record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True, highlight=False
        )
        super().__init__(self.console)

    def bars(self, *_tasks: str) -> AbstractContextManager[Tell]:
        """They vanish on a terminal too."""
        return nullcontext(lambda _text, _task="": None)

    def answer(self) -> Answer:
        """Where the next answer is shown."""
        return _Whole(self.console)


def main(argv: Sequence[str]) -> int:
    """Entry point."""
    path, screen = Path(argv[0]), Picture()
    screen.console.print("$ make demo")
    code = demo.run(argv[1:], screen)
    path.write_text(screen.console.export_svg(title="FlexSpec MQ"), "utf-8")
    return code


if __name__ == "__main__":
    sys.exit(run_main(main))
