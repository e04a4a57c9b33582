"""A target family that evolves: updates in a row under a steady load, and what becomes of texts.

Everything runs as users run it: Mosquitto, ``flexspec-cloud``, ``flexspec-edge serve`` and ``flexspec head`` as
processes, with the default model and the heads that ship. Texts are compared with what transformers and peft write with
the same base and head, one text at a time.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flexspec_mq.chat.api import ApiClient, api_at
from flexspec_mq.chat.settings import ChatOptions
from flexspec_mq.errors import UsageError
from lab.bench.client import StreamedAnswer, ask, unbounded
from lab.bench.questions import OWN, read_questions, spread
from lab.benchmarks import _common
from lab.benchmarks.exact.texts import Asked, Tokens, references
from lab.testbed.deployment import with_broker
from lab.testbed.family import EXAMPLES, HEADS, Operator, until_listed

FAMILY = "smol"
WORKERS = ("w1", "w2")
_FULL, _QUICK = (10, 16, 12, 40), (1, 4, 3, 16)
"""Updates in a row, sessions at a time, different texts, and tokens of each."""
_KEPT = 4
"""Versions of the catalogue that are not retired."""
_SETTLE = 2.0

Load = list[tuple[Asked, StreamedAnswer]]
"""Texts that were asked for, and what came of them."""


@dataclass(slots=True)
class Rolled:
    """Outcome of all updates.

    Attributes:
        ready: seconds from the beginning of each publication until its version is served, by version and head.
        texts, failed, inexact: of the load; a text is inexact if its version alone writes another one.
        versions: texts by the version that wrote them.
        errors: the first few.
    """

    ready: dict[str, float] = field(default_factory=dict)
    texts: int = 0
    failed: int = 0
    inexact: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


async def updates(
    tokens: Tokens, asked: Sequence[Asked], count: int, sessions: int, say: Callable[[str], None]
) -> Rolled:
    """Publish so many versions under a load of so many sessions.

    Args:
        tokens: tokens of the target.
        asked: texts that the load asks for, over and over.
        count: updates.
        sessions: sessions of the load, all the time.
        say: told what happens.
    """
    rolled = Rolled()
    with tempfile.TemporaryDirectory(prefix="flexspec-heads-") as folder:
        async with with_broker() as here:
            operator = await Operator.create(here, FAMILY, Path(folder))
            await operator.begin("v0", await operator.base())
            say("workers and edge start")
            started = [here.worker(name, *operator.follow(name)) for name in WORKERS]
            *_, edge = await asyncio.gather(*started, here.edge("e1", *operator.follow("e1")))
            async with (
                api_at(ChatOptions(url=edge.url)) as api,
                steady_load([edge.url], asked, sessions, FAMILY) as load,
            ):
                while len(load) < sessions:  # noqa: ASYNC110  clients append to it
                    await asyncio.sleep(0.1)
                say(f"{sessions} sessions go on")
                for number in range(1, count + 1):
                    await _update(operator, api, number, rolled, say)
                    await asyncio.sleep(_SETTLE)
                await asyncio.sleep(5.0)
    await _judge(tokens, load, rolled, say)
    return rolled


async def _update(
    operator: Operator, api: ApiClient, number: int, rolled: Rolled, say: Callable[[str], None]
) -> None:
    version, head, began = f"v{number}", _head_of(number), time.perf_counter()
    await operator.publish(version, EXAMPLES / head, "--state", "stable")
    await until_listed(api, f"{FAMILY}:{version}")
    rolled.ready[f"{version} {head}"] = seconds = time.perf_counter() - began
    say(f"{version} ({head}) is served after {seconds:.1f} s")
    if number >= _KEPT:
        await operator.head("retire", f"v{number - _KEPT}")


def _head_of(number: int) -> str:
    """Name of the head of an update; none is the base."""
    return HEADS[(number - 1) % len(HEADS)] if number else ""


@asynccontextmanager
async def steady_load(
    urls: Sequence[str], asked: Sequence[Asked], sessions: int, model: str
) -> AsyncIterator[Load]:
    """So many clients ask one text after the other, of nodes in turn; at the end they finish what they have begun."""
    found: Load = []
    going = True

    async def client(turn: int) -> None:
        while going:
            one = asked[turn % len(asked)]
            answer = await ask(http, urls[turn % len(urls)], {**one.body(), "model": model})
            found.append((one, answer))
            turn += 1
            if answer.error:
                await asyncio.sleep(0.2)

    async with unbounded() as http, asyncio.TaskGroup() as group:
        for number in range(sessions):
            group.create_task(client(number))
        try:
            yield found
        finally:
            going = False


async def _judge(tokens: Tokens, load: Load, rolled: Rolled, say: Callable[[str], None]) -> None:
    """Compare each text with what transformers and peft write."""
    good = [(one, answer, _version(answer)) for one, answer in load if not answer.error]
    rolled.texts, rolled.failed = len(load), len(load) - len(good)
    rolled.errors = [answer.error for _, answer in load if answer.error][:5]
    rolled.versions = dict(Counter(version for *_, version in good))
    heads = {version: _head_of(int(version.removeprefix("v"))) for version in rolled.versions}
    for head in dict.fromkeys(heads.values()):
        texts = [(one, answer) for one, answer, version in good if heads[version] == head]
        say(f"transformers {'and peft write' if head else 'writes'} what {head or 'the base'} alone writes")
        own = await references(
            tokens, [one for one, _ in texts], 2, head=str(EXAMPLES / head) if head else ""
        )
        rolled.inexact += sum(answer.text != own[one] for one, answer in texts)


def _version(answer: StreamedAnswer) -> str:
    return str(answer.usage["flexspec"]["version"])


def build_parser() -> argparse.ArgumentParser:
    """The benchmark's flags."""
    made = _common.parser(__doc__ or "")
    made.add_argument("--updates", type=int, metavar="N", help="updates in a row")
    return made


@_common.program()
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
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
    print(f"\n{len(rolled.ready)} updates under {sessions} sessions over {len(WORKERS)} workers")
    print(_common.table(["", "served after, s"], [[name, seconds] for name, seconds in rolled.ready.items()]))
    print(f"{rolled.texts} texts, {rolled.failed} failed, {rolled.inexact} inexact", *rolled.errors, sep="\n")
    _common.finish("evolution", {"updates": asdict(rolled)}, quick=args.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
