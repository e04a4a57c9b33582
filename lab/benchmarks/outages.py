"""Waits after an outage: of a text under way for its next token, of a request that came meanwhile for its first.

In a deployment as ``flexspec-broker init`` makes it, with TLS and keys, Mosquitto is killed and comes back after so
many seconds; or the link of three devices, an emulated one, carries nothing for so long (root, Linux). Seconds count
from the moment at which the broker listens again, or the link carries. All texts of a row meet the same outage.

With ``--site`` the devices connect to a broker on their side of the link, which is a bridge to the central one, and
``--fault site`` kills that one.
"""

import asyncio
import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx2
import msgspec

from flexspec_mq.errors import FlexSpecError, UsageError
from lab.bench.client import StreamedAnswer, ask, greedy, unbounded
from lab.benchmarks._common import finish, parser, percentile, program, say, table
from lab.testbed.link.profiles import LinkPlan, Outage, built_in
from lab.testbed.secured import SecuredDeployment, secured_deployment

DEVICES = ("d1", "d2", "d3")
P50_S, MOST_S = 1.5, 3.0
"""Bounds that are to hold."""
FAULTS = ("broker", "link", "site")
_BEGINS_S = 0.3
"""Seconds from where the link is set to, to where the outage begins."""
_APART = 1000.0
"""Seconds of the channel from one outage to the next."""
_LOOK = 0.02
_SUBJECTS = ("lighthouse", "river", "mountain", "library", "harbour", "railway", "garden", "island")


