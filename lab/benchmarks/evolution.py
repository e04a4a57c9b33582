"""A target family that evolves: updates under load, and the rule by which canaries are judged.

`updates` runs as users run it: Mosquitto, ``flexspec-cloud``, ``flexspec-edge serve`` and ``flexspec head`` as
processes, with the default model and the heads that ship. Texts are compared with what transformers and peft write with
the same base and head, one text at a time. `rule` judges simulated answers of good canaries and of bad ones.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError
from lab.bench.questions import OWN, Question, read_questions, spread
from lab.benchmarks import _common
from lab.benchmarks.serve.texts import Asked, Tokens
from lab.benchmarks.updates.rolling import Rolled, updates
from lab.benchmarks.updates.simulated import ANSWERS, judged

SECTIONS = ("updates", "rule")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done.

    Attributes:
        updates, sessions, texts, tokens: in a row, under so many sessions, of different texts, of so many tokens.
        simulated: canaries of each bad kind, and good ones.
    """

    updates: int = 10
    sessions: int = 16
    texts: int = 12
    tokens: int = 40
    simulated: tuple[int, int] = (300, 500)


QUICK = Sizes(1, 4, 3, 16, (30, 50))


class _Run:
    """A call of the benchmark."""

    def __init__(self, args: argparse.Namespace, questions: Sequence[Question]) -> None:
        size = QUICK if args.quick else Sizes()
        self._size = size
        self._updates: int = args.updates or size.updates
        self._questions = [question.text for question in questions]
        self._began = time.monotonic()

    @cached_property
    def _tokens(self) -> Tokens:
        return Tokens()

    @property
    def _asked(self) -> Sequence[Asked]:
        return self._tokens.questions(self._questions[: self._size.texts], self._size.tokens)

    def say(self, line: str) -> None:
        _common.say(f"[{time.monotonic() - self._began:6.1f} s] {line}")

    async def updates(self) -> dict[str, Any]:
        found = await updates(self._tokens, self._asked, self._updates, self._size.sessions, self.say)
        _show_updates(found, self._size.sessions)
        return found.facts()

    async def rule(self) -> dict[str, Any]:
        found = []
        for one in judged(*self._size.simulated):
            found.append(one)
            self.say(f"{one.canaries} simulated canaries, {one.kind}: {one.aborted} aborted")
        print(f"\nthe rule of flexspec head watch on simulated answers, aborted within {ANSWERS} answers")
        rows = [[one.kind, one.at_once, one.aborted, one.canaries] for one in found]
        print(_common.table(["canary", "answers a status", "aborted", "of"], rows))
        return {"canaries": [one.facts() for one in found]}


def _show_updates(found: Rolled, sessions: int) -> None:
    print(f"\n{len(found.updates)} updates under {sessions} sessions over 2 workers")
    rows = [
        [
            f"{one.version} {one.head}",
            *one.ready,
            one.first,
            one.stale,
            *one.payload,
            one.quiet_edge["mqtt"].get("catalogue", 0),
            one.quiet_edge["mqtt"].get("worker status", 0),
            one.quiet_edge["ip_down"],
            one.quiet_edge["ip_up"],
            one.quiet_edge["seconds"],
        ]
        for one in found.updates
    ]
    headers = ["", "ready, s", "all", "first new, s", "stale", "payload, B", "versions"]
    headers += ["catalogue, B", "status, B", "IP down, B", "up", "in s"]
    print(_common.table(headers, rows))
    print(f"{found.texts} texts, {found.failed} failed, {found.inexact} inexact")
    for error in found.errors:
        print(f"  {error}")
    for title, spreads in (("between pieces", found.gaps), ("to the first piece", found.firsts)):
        rows = [[name, *spread] for name, spread in spreads.items() if spread]
        print(_common.table([f"seconds {title}", "p50", "p99", "longest"], rows))
    quiet = found.quiet_bytes
    rate = quiet["ip_down"] / quiet["seconds"]
    print(f"an edge that asks nothing, without an update: {rate:.0f} B of IP a second down")


def build_parser() -> argparse.ArgumentParser:
    """The benchmark's flags."""
    made = _common.parser(__doc__ or "")
    made.add_argument(
        "--sections",
        nargs="+",
        choices=SECTIONS,
        default=argparse.SUPPRESS,
        help="what to measure (default: all)",
    )
    made.add_argument("--updates", type=int, metavar="N", help="updates in a row")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv)


def _main(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.updates is not None and args.updates < 1:
        raise UsageError(f"--updates {args.updates} is less than 1")
    questions = spread(read_questions(args.prompts or OWN), 96)
    if len(questions) < 12:
        raise UsageError("fewer than 12 questions", hint="the load asks different things")
    run = _Run(args, questions)
    sections: dict[str, Callable[[], Coroutine[Any, Any, dict[str, Any]]]] = {
        "updates": run.updates,
        "rule": run.rule,
    }
    chosen = getattr(args, "sections", SECTIONS)
    results = {name: asyncio.run(sections[name]()) for name in chosen}
    _common.finish("evolution", results, quick=args.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
