"""An update of the target while an answer streams: versions, acceptance of each, and what the device received."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
import uuid
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import flexspec_mq.heads
from flexspec_mq.chat.api import Api, api_at
from flexspec_mq.chat.settings import ChatOptions
from flexspec_mq.chat.wire import content, pieces
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.models.checkpoint import need_libraries
from lab.demo.main import together
from lab.demo.screen import Screen
from lab.testbed.site.family import Operator
from lab.testbed.site.packet_counter import tap
from lab.testbed.site.topology import site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flexspec_mq.terminal.answer import Answer
    from lab.testbed.site.packet_counter import Received, Tap
    from lab.testbed.site.topology import Site

EXAMPLES = Path(flexspec_mq.heads.__file__).parent / "examples"
FAMILY = "smol"
OLD, NEW = "v1", "v2"
_QUESTION = "Name four things that a healthy breakfast can have."
_LONG = "Write a long story about a fisherman and the sea."
_SHORT, _LONGEST = 60, 700
"""Tokens."""
_LATER = (
    "What should one look for when buying a used bicycle?",
    "How do trees survive the winter?",
    "Name four ways to save water at home.",
)
_PATIENCE = 120.0
_SAYS = ("--log-format", "human")


@dataclass(slots=True)
class _Text:
    """What one request gave."""

    question: str
    limit: int
    is_long: bool = False
    """The long one: to its limit, and drawn at random. The likeliest text of a small model soon repeats itself: its
    drafts are right, and it is over before the promotion."""
    text: str = ""
    version: str = ""
    accepted: int = 0
    drafted: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run, argv, extras="models,serve,heads")


def build_parser() -> argparse.ArgumentParser:
    """The demo's flags."""
    parser = argparse.ArgumentParser(prog="python -m lab.demo.evolution", description=__doc__)
    parser.add_argument(
        "--head",
        choices=sorted(one.name for one in EXAMPLES.iterdir() if one.is_dir()),
        default="style",
        help="which of the heads that ship becomes the new version (default: style, terse bullets)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=_SHORT,
        help=f"of each text but the long one (default: {_SHORT})",
    )
    return parser


def run(argv: Sequence[str], screen: Screen | None = None) -> int:
    """Run the demo with these flags on a screen, standard output by default; returns the exit code."""
    args = build_parser().parse_args(argv)
    need_libraries("the demo")
    asyncio.run(_run(EXAMPLES / args.head, args.max_tokens, screen or Screen()))
    return 0


async def _run(head: Path, limit: int, screen: Screen) -> None:
    async with site(with_us=signal.SIGTERM) as here:
        with tempfile.TemporaryDirectory(prefix="flexspec-family-") as folder:
            await here.start_broker()
            operator = await _new_family(here, Path(folder), screen)
            async with tap(here.port) as wire, _followers(operator, wire, screen) as api:
                await _Demo(operator, wire, api, screen, limit).show(head)


async def _new_family(here: Site, folder: Path, screen: Screen) -> Operator:
    screen.say(f"broker    Mosquitto on {here.host}:{here.port}")
    screen.say("operator  makes a root key, an online key and the key set that names it; the base becomes v1")
    operator = await Operator.of(here, FAMILY, folder)
    screen.say("          " + (await operator.begin(OLD, await operator.base())).strip())
    return operator


@asynccontextmanager
async def _followers(operator: Operator, wire: Tap, screen: Screen) -> AsyncIterator[Api]:
    """A worker and an edge that follow the family; the edge's API."""
    here = operator.site
    with screen.bars("worker", "edge") as tell:
        worker, edge = await together(
            here.worker("worker", *_SAYS, *operator.follow("worker"), say=lambda line: tell(line, "worker")),
            here.edge(
                "edge",
                *_SAYS,
                *operator.follow("edge"),
                f"--broker=127.0.0.1:{wire.port}",
                say=lambda line: tell(line, "edge"),
            ),
        )
    screen.say(f"worker    follows {FAMILY}, verification {worker.ready['exactness']}")
    screen.say(f"edge      follows {FAMILY}, with its one draft, which it keeps through all that follows")
    async with api_at(ChatOptions(url=edge.url)) as api:
        await _until_listed(api, f"{FAMILY}:{OLD}")
        yield api


async def _until_listed(api: Api, name: str) -> None:
    """Wait until the edge's ``/v1/models`` has a name: a worker serves it.

    Raises:
        FlexSpecError: it has not.
    """
    ends = time.monotonic() + _PATIENCE
    while name not in await api.models():
        if time.monotonic() > ends:
            raise FlexSpecError(f"no worker serves {name} after {_PATIENCE:.0f} s")
        await asyncio.sleep(0.05)