@dataclass(slots=True)
class Waits:
    """Seconds from an outage's end, of one length.

    Attributes:
        next: waits for the next piece of a text that was under way.
        first: waits for the first piece of a text that was asked for meanwhile.
        early: texts that were over before the outage was.
        failed: reasons of those that came to no end.
    """

    next: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    early: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether what is to hold does."""
        every = self.next + self.first
        return not self.failed and percentile(every, 0.5) <= P50_S and max(every) <= MOST_S


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--fault", choices=FAULTS, default="broker", help="what is away")
    made.add_argument("--site", action="store_true", help="devices are at a site with a broker of its own")
    made.add_argument("--lengths", type=float, nargs="+", default=[1.0, 5.0, 20.0, 60.0], help="in s")
    made.add_argument("--streams", type=int, default=15, help="texts under way in one outage")
    made.add_argument("--meanwhile", type=int, default=6, help="requests that come during one")
    made.add_argument("--tokens", type=int, default=768, help="of a text that is under way")
    made.add_argument("--profile", default="4g", help="of the link; its own outages are left out")
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument("--draft", default="default", help="of the devices")
    made.add_argument("--edge-flags", default="", help="of flexspec-edge")
    return made


def plan_of(profile: str, lengths: Sequence[float], seed: int) -> LinkPlan:
    """The link with an outage of each length, one a thousand seconds after the other, and no others.

    Raises:
        UsageError: no such profile, or a length that is none.
    """
    if not all(0.0 < length < _APART / 2 for length in lengths):
        raise UsageError(f"give lengths above 0 and below {_APART / 2:.0f} s")
    calm = msgspec.structs.replace(built_in().get(profile), outages=None)
    begins = [(number * _APART + _BEGINS_S, length) for number, length in enumerate(lengths, 1)]
    outages = tuple(Outage(begin, begin + length) for begin, length in begins)
    lasts = _APART * (len(lengths) + 2)
    return LinkPlan(profile, calm, seed, lasts_s=(lasts,) * len(calm.states), outages=outages)


async def measure(args: Namespace) -> dict[str, Waits]:
    """Waits by length."""
    link = plan_of(args.profile, args.lengths, args.seed) if args.fault == "link" else None
    found: dict[str, Waits] = {}
    say("a deployment with TLS and keys is made, and its daemons load their models")
    async with (
        secured_deployment(
            DEVICES,
            worker_flags=("--target", args.target, "--draft", "none"),
            edge_flags=("--draft", args.draft, "--wait", "120", *shlex.split(args.edge_flags)),
            link=link,
            sites=int(args.site or args.fault == "site"),
        ) as here,
        unbounded(kept=0) as http,
    ):
        for one in here.edges:
            await ask(http, one.url, body(0, 8))
        for number, length in enumerate(args.lengths, 1):
            name = f"{args.fault} {length:g} s"
            found[name] = waits = await meet(here, http, number, length, args)
            say(
                f"{name}: next {_span(waits.next)}, first {_span(waits.first)}, {waits.early} over early, "
                f"{len(waits.failed)} failed {waits.failed[:2]}"
            )
    return found


async def meet(
    here: SecuredDeployment, http: httpx2.AsyncClient, number: int, length: float, args: Namespace
) -> Waits:
    """Have texts written at all devices, and the outage begin when each has begun.

    Args:
        here: the deployment.
        http: without bounds on its connections.
        number: number of the outage, from 1.
        length: seconds.
        args: how many texts of how many tokens.
    """
    under_way = [StreamedAnswer() for _ in range(args.streams)]
    meanwhile = [StreamedAnswer() for _ in range(args.meanwhile)]
    urls = [one.url for one in here.edges]
    async with asyncio.TaskGroup() as group:
        for index, answer in enumerate(under_way):
            asked = body(number * 1000 + index, args.tokens)
            group.create_task(ask(http, urls[index % len(urls)], asked, answer=answer))
        while not all(answer.times or answer.ended for answer in under_way):  # noqa: ASYNC110  other tasks write them
            await asyncio.sleep(_LOOK)
        for index, answer in enumerate(meanwhile):
            later = length * (index + 0.5) / len(meanwhile)
            asked = body(number * 1000 + 500 + index, 16)
            group.create_task(_ask_later(later, http, urls[index % len(urls)], asked, answer))
        back = await _outage(here, number, length, args.fault)
    return _judge(under_way, meanwhile, back)


async def _outage(here: SecuredDeployment, number: int, length: float, fault: str) -> float:
    """Have the outage; when it ended, on the clock of `time.perf_counter`."""
    if here.link is None:
        return await (here.sites[0] if fault == "site" else here.broker).away(length)
    here.link.seek(number * _APART)
    back = time.perf_counter() + _BEGINS_S + length
    await asyncio.sleep(_BEGINS_S + length)
    return back


async def _ask_later(
    seconds: float, http: httpx2.AsyncClient, url: str, asked: dict[str, object], answer: StreamedAnswer
) -> None:
    await asyncio.sleep(seconds)
    await ask(http, url, asked, answer=answer)


def _judge(under_way: Sequence[StreamedAnswer], meanwhile: Sequence[StreamedAnswer], back: float) -> Waits:
    found = Waits()
    for answers, waits in ((under_way, found.next), (meanwhile, found.first)):
        for answer in answers:
            after = [at for at in answer.times if at > back]
            if answer.error:
                found.failed.append(answer.error)
            elif not after or (waits is found.first and after[0] > answer.times[0]):
                found.early += 1
            else:
                waits.append(after[0] - back)
    return found


def body(number: int, tokens: int) -> dict[str, object]:
    """A request that no other one has read before, for so many tokens."""
    subject = _SUBJECTS[number % len(_SUBJECTS)]
    return greedy(f"Story {number}: write a long story about a {subject}.", tokens)


def _span(waits: Sequence[float]) -> str:
    return f"{percentile(waits, 0.5):.2f} / {max(waits):.2f} s ({len(waits)})" if waits else "none"


@program()
def main(argv: Sequence[str]) -> int:
    """Entry point."""
    args = build_parser().parse_args(argv)
    if args.quick:
        args.lengths, args.streams, args.meanwhile = [2.0], 3, 3
    found = asyncio.run(measure(args))
    rows = [
        (
            name,
            len(waits.next),
            percentile(waits.next, 0.5),
            max(waits.next),
            len(waits.first),
            percentile(waits.first, 0.5) if waits.first else None,
            max(waits.first, default=None),
            len(waits.failed),
        )
        for name, waits in found.items()
        if waits.next
    ]
    print(table(("outage", "texts", "next p50 s", "most", "asked", "first p50 s", "most", "failed"), rows))
    finish("outages", {name: msgspec.to_builtins(waits) for name, waits in found.items()}, quick=args.quick)
    if not all(waits.kept for waits in found.values()):
        raise FlexSpecError(
            f"not within {P50_S:g} s in the median and {MOST_S:g} s at most, or a text failed"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
