"""Text that a user has while the link is away, and time to the complete answer afterwards, by way to ask.

    sudo .venv/bin/python -m lab.benchmarks.offline --cuts 3 30 --channels tunnel --recorded data/traces/NAME

In a deployment as ``flexspec-broker init`` makes it, with TLS and keys, over an emulated link: each outage meets one
text of every way in mid-answer, or with ``--apart`` each way by itself. Beside the ways of an edge node stand streams
over the same link: of an edge node beside the worker (`stream`), and of llama.cpp's server where ``llama-server`` is
installed (`llama`). Their connections outlive the outage, as if the device kept its address. Who asks again does so
once the link is back and all else is written. With ``--kill`` the devices are killed as the link goes and started again
before it is back; users ask again by the same key. ``--devices 50 --abreast 50 --ways deliver`` has a crowd come back.
"""

import asyncio
import contextlib
import shlex
import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice, product, takewhile
from pathlib import Path
from typing import Any

import httpx2

from flexspec_mq.errors import FlexSpecError
from flexspec_mq.waiting import PATIENCE
from lab.bench.client import StreamedAnswer, ask, unbounded
from lab.benchmarks._common import finish, parser, percentile, program, say, table
from lab.benchmarks.answers import LLAMA, llama_server
from lab.benchmarks.outages import body, plan_of
from lab.testbed.deployment import free_port
from lab.testbed.link.namespaces import inside
from lab.testbed.link.netns import NetnsLink
from lab.testbed.link.profiles import LinkPlan, Outage, built_in
from lab.testbed.link.recorded import recorded
from lab.testbed.link.timeline import outages_of
from lab.testbed.metrics import figures
from lab.testbed.secured import SecuredDeployment, secured_deployment

WAYS: Mapping[str, dict[str, Any]] = {
    "hold": {},
    "provisional": {"offline": "provisional"},
    "deliver": {"offline": "deliver"},
    "stream": {},
    "llama": {},
}
"""Ways to ask, and what a request says for it."""
_HUB = "hub"
_KEY = "a-key-of-the-laboratory"
_WARM = 999_983
"""Number of the text that is asked for beforehand."""
_BEGINS_S = 0.2
"""Seconds from where the link is set to, to where the outage begins."""
_CALM_S = 20.0
"""Seconds without an outage in which texts begin."""
_LOOK = 0.005
_STARTS_S = 4.0
"""Seconds that an edge node takes to start, at most."""
_COMES_BACK = 60.0
"""Seconds after an outage after which nobody waits any longer."""
_HOURS = 7200.0
"""Seconds of a channel without an end that are looked at."""


@dataclass(slots=True)
class Text:
    """A text that an outage met.

    Attributes:
        way: name of the way to ask.
        number: texts of one number are equal, but for those of other software.
        answer: the answer, as it came.
        at_cut, at_back: characters that could be read when the link went and when it was back.
        confirmed, provisional: text of each kind when the link was back.
        cut, back: times of both, on the clock of `time.perf_counter`.
        again: the answer to who asks again; None if nobody does.
        killed: the device was killed meanwhile, so `again` counts.
        online: when the device knew a worker again, where it was killed.
        forwards: number and seconds of the worker's forwards from then on until the last text of the outage was over.
    """

    way: str
    number: int
    answer: StreamedAnswer = field(default_factory=StreamedAnswer)
    at_cut: int = 0
    at_back: int = 0
    confirmed: str = ""
    provisional: str = ""
    cut: float = 0.0
    back: float = 0.0
    again: StreamedAnswer | None = None
    killed: bool = False
    online: float = 0.0
    forwards: tuple[float, float] = (0.0, 0.0)

    @property
    def final(self) -> StreamedAnswer:
        """The answer that counts."""
        return self.again if self.killed and self.again else self.answer

    @property
    def complete(self) -> bool:
        """Whether all of it came, and all of it confirmed."""
        return not self.final.error and self.final.reason in {"stop", "length"}

    @property
    def first(self) -> float | None:
        """Seconds from the cut to the first characters that were new."""
        new = (at for at, many in self.answer.readable if many > self.at_cut and self.cut < at < self.back)
        at = next(new, None)
        return None if at is None else at - self.cut

    @property
    def kept(self) -> int:
        """Characters that stood there unverified when the link was back and came to be confirmed."""
        final = self.final.text[len(self.confirmed) :]
        same = takewhile(lambda pair: pair[0] == pair[1], zip(self.provisional, final, strict=False))
        return sum(1 for _ in same)

    @property
    def tokens(self) -> tuple[int, int]:
        """Number of tokens that the draft wrote alone, and of those that were confirmed, as the API tells them."""
        ours = self.final.usage.get("flexspec", {})
        return ours.get("provisional", 0), ours.get("provisional_confirmed", 0)

    def facts(self) -> dict[str, Any]:
        """All that was measured, without the texts."""
        return {
            "way": self.way,
            "number": self.number,
            "away": self.back - self.cut,
            "readable_after": self.first,
            "more_characters": self.at_back - self.at_cut,
            "provisional_characters": len(self.provisional),
            "of_them_confirmed": self.kept,
            "provisional_tokens": self.tokens,
            "asked_to_cut": self.cut - self.answer.began,
            "return_to_complete": self.final.ended - self.back if self.complete else None,
            "online_to_complete": self.final.ended - self.online if self.complete and self.online else None,
            "reason": self.final.error or self.final.reason,
            "forwards": self.forwards,
            "asked_again": self.again.seconds if self.again else None,
        }


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--cuts", type=float, nargs="*", default=[3.0, 30.0], help="lengths of outages of 4g in s"
    )
    made.add_argument("--channels", nargs="*", default=["tunnel"], help="links with outages of their own")
    made.add_argument("--recorded", type=Path, nargs="*", default=[], help="recordings, without .up.gz")
    made.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="ways to ask")
    made.add_argument("--answers", type=int, default=20, help="texts of a way in each row")
    made.add_argument("--apart", action="store_true", help="each way meets each outage by itself")
    made.add_argument("--abreast", type=int, default=1, help="texts of a way that one outage meets")
    made.add_argument("--devices", type=int, default=1, help="edge nodes, which texts are spread over")
    made.add_argument(
        "--kill", action="store_true", help="devices are killed in the outage and started again"
    )
    made.add_argument("--tokens", type=int, default=160, help="of a text")
    made.add_argument("--wait", type=float, default=0.0, help="patience of a request in s; 0 names none")
    made.add_argument("--target", default="default", help="checkpoint of the target, or 'default'")
    made.add_argument("--draft", default="default", help="of the devices")
    made.add_argument("--edge-flags", default="", help="of flexspec-edge")
    return made