@dataclass(slots=True)
class _Demo:
    """One run, once all of it stands."""

    operator: Operator
    wire: Tap
    api: Api
    screen: Screen
    limit: int

    async def show(self, head: Path) -> None:
        """Update while an answer streams.

        Raises:
            FlexSpecError: a text failed, or another version wrote it than should have, or it came out otherwise.
        """
        screen = self.screen
        screen.say(f"\n1. A text of {FAMILY}, which is {OLD} now.")
        screen.legend()
        first = await self._ask(self._short(), FAMILY, shown=True)
        _wrote(first, OLD)
        screen.say(f"\n2. A long answer begins, and {head.name} becomes {NEW}: first a canary, then stable.")
        streams = asyncio.create_task(self._ask(_Text(_LONG, _LONGEST, is_long=True), FAMILY), name="stream")
        before = self.wire.received()
        began = time.monotonic()
        screen.say("   " + (await self.operator.publish(NEW, head, "--share", "50")).strip())
        await _until_listed(self.api, f"{FAMILY}:{NEW}")
        screen.say(f"   {NEW} is ready {time.monotonic() - began:.1f} s after the command; nothing restarted")
        tried = await self._ask(self._short(), f"{FAMILY}:canary")
        _wrote(tried, NEW)
        screen.say("   promoted: " + (await self.operator.head("promote", NEW)).strip())
        during = await self._ask(self._short(), FAMILY, shown=True)
        _wrote(during, NEW)
        update = self.wire.received() - before
        goes_on = not streams.done()
        long = await streams
        _wrote(long, OLD)
        screen.say(
            f"   the long answer, of {len(long.text)} characters, "
            f"{'streamed all the while and ended' if goes_on else 'ended'} with {long.version}"
        )
        screen.say("\n3. Some more texts, and each of the earlier ones again, from its version by name.")
        for question in _LATER:
            for version in (OLD, NEW):
                _wrote(await self._ask(self._short(question), f"{FAMILY}:{version}"), version)
        for one in (first, tried, during, long):
            again = await self._ask(_Text(one.question, one.limit, one.is_long), f"{FAMILY}:{one.version}")
            if again.text != one.text:
                raise FlexSpecError(
                    f"{one.version} wrote another text the second time",
                    hint="this is a bug: please report it",
                )
        screen.say("   All came out the same to the last character.")
        await self._versions()
        self._bytes(update, head)
        if not goes_on:
            raise FlexSpecError("the long answer ended before the promotion", hint="try again")

    def _short(self, question: str = _QUESTION) -> _Text:
        return _Text(question, self.limit)

    async def _ask(self, found: _Text, model: str, *, shown: bool = False) -> _Text:
        if not shown:
            await self._read(found, model, None)
            return found
        self.screen.question(found.question)
        with self.screen.answer() as answer:
            await self._read(found, model, answer)
        share = f"{found.accepted / found.drafted:.0%}" if found.drafted else "–"
        self.screen.say(f"   {found.version} wrote it; {share} of {found.drafted} drafted tokens accepted")
        return found

    async def _read(self, found: _Text, model: str, shown: Answer | None) -> None:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": found.question}],
            "max_tokens": found.limit,
            "temperature": 1.0 if found.is_long else 0.0,
            "top_p": 1.0,
            "seed": 1,
            "ignore_eos": found.is_long,
        }
        async with aclosing(self.api.answer(body, uuid.uuid4().hex, lambda _wait: None)) as chunks:
            async for chunk in chunks:
                found.text += content(chunk)
                if shown is not None:
                    shown.text(pieces(chunk))
                if chunk.usage:
                    told = chunk.usage.flexspec
                    found.version, found.accepted, found.drafted = told.version, told.accepted, told.drafted
        if not found.version:
            raise FlexSpecError("a text came without figures", hint="this is a bug: please report it")

    async def _versions(self) -> None:
        """The table of versions, as the operator sees it."""
        await asyncio.sleep(3.0)  # the edge's next status
        listed = await self.operator.listed()
        self.screen.say("\nversion   state      answers  errors  acceptance")
        for one in listed["versions"]:
            found = one["acceptance"]
            told = "–" if found is None else f"{found[1]:.2f} ({found[0]:.2f} to {found[2]:.2f})"
            self.screen.say(
                f"{one['name']:8}  {one['state']:9}  {one['answers']:7}  {one['errors']:6}  {told}"
            )
            if one["errors"]:
                raise FlexSpecError(f"{one['errors']} texts of {one['name']} failed")

    def _bytes(self, update: Received, head: Path) -> None:
        """What the device received for the update."""
        size = sum(one.stat().st_size for one in head.iterdir())
        self.screen.say("\nWhat the edge received from the publication to the end of the text after it:")
        for kind, count in sorted(update.messages.items()):
            self.screen.say(f"  {kind:14} {count:5} messages  {update.mqtt[kind]:8,} B of MQTT")
        self.screen.say(
            f"All of its TCP connection, texts included: {update.ip_down:,} B of IP down, {update.ip_up:,} B up."
        )
        self.screen.say(
            f"The update itself is the catalogue, twice: {update.mqtt['catalogue']:,} B. "
            f"The head of {size:,} B went to the worker alone; the edge's draft is the one that it began with."
        )


def _wrote(text: _Text, version: str) -> None:
    """See that a version wrote a text.

    Raises:
        FlexSpecError: another one did, or there is no text.
    """
    if text.version != version or not text.text:
        raise FlexSpecError(
            f"{text.version or 'nobody'} wrote {len(text.text)} characters where {version} should have",
            hint="this is a bug: please report it",
        )


if __name__ == "__main__":
    sys.exit(main())
