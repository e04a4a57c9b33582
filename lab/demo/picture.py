"""Run the demo and draw it: ``python -m lab.demo.picture [FILE [FLAGS OF THE DEMO]]``.

The drawing moves: it is the recording of a real run at its true pace, and repeats itself. Where drawings do not move,
it is what stays on the screen in the end.
"""

import io
import re
import shlex
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from flexspec_mq.daemon.main import run_main
from flexspec_mq.demo import main as demo
from flexspec_mq.demo.recording import Recording
from flexspec_mq.demo.screen import Screen, ends, frame

_FILE = "docs/img/demo.svg"
_WIDTH = 104
_FRAME_S, _LAST_S = 0.4, 6.0
"""Seconds of each picture, and of the last one."""
_STYLE = re.compile(r"\.end-(r\d+) {(.*?)}")
_TEXT = re.compile(
    r'<text class="end-(r\d+)" (x="\S+" y="\S+" textLength="\S+") clip-path="\S+">([^<\n]+)</text>'
)
_MATRIX = '<g class="end-matrix">'
_FONTS = re.compile(r"@font-face {.*?}", re.DOTALL)  # from elsewhere: a picture fetches nothing


class Picture(Screen):
    """A screen that remembers all that stays on it, and how the answers came."""

    def __init__(self, flags: Sequence[str] = ()) -> None:
        super().__init__(Console(file=io.StringIO()))
        self._before: list[RenderableType] = [Text(f"$ {shlex.join(('flexspec', 'demo', *flags))}")]
        self._after: list[RenderableType] = []
        self._sides: Sequence[Recording] = ()

    def show(self, what: RenderableType) -> None:
        """Remember it."""
        (self._after if self._sides else self._before).append(what)

    async def play(self, sides: Sequence[Recording]) -> None:
        """Remember how the answers came."""
        self._sides = sides

    def svg(self) -> str:
        """Draw it: each part of a row once, shown from its first picture to its last one."""
        times = [number * _FRAME_S for number in range(int(ends(self._sides) / _FRAME_S) + 2)]
        pictures = [*(self._drawn(now) for now in times[:-1]), self._drawn(times[-1], self._after)]
        seen: dict[tuple[str, str, str], list[int]] = {}
        for number, picture in enumerate(pictures):
            styles = dict(_STYLE.findall(picture))
            for style, place, text in _TEXT.findall(picture):
                seen.setdefault((styles[style], place, text), []).append(number)
        parts: dict[tuple[int, int], list[str]] = {}
        for (style, place, text), numbers in seen.items():
            for _, pairs in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
                run = [number for _, number in pairs]
                drawn = f'<text style="{style.strip()}" {place}>{text}</text>'
                parts.setdefault((run[0], run[-1]), []).append(drawn)
        steps = [*times, times[-1] + _LAST_S]
        head = _FONTS.sub("", pictures[-1].partition(_MATRIX)[0])
        groups = (_group(part, steps, first, last) for (first, last), part in parts.items())
        return "".join((head, _MATRIX, *groups, "</g></g></svg>\n"))

    def _drawn(self, now: float, after: Sequence[RenderableType] = ()) -> str:
        """Draw one moment."""
        console = Console(record=True, width=_WIDTH, height=60, file=io.StringIO(), force_terminal=True)
        for part in (*self._before, frame(console, self._sides, now), *after):
            console.print(part)
        return console.export_svg(title="FlexSpec MQ", unique_id="end")


def _group(parts: Sequence[str], steps: Sequence[float], first: int, last: int) -> str:
    """Show texts from the first picture to the last one; those of the end also where nothing moves."""
    whole, name, at_end = steps[-1], f"from{first}to{last}", last == len(steps) - 2
    if at_end and not first:
        return "".join(parts)
    begins, until = (f"{100 * steps[number] / whole:.2f}%" for number in (first, last + 1))
    frames = f"0% {{visibility: hidden}} {begins} {{visibility: visible}}"
    if not at_end:
        frames += f" {until} {{visibility: hidden}}"
    rest = "visible" if at_end else "hidden"
    rule = f"#{name} {{visibility: {rest}; animation: {name} {whole:.2f}s step-end infinite}}"
    return f'<style>@keyframes {name} {{{frames}}}{rule}</style><g id="{name}">{"".join(parts)}</g>'


def main(argv: Sequence[str]) -> int:
    """Entry point."""
    picture = Picture(argv[1:])
    code = demo.run(argv[1:], picture)
    Path(argv[0] if argv else _FILE).write_text(picture.svg(), "utf-8")
    return code


if __name__ == "__main__":
    sys.exit(run_main(main))
