"""A target family that evolves: updates under load.

Everything runs as users run it: Mosquitto, ``flexspec-cloud``, ``flexspec-edge serve`` and ``flexspec head`` as
processes, with the default model and the heads that ship. Texts are compared with what transformers and peft write with
the same base and head, one text at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError
from lab.bench.questions import OWN, read_questions, spread
from lab.benchmarks import _common
from lab.benchmarks.updates.rolling import Rolled, updates
from lab.benchmarks.updates.texts import Tokens

_FULL, _QUICK = (10, 16, 12, 40), (1, 4, 3, 16)
"""Updates in a row, sessions at a time, different texts, and tokens of each."""


def _show_updates(found: Rolled, sessions: int) -> None:
    print(f"\n{len(found.updates)} updates under {sessions} sessions over 2 workers")
    rows = [[f"{one.version} {one.head}", *one.ready] for one in found.updates]
    print(_common.table(["", "ready, s", "all"], rows))
    print(f"{found.texts} texts, {found.failed} failed, {found.inexact} inexact")
    for error in found.errors:
        print(f"  {error}")


def build_parser() -> argparse.ArgumentParser:
    """The benchmark's flags."""
    made = _common.parser(__doc__ or "")
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
    count, sessions, texts, tokens = _QUICK if args.quick else _FULL
    began, reader = time.monotonic(), Tokens()
    asked = reader.questions([question.text for question in questions[:texts]], tokens)

    def say(line: str) -> None:
        _common.say(f"[{time.monotonic() - began:6.1f} s] {line}")

    rolled = asyncio.run(updates(reader, asked, args.updates or count, sessions, say))
    _show_updates(rolled, sessions)
    _common.finish("evolution", {"updates": asdict(rolled)}, quick=args.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
