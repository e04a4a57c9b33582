"""Run the demo and draw it: ``python -m lab.demo.picture [FILE [FLAGS OF THE DEMO]]``.

The drawing moves: it is the recording of a real run at its true pace, and repeats itself. Where drawings do not move,
it is what stays on the screen in the end.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from flexspec_mq.daemon.main import run_main
from lab.demo import main as demo
from lab.demo.screen import Screen, ends, frame

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lab.demo.recording import Recording

_FILE = "docs/img/demo.svg"
_WIDTH = 104
_FRAME_S, _LAST_S = 0.4, 6.0
"""Seconds of each picture, and of the last one."""
_PICTURE = '<style>{styles}</style><g class="end-matrix">{matrix}</g>'
_NEEDLESS = re.compile(r' clip-path="[^"]*"|<text[^>]*>\n</text>')
"""What a picture can do without: limits of lines, and their ends."""


class Picture(Screen):
    """A screen that remembers all that stays on it, and how the answers came."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self._before: list[RenderableType] = [Text("$ make demo")]
        self._after: list[RenderableType] = []
        self._sides: Sequence[Recording] = ()

    def show(self, what: RenderableType) -> None:
        """Remember it."""
        (self._after if self._sides else self._before).append(what)

    async def play(self, sides: Sequence[Recording]) -> None:
        """Remember how the answers came."""
        self._sides = sides

    def svg(self) -> str:
        """Draw it: the end, and over it one picture after another."""
        times = [number * _FRAME_S for number in range(int(ends(self._sides) / _FRAME_S) + 2)]
        lasts = times[-1] + _LAST_S
        pictures = []
        for number, (begins, until) in enumerate(pairwise(times)):
            name = f"at{number}"
            drawn = self._drawn(begins).export_svg(code_format=_PICTURE, unique_id=name)
            shown = f"{100 * begins / lasts:.2f}% {{visibility: visible}} {100 * until / lasts:.2f}%"
            pictures.append(
                f"<style>@keyframes {name} {{0% {{visibility: hidden}} {shown} {{visibility: hidden}}}}"
                f"#{name} {{visibility: hidden; animation: {name} {lasts:.2f}s step-end infinite}}</style>"
                f'<g id="{name}"><rect width="100%" height="100%" fill="#292929"/>'
                f"{_NEEDLESS.sub('', drawn)}</g>"
            )
        whole = self._drawn(times[-1], self._after).export_svg(title="FlexSpec MQ", unique_id="end")
        head, tail = whole.rsplit("</g>", 1)
        return "".join((head, *pictures, "</g>", tail))

    def _drawn(self, now: float, after: Sequence[RenderableType] = ()) -> Console:
        """Draw one moment."""
        console = _console()
        for part in (*self._before, frame(console, self._sides, now), *after):
            console.print(part)
        return console


def _console() -> Console:
    nowhere = io.StringIO()
    return Console(record=True, width=_WIDTH, height=60, file=nowhere, force_terminal=True, highlight=False)


def main(argv: Sequence[str]) -> int:
    """Entry point."""
    picture = Picture()
    code = demo.run(argv[1:], picture)
    Path(argv[0] if argv else _FILE).write_text(picture.svg(), "utf-8")
    return code


if __name__ == "__main__":
    sys.exit(run_main(main))
