"""An update of the target while an answer streams: versions, acceptance of each, and what the device received."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
import uuid
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexspec_mq.chat.answer import AnswerView
from flexspec_mq.chat.api import ApiClient, Told, api_at
from flexspec_mq.chat.settings import ChatOptions
from flexspec_mq.demo.main import together
from flexspec_mq.demo.recording import record
from flexspec_mq.demo.screen import Screen
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.models.checkpoint import need_libraries
from lab.benchmarks._common import program
from lab.testbed.deployment import local_deployment
from lab.testbed.family import EXAMPLES, HEADS, Operator, until_listed
from lab.testbed.packet_counter import packet_counter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.testbed.deployment import Daemon, LocalDeployment
    from lab.testbed.packet_counter import Carried, PacketCounter

FAMILY = "smol"
OLD, NEW = "v1", "v2"
_QUESTION = "Name four things that a healthy breakfast can have."
_LONG = "Write a long story about a fisherman and the sea."
_SHORT, _LONGEST = 60, 6000
"""Tokens."""
_LATER = (
    "What should one look for when buying a used bicycle?",
    "How do trees survive the winter?",
    "Name four ways to save water at home.",
)
_SAYS = ("--log-format", "human")
_BUG = "this is a bug: please report it"


@program(extras="models,serve,heads")
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lab.demo.evolution", description=__doc__)
    new = "which of the heads that ship becomes the new version (default: style, terse bullets)"
    parser.add_argument("--head", choices=HEADS, default="style", help=new)
    limit = f"of each text but the long one (default: {_SHORT})"
    parser.add_argument("--max-tokens", type=int, default=_SHORT, help=limit)
    args = parser.parse_args(argv)
    need_libraries("the demo")
    asyncio.run(_run(EXAMPLES / args.head, args.max_tokens, Screen()))
    return 0


async def _run(head: Path, limit: int, screen: Screen) -> None:
    async with local_deployment(with_us=signal.SIGTERM) as place:
        with tempfile.TemporaryDirectory(prefix="flexspec-family-") as folder:
            await place.start_broker()
            operator = await _new_family(place, Path(folder), screen)
            async with packet_counter(place.port) as wire:
                edge = await _followers(operator, wire, screen)
                async with api_at(ChatOptions(url=edge.url)) as api:
                    await until_listed(api, f"{FAMILY}:{OLD}")
                    await _Update(operator, wire, api, edge.url, screen, limit).show(head)


async def _new_family(place: LocalDeployment, folder: Path, screen: Screen) -> Operator:
    screen.say(f"broker    Mosquitto on {place.host}:{place.port}")
    screen.say("operator  makes a root key, an online key and the key set that names it; the base becomes v1")
    operator = await Operator.create(place, FAMILY, folder)
    screen.say("          " + (await operator.begin(OLD, await operator.base())).strip())
    return operator


async def _followers(operator: Operator, wire: PacketCounter, screen: Screen) -> Daemon:
    """Start a worker and an edge that follow the family; return the edge."""
    place = operator.deployment
    with screen.bars("worker", "edge") as tell:
        say = {name: partial(tell, task=name) for name in ("worker", "edge")}
        flags = {name: (*_SAYS, *operator.follow(name)) for name in say}
        worker, edge = await together(
            place.worker("worker", *flags["worker"], say=say["worker"]),
            place.edge("edge", *flags["edge"], f"--broker=127.0.0.1:{wire.port}", say=say["edge"]),
        )
    screen.say(f"worker    follows {FAMILY}, verification {worker.ready['exactness']}")
    screen.say(f"edge      follows {FAMILY}, with its one draft, which it keeps through all that follows")
    return edge


@dataclass(slots=True)
class _Update:
    """A run of the demo, once all daemons stand."""

    operator: Operator
    wire: PacketCounter
    api: ApiClient
    url: str
    screen: Screen
    limit: int

    async def show(self, head: Path) -> None:
        """Update while an answer streams.

        Raises:
            FlexSpecError: a text failed, or another version wrote it than should have, or it came out otherwise.
        """
        screen, asked = self.screen, _asked(_QUESTION, self.limit)
        screen.say(f"\n1. A text of {FAMILY}, which is {OLD} now.")
        screen.legend()
        first = await self._ask(asked, FAMILY, OLD, shown=True)
        screen.say(f"\n2. A long answer begins, and {head.name} becomes {NEW}: first a canary, then stable.")
        # Drawn at random: the likeliest text of a small model soon repeats itself, and is over before the promotion.
        long = {**_asked(_LONG, _LONGEST), "temperature": 1.0, "ignore_eos": True}
        streamed: dict[str, str] = {}
        streams = asyncio.create_task(self._stream(long, streamed), name="stream")
        before, began = self.wire.carried(), time.monotonic()
        screen.say("   " + (await self.operator.publish(NEW, head, "--share", "50")).strip())
        await until_listed(self.api, f"{FAMILY}:{NEW}")
        screen.say(f"   {NEW} is ready {time.monotonic() - began:.1f} s after the command; nothing restarted")
        tried = await self._ask(asked, f"{FAMILY}:canary", NEW)
        screen.say("   promoted: " + (await self.operator.head("promote", NEW)).strip())
        during = await self._ask(asked, FAMILY, NEW, shown=True)
        update = self.wire.carried().since(before)
        if streams.done():
            await streams
            raise FlexSpecError("the long answer ended before the promotion", hint=_BUG)
        streams.cancel()
        if set(streamed) != {OLD}:
            raise FlexSpecError(f"another version than {OLD} wrote a part of the long answer", hint=_BUG)
        beginning = streamed[OLD]
        screen.say(
            f"   {OLD} has written {len(beginning)} characters of the long answer all the while; that is enough"
        )
        screen.say(
            "\n3. Some more texts, and the earlier ones again, of the long one the beginning, each from its version."
        )
        for question in _LATER:
            for version in (OLD, NEW):
                await self._ask(_asked(question, self.limit), f"{FAMILY}:{version}", version)
        again = {**long, "max_tokens": _SHORT}
        earlier = (asked, OLD, first), (asked, NEW, tried), (asked, NEW, during), (again, OLD, beginning)
        for body, version, text in earlier:
            second = (await self._ask(body, f"{FAMILY}:{version}", version)).removesuffix("\ufffd")
            if second != text and not (body is again and text.startswith(second)):
                raise FlexSpecError(f"{version} wrote another text the second time", hint=_BUG)
        screen.say("   All came out the same to the last character.")
        await self._versions()
        self._bytes(update, head)

    async def _stream(self, body: dict[str, Any], streamed: dict[str, str]) -> None:
        """Keep what comes of an answer of the family by the version that it says, until somebody ends it."""
        asked, told = {**body, "model": FAMILY}, Told()
        async with aclosing(self.api.answer(asked, uuid.uuid4().hex, lambda _wait: None)) as chunks:
            async for chunk in chunks:
                text = "".join(piece for piece, _ in told.take(chunk))
                streamed[chunk.model] = streamed.get(chunk.model, "") + text

    async def _ask(self, body: dict[str, Any], model: str, version: str, *, shown: bool = False) -> str:
        """Have a version write a text.

        Raises:
            FlexSpecError: another one did, or there is no text.
        """
        asked = {**body, "model": model}
        if shown:
            self.screen.question(body["messages"][0]["content"])
            with AnswerView(self.screen.console) as answer:
                made = await record(self.url, asked, shown=answer)
        else:
            made = await record(self.url, asked)
        if made.took.version != version or not made.text:
            wrote = f"{made.took.version or 'nobody'} wrote {len(made.text)} characters"
            raise FlexSpecError(f"{wrote} where {version} should have", hint=_BUG)
        return made.text

    async def _versions(self) -> None:
        """Show the table of versions, as the operator sees it."""
        await asyncio.sleep(3.0)  # the edge's next status
        listed = await self.operator.listed()
        self.screen.say("\nversion   state      answers  errors  acceptance")
        for row in listed["versions"]:
            share = row["acceptance"]
            told = "–" if share is None else f"{share[1]:.2f} ({share[0]:.2f} to {share[2]:.2f})"
            counts = f"{row['answers']:7}  {row['errors']:6}"
            self.screen.say(f"{row['name']:8}  {row['state']:9}  {counts}  {told}")
            if row["errors"]:
                raise FlexSpecError(f"{row['errors']} texts of {row['name']} failed")

    def _bytes(self, update: Carried, head: Path) -> None:
        """Show what the device received for the update."""
        size = sum(file.stat().st_size for file in head.iterdir())
        self.screen.say(
            f"\nFrom the publication to the end of the text after it the edge received {update.ip_down:,} B of IP and "
            f"sent {update.ip_up:,} B, texts included. The head of {size:,} B went to the worker alone; the edge's "
            "draft is the one that it began with."
        )


def _asked(question: str, limit: int) -> dict[str, Any]:
    """Make the body of a request."""
    message = {"role": "user", "content": question}
    return {"messages": [message], "max_tokens": limit, "temperature": 0.0, "top_p": 1.0, "seed": 1}


if __name__ == "__main__":
    sys.exit(main())
