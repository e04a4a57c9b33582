"""The page of an edge node as a newcomer uses it, in a real Chromium, against a deployment with TLS and keys.

    python -m lab.page --pictures docs/img

Two workers of a family, a device on 4G and one behind a satellite, each with a key for its API; the default model.
Ten tasks: ask, see who wrote what, have it answered again, give an image, find out why it is slow, find a conversation
again after a reload and a crash, see which version answered, do it on a phone; and, by a pair that can write code, copy
some and run it, and see an outage pass. Then answers one after another: memory of the page and of the node, and how
long a verdict takes to the screen. It ends with code 1 where a task fails, where axe-core finds a barrier, or where the
page asks anybody but its node.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexspec_mq.models.load import load_text
from flexspec_mq.models.text import PROMPTS, decode
from lab.benchmarks import _common
from lab.chaos.history import Committed, Judged, Session, read_history
from lab.page.browser import HAND, PageView, chromium, opened
from lab.page.deployment import Fleet, coder, fleet
from lab.page.show import Show

Drawn = Sequence[tuple[int, float]]
"""Lengths of an answer that were on the screen, and since when, in seconds since the Unix epoch."""


class ScreenTimes:
    """Reads a device's history anew after each answer.

    Args:
        trace: file of `lab.chaos.traced`.
    """

    def __init__(self, trace: Path) -> None:
        self._trace = trace
        self._tokenizer = load_text().tokenizer

    def newest(self, drawn: Drawn) -> list[float]:
        """Seconds from each verdict of the newest text that lengthened it to a frame that shows what it brought.

        Raises:
            ValueError: the page never showed the whole text.
        """
        history = read_history([self._trace])
        last = max(record.session for record in history if isinstance(record, Session))
        epoch = time.time() - time.monotonic()
        tokens: list[int] = []
        arrived, length, found = 0.0, 0, list[float]()
        for record in history:
            if isinstance(record, Judged) and record.session == last:
                arrived = epoch + record.at
            elif isinstance(record, Committed) and record.session == last:
                tokens += record.tokens
                written = self._length(tokens)
                if written > length:
                    length = written
                    found.append(_first(drawn, length) - arrived)
        return found

    def _length(self, tokens: Sequence[int]) -> int:
        """UTF-16 units of a text without its unfinished character."""
        text = decode(self._tokenizer, tokens).rstrip("\N{REPLACEMENT CHARACTER}")
        return len(text.encode("utf-16-le")) // 2


def _first(drawn: Drawn, length: int) -> float:
    for shown, at in drawn:
        if shown >= length:
            return at
    raise ValueError(f"the page showed {max((shown for shown, _ in drawn), default=0)} of {length} units")


MOST = 0.2
"""Seconds from a verdict to the screen, but for one in 20: the machine may have other things to do."""
GROWTH = 32_768
"""Bytes by which an answer may let the page's memory grow: its text, and what says who wrote it."""
_TOKENS = 40
_EVERY = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = _common.parser(__doc__ or "")
    parser.add_argument("--pictures", type=Path, default=Path("build/pictures"), help="folder for pictures")
    parser.add_argument("--answers", type=int, help="answers in a row (default: 60; quick: 12)")
    parser.add_argument("--pair", default="qwen2.5-coder-1.5b", help="named pair that can write code")
    parser.add_argument(
        "--pair-source", metavar="PLACE", help="a mirror of the hub, or a folder with its files"
    )
    args = parser.parse_args(argv)
    args.pictures.mkdir(parents=True, exist_ok=True)
    pair = (args.pair, *(("--pair-source", args.pair_source) if args.pair_source else ()))
    found = asyncio.run(_happen(args.pictures, args.answers or (12 if args.quick else 60), pair))
    for name, value in found.items():
        if isinstance(value, str):
            print(f"{name}: {value}")
    print(_common.table(("", ""), [item for item in found.items() if isinstance(item[1], (int, float))]))
    broken = [line for value in found.values() if isinstance(value, list) for line in value]
    for line in broken:
        print(f"BROKEN: {line}")
    _common.finish("page", found, quick=args.quick)
    return int(bool(broken))


