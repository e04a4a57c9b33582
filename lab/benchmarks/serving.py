"""Load: what users of the API see of streams with drafts and without, and of thousands of requests.

Everything runs as users run it: Mosquitto, ``flexspec-cloud`` and ``flexspec-edge serve`` as processes with the
default model, asked over HTTP. Texts are compared with what the target alone writes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError
from lab.bench.questions import OWN, Question, read_questions, spread
from lab.benchmarks import _common
from lab.benchmarks.serve.crowd import soak
from lab.benchmarks.serve.streams import DEFAULT, STREAMING, ratio, streams
from lab.benchmarks.serve.texts import Tokens, references

SECTIONS = ("streams", "soak")
QUICK_SECTIONS = ("soak",)
"""The other one takes longer than a minute, most of it for daemons to start."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done.

    Attributes:
        streams_rounds, streams_tokens: turns of each number of streams, tokens of a text.
        soak, soak_texts, soak_tokens: requests, different ones among them, tokens of a text at most.
    """

    streams_rounds: int = 4
    streams_tokens: int = 64
    soak: int = 2000
    soak_texts: int = 96
    soak_tokens: int = 8


QUICK = Sizes(1, 16, 64, 8, 4)


class _Run:
    """A call of the benchmark."""

    def __init__(self, args: argparse.Namespace, questions: Sequence[Question]) -> None:
        self._questions = [question.text for question in questions]
        self._seed: int = args.seed
        self._size = QUICK if args.quick else Sizes()
        self._tokens = Tokens()
        self._began = time.monotonic()

    def say(self, line: str) -> None:
        _common.say(f"[{time.monotonic() - self._began:6.1f} s] {line}")

    async def streams(self) -> dict[str, Any]:
        size = self._size
        found = await streams(self._questions, size.streams_tokens, size.streams_rounds, self._seed, self.say)
        rows = []
        results: dict[str, Any] = {}
        for (count, nodes), rates in found.items():
            medians = {name: statistics.median(one) for name, one in rates.items()}
            rows.append([count, nodes, medians[DEFAULT], medians[STREAMING], ratio(rates)])
            results[f"{count} of {nodes}"] = {**rates, "ratio": ratio(rates)}
        print(f"\ntokens/s of all streams end to end, {size.streams_tokens} tokens each, one worker")
        print(_common.table(["streams", "nodes", DEFAULT, STREAMING, "ratio, median of turns"], rows))
        return results

    async def soak(self) -> dict[str, Any]:
        size = self._size
        asked = self._asked(size.soak_texts, size.soak_tokens)
        self.say(f"soak: the target alone writes {len(asked)} texts")
        own = await references(self._tokens, asked, 2)
        found = await soak(asked, own, size.soak, 32, self.say)
        print(f"\n{size.soak} requests, 32 at a time, one edge node and one worker")
        headers = ["texts", "failed", "wrong", "median, s", "slowest"]
        print(_common.table(headers, [list(asdict(found).values())]))
        return asdict(found)

    def _asked(self, count: int, limit: int) -> list[Any]:
        questions = self._questions[:count]
        rounds = -(-count // len(questions))
        return self._tokens.questions(questions, limit, rounds=rounds)[:count]


def build_parser() -> argparse.ArgumentParser:
    """The benchmark's flags."""
    made = _common.parser(__doc__ or "")
    made.add_argument(
        "--sections",
        nargs="+",
        choices=SECTIONS,
        default=argparse.SUPPRESS,
        help=f"what to measure (default: all; with --quick {' and '.join(QUICK_SECTIONS)})",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv)


def _main(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    questions = spread(read_questions(args.prompts or OWN), 96)
    if len(questions) < 4:
        raise UsageError("fewer than 4 questions", hint="crowds ask different things")
    run = _Run(args, questions)
    sections: dict[str, Callable[[], Coroutine[Any, Any, dict[str, Any]]]] = {
        "streams": run.streams,
        "soak": run.soak,
    }
    chosen = getattr(args, "sections", QUICK_SECTIONS if args.quick else SECTIONS)
    results = {name: asyncio.run(sections[name]()) for name in chosen}
    _common.finish("serving", results, quick=args.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