def plans(args: Namespace) -> dict[str, LinkPlan]:
    """Links to measure on, by name of the row."""
    rounds = -(-args.answers // args.abreast)
    cuts = {f"cut {cut:g} s": plan_of("4g", [cut] * rounds, args.seed) for cut in args.cuts}
    drawn = {name: LinkPlan(name, built_in().get(name), args.seed) for name in args.channels}
    kept = {path.name: recorded(path, built_in().get("4g"), args.seed) for path in args.recorded}
    return {**cuts, **drawn, **kept}


def outages(plan: LinkPlan) -> tuple[float, list[Outage]]:
    """A second of the channel behind which nothing goes wrong for a while, and its outages.

    Raises:
        FlexSpecError: it has no such second, or no outage.
    """
    found = [Outage(*one) for one in outages_of(plan, "up").between(0.0, sum(plan.lasts_s) or _HOURS)]
    ends = [0.0, *(one.ends_s for one in found)]
    calm = next((end for end, one in zip(ends, found, strict=False) if one.starts_s - end > _CALM_S), None)
    if calm is None:
        raise FlexSpecError(f"{plan.name} has no outage behind {_CALM_S:.0f} s without one")
    return calm, found


@dataclass(slots=True)
class Site:
    """Whom the ways ask.

    Attributes:
        here: the deployment, whose edge nodes most ways ask.
        urls: APIs of the other ways.
        headers: headers of their requests.
        args: how many texts of how many tokens.
        http: client on the devices' side.
    """

    here: SecuredDeployment
    urls: dict[str, str]
    headers: dict[str, dict[str, str]]
    args: Namespace
    http: httpx2.AsyncClient

    @property
    def link(self) -> NetnsLink:
        """Link between devices and all else."""
        assert self.here.link is not None
        return self.here.link

    async def ask(self, text: Text, answer: StreamedAnswer) -> None:
        """Ask for a text in its way."""
        asked = body(text.number, self.args.tokens) | WAYS[text.way]
        if self.args.wait and text.way != "llama":
            asked["wait"] = self.args.wait
        headers = self.headers.get(text.way, {}) | {"Idempotency-Key": f"{text.way}-{text.number}"}
        url = self.urls.get(text.way) or self.here.edges[text.number % self.args.devices].url
        await ask(self.http, url, asked, answer=answer, headers=headers)

    async def meet(self, number: int, ways: Sequence[str], calm: float, outage: Outage) -> list[Text]:
        """Have texts written, and an outage begin when each has begun.

        Args:
            number: number of the outage, from 0.
            ways: ways of the texts.
            calm: second of the channel at which the texts begin.
            outage: the outage.
        """
        args = self.args
        self.link.seek(calm)
        numbers = range(number * args.abreast, (number + 1) * args.abreast)
        texts = [Text(way, its) for its in numbers for way in ways]
        # llama.cpp's server writes faster: its text would be over before the others are under way.
        fast = [text for text in texts if text.way == "llama"]
        tasks: list[asyncio.Task[None]] = []
        for begin in ([text for text in texts if text not in fast], fast):
            tasks += [asyncio.create_task(self.ask(text, text.answer)) for text in begin]
            while not all(len(text.answer.text) > args.tokens // 2 or text.answer.ended for text in begin):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)
        self.link.seek(max(0.0, outage.starts_s - _BEGINS_S))
        cut = time.perf_counter() + _BEGINS_S
        back = cut + outage.ends_s - outage.starts_s
        await asyncio.sleep(cut - time.perf_counter())
        for text in texts:
            text.cut, text.back = cut, back
            text.at_cut = len(text.answer.text) + len(text.answer.provisional)
        if args.kill:
            await self._restart(back)
            asked = [text for text in texts if self._asks_device(text)]
            tasks += [asyncio.create_task(self._again(text, killed=True)) for text in asked]
            tasks += [asyncio.create_task(self._comes_online(text)) for text in asked]
        await asyncio.sleep(back - time.perf_counter())
        for text in texts:
            text.confirmed, text.provisional = text.final.text, text.final.provisional
            text.at_back = len(text.confirmed) + len(text.provisional)
        before = await self._forwards()
        await self._end(texts, tasks)
        after = await self._forwards()
        self.link.seek(calm)
        for text in texts:
            text.forwards = after[0] - before[0], after[1] - before[1]
            if not text.killed and (not text.complete or not self._asks_device(text)):
                await self._again(text)
        return texts

    def _asks_device(self, text: Text) -> bool:
        return text.way not in self.urls

    async def _comes_online(self, text: Text) -> None:
        """Note when the device of a text knows a worker again."""
        url = f"{self.here.edges[text.number % self.args.devices].url}/readyz"
        while (await self.http.get(url)).status_code != 200:  # noqa: ASYNC110  another process knows
            await asyncio.sleep(_LOOK)
        text.online = time.perf_counter()

    async def _again(self, text: Text, *, killed: bool = False) -> None:
        text.again, text.killed = StreamedAnswer(), killed
        await self.ask(text, text.again)

    async def _restart(self, back: float) -> None:
        """Kill the devices, and start them again so that they are there when the link is."""
        names = [edge.process.name for edge in self.here.edges[: self.args.devices]]
        for edge in self.here.edges[: self.args.devices]:
            await edge.process.kill()
        others = self.here.edges[self.args.devices :]
        self.here.edges.clear()
        await asyncio.sleep(max(0.0, back - _STARTS_S * len(names) - time.perf_counter()))
        for name in names:
            await self.here.start_edge(name, *edge_flags(self.args), wait=False)
        self.here.edges += others

    async def _forwards(self) -> tuple[float, float]:
        """Forwards of the worker so far, and their seconds."""

        def read() -> dict[str, float]:
            with inside(self.link.name_b):
                return asyncio.run(figures(self.here.worker.port))

        found = await asyncio.to_thread(read)
        name = "flexspec_worker:compute_seconds"
        return found[f"{name}_count"], found[f"{name}_sum"]

    async def _end(self, texts: Sequence[Text], tasks: Sequence[asyncio.Task[None]]) -> None:
        _, late = await asyncio.wait(tasks, timeout=_COMES_BACK)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for text in texts:
            if not (text.final.ended or text.final.error):
                text.final.error = f"not complete {_COMES_BACK:.0f} s after the outage"


def edge_flags(args: Namespace) -> Sequence[str]:
    """Flags of all edge nodes."""
    return ("--draft", args.draft, *shlex.split(args.edge_flags))


@asynccontextmanager
async def site(plan: LinkPlan, args: Namespace) -> AsyncIterator[Site]:
    """Start all that the ways need, and end it on leaving."""
    worker = ("--target", args.target, "--draft", "none")
    devices, edge = [f"d{number}" for number in range(1, args.devices + 1)], edge_flags(args)
    async with (
        secured_deployment(
            devices, worker_flags=worker, edge_flags=edge, more_devices=(_HUB,), link=plan
        ) as here,
        unbounded(kept=0) as http,
    ):
        made = Site(here, {}, {}, args, http)
        if "stream" in args.ways:
            key = here.folder.with_name("api-key")
            key.write_text(_KEY, "ascii")
            api = ("--api-host", made.link.address_b, "--api-insecure-anywhere", "--api-key-file", str(key))
            made.urls["stream"] = (await here.start_edge(_HUB, *edge, *api, side="cloud")).url
            made.headers["stream"] = {"Authorization": f"Bearer {_KEY}"}
        if "llama" in args.ways:
            made.urls["llama"] = await _start_llama(made)
        for way in args.ways:
            await made.ask(Text(way, _WARM), warm := StreamedAnswer())
            if warm.error:
                raise FlexSpecError(f"{way} does not answer: {warm.error}")
        yield made


async def _start_llama(made: Site) -> str:
    here, host, port = made.here, made.link.address_b, free_port()
    scratch = Path(tempfile.mkdtemp(dir=here.folder.parent))
    command = llama_server(made.args.target, scratch, made.args.abreast).split()
    told = [part.format(host=host, port=port) for part in command]
    told = here.on("cloud", ["sh", "-c", 'exec "$@" >&2', "sh", *told])
    await here.processes.start("llama-server", told, log=here.folder.with_name("llama.log"))
    url = f"http://{host}:{port}"
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(httpx2.TransportError):
                if (await made.http.get(f"{url}/health")).status_code == 200:
                    return url
            await asyncio.sleep(0.2)


async def measure(args: Namespace) -> dict[str, list[Text]]:
    """Texts by row."""
    found: dict[str, list[Text]] = {}
    for name, plan in plans(args).items():
        calm, all_of_them = outages(plan)
        met = list(islice(all_of_them, -(-args.answers // args.abreast)))
        say(f"{name}: {len(met)} outages, {sum(one.ends_s - one.starts_s for one in met):.0f} s of them")
        found[name] = []
        async with site(plan, args) as made:
            together = [[way] for way in args.ways] if args.apart else [args.ways]
            for (number, outage), ways in product(enumerate(met), together):
                texts = await made.meet(number, ways, calm, outage)
                found[name] += texts
                ends = (
                    f"{text.way} {text.final.ended - text.back:.2f} s {text.final.error}" for text in texts
                )
                say(f"{name}, {number + 1} of {len(met)}, over after the return: {', '.join(ends)}")
        print(table(HEADERS, _rows(name, found[name])))
        _check(found[name])
    return found


def _check(texts: Sequence[Text]) -> None:
    """Compare texts of our own ways, which all are the target's.

    Raises:
        FlexSpecError: two that should be equal differ.
    """
    first: dict[int, Text] = {}
    for text in texts:
        if text.complete and text.way != "llama":
            other = first.setdefault(text.number, text)
            if other.final.text != text.final.text:
                raise FlexSpecError(f"text {text.number} differs between {other.way} and {text.way}")


def _rows(name: str, texts: Sequence[Text]) -> list[tuple[Any, ...]]:
    rows = []
    for way in dict.fromkeys(text.way for text in texts):
        its = [text for text in texts if text.way == way and not 0 < text.answer.ended < text.cut]
        done = [text.final.ended - text.back for text in its if text.complete]
        shown = sum(len(text.provisional) for text in its if text.complete)
        kept = sum(text.kept for text in its if text.complete)
        alone, right = (sum(text.tokens[which] for text in its) for which in (0, 1))
        again = [
            text.again.seconds for text in its if text.again and not text.again.error and not text.killed
        ]
        online = [text.final.ended - text.online for text in its if text.complete and text.online]
        rows.append((
            f"{name}, {way}", len(its), _median([text.first for text in its]),
            _median([text.at_back - text.at_cut for text in its]),
            right / alone if alone else None, kept / shown if shown else None, (shown - kept) / len(its),
            _median(done), max(done, default=None), _median([text.forwards[1] for text in its]),
            len(its) - len(done), _median(again), _median(online),
        ))  # fmt: skip
    return rows


def _median(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return percentile(there, 0.5) if there else None


HEADERS = (
    "outage, way", "texts", "readable after s", "characters more", "tokens confirmed", "characters confirmed",
    "replaced", "complete after return s", "most", "forwards s", "not complete", "asked again s",
    "complete after reconnecting s",
)  # fmt: skip


@program()
def main(argv: Sequence[str]) -> int:
    """Entry point."""
    args = build_parser().parse_args(argv)
    if args.quick:
        args.cuts, args.channels, args.answers, args.tokens = [3.0], [], 2, 96
    if shutil.which(LLAMA) is None:
        args.ways = [way for way in args.ways if way != "llama"]
    found = asyncio.run(measure(args))
    for name, texts in found.items():
        for why in sorted(
            {f"{text.way}: {text.final.error or text.final.reason}" for text in texts if not text.complete}
        ):
            print(f"{name}, {why}")
    facts = {name: [text.facts() for text in texts] for name, texts in found.items()}
    finish("offline", facts, quick=args.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