async def _happen(pictures: Path, answers: int, pair: Sequence[str]) -> dict[str, Any]:
    async with fleet() as made, chromium() as browser:
        _common.say("the deployment runs")
        show = Show(made, pictures)
        kiosk, boat = (made.devices[name].url for name in ("kiosk", "boat"))
        async with opened(browser, kiosk) as view, opened(browser, boat) as far:
            await show.enter(view)
            await show.enter(far)
            here = (show.ask, show.writers, show.retry, show.image)
            tasks = [
                *((task, view) for task in here),
                (show.slow, far),
                (show.kept, far),
                (show.versions, view),
            ]
            for task, where in tasks:
                await task(where)
                _common.say(f"{task.__name__}: done")
            breaches = [*await view.breaches(), *await far.breaches()]
        async with opened(browser, kiosk, size=HAND, who=False, touch=True) as view:
            await show.phone(view)
            breaches += await view.breaches()
        async with coder(*pair) as (url, link), opened(browser, url, who=False) as view:
            await show.code(view)
            await show.outage(view, link)
            breaches += await view.breaches()
        barriers = [f"{name}: {line}" for name, lines in show.barriers.items() for line in lines]
        found = {**show.told, "views without barriers": len(show.barriers), "barriers": barriers}
        async with opened(browser, kiosk) as view:
            await show.enter(view)
            found |= await in_a_row(made, view, answers)
            return {**found, "breaches": [*breaches, *await view.breaches()]}


async def in_a_row(made: Fleet, view: PageView, answers: int) -> dict[str, Any]:
    """A long conversation: memory that it takes, and when its verdicts were on the screen."""
    times, late = ScreenTimes(made.traces["kiosk"]), list[float]()
    memory: list[tuple[int, dict[str, int], int]] = []
    await view.option(temperature=0, seed=1, max_tokens=_TOKENS)
    for number in range(1, answers + 1):
        await view.painted()
        await view.answered(await view.ask(PROMPTS[number % len(PROMPTS)]))
        late += times.newest(await view.painted())
        if number % _EVERY == 0 or number == answers:
            memory.append((number, await view.memory(), _rss(made.devices["kiosk"].process.pid)))
            _common.say(f"{memory[-1]}")
    (first, before, _), (last, after, rss) = memory[0], memory[-1]
    growth = (after["JSHeapUsedSize"] - before["JSHeapUsedSize"]) / max(last - first, 1)
    await view.see("#new").click()
    cleared = (await view.memory())["JSHeapUsedSize"]
    found: dict[str, Any] = {
        "verdicts": len(late),
        **{
            f"verdict to screen, p{share}, ms": 1e3 * _common.percentile(late, share / 100)
            for share in (50, 95, 99)
        },
        "verdict to screen, most, ms": 1e3 * max(late),
        f"heap after {first} answers, MB": before["JSHeapUsedSize"] / 1e6,
        f"heap after {last} answers, MB": after["JSHeapUsedSize"] / 1e6,
        "heap an answer, kB": growth / 1e3,
        "heap after a new conversation, MB": cleared / 1e6,
        f"nodes after {first} answers": before["Nodes"],
        f"nodes after {last} answers": after["Nodes"],
        f"RSS of the node after {first}, MB": memory[0][2] / 1e6,
        f"RSS of the node after {last}, MB": rss / 1e6,
    }
    broken = [f"{growth:.0f} bytes an answer"] if growth > GROWTH else []
    if (usual := _common.percentile(late, 0.95)) > MOST:
        broken.append(f"a verdict took {usual:.3f} s to the screen")
    return {**found, "limits": broken}


def _rss(pid: int) -> int:
    """Bytes of memory of a process (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


if __name__ == "__main__":
    sys.exit(main())
