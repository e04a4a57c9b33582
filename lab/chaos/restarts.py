"""A device that is killed again and again while it has a queue of requests, and what came of each of them.

    python -m lab.chaos.restarts --requests 50 --kills 100
    python -m lab.chaos.restarts --requests 50 --kills 100 --target default

A deployment over TLS with keys: a broker, two workers and one device, whose link is cut off at times. All requests have
keys; they are held, provisional or to be delivered. A third of them are read as streams, whose clients go on behind
their last event, a third as whole answers, and a third by nobody before the end. The device's daemon gets SIGKILL at
random moments, of which some are in its start. Each text is compared with what transformers' own model writes alone.
The same seed gives the same requests and moments. It ends with code 1 if something is lost, doubled or inexact.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import httpx2

from flexspec_mq.demo.proxy import WAYS as BOTH
from flexspec_mq.errors import FlexSpecError
from lab.bench.client import unbounded
from lab.benchmarks import _common
from lab.benchmarks.exact.texts import ReferencePool
from lab.chaos.checker import Judgement, check_sessions
from lab.chaos.history import HistoryFile, Wanted, read_history
from lab.chaos.pairs import DTYPE, Pair, real, tiny
from lab.chaos.run import error_of
from lab.chaos.schedule import EDGES, Ask, Sizes, schedule
from lab.chaos.site import LEASE, Daemon, Site, site

Way = Literal["stream", "whole", "leave"]
_WAYS: tuple[Way, ...] = ("stream", "whole", "leave")
_DEVICE = EDGES[0]
_TINY = Sizes(answers=0, faults=0, least=100, most=400, most_prompt=300, edges=(_DEVICE,))
_REAL = Sizes(answers=0, faults=0, least=40, most=160, most_prompt=80, edges=(_DEVICE,))
_PATIENCE = 900.0
_LIVES = 0.02, 2.0
"""Seconds between ready and a kill."""
_STARTING = 0.3, 2.5
"""Seconds between start and a kill that does not wait until the daemon is ready."""
_EARLY = 0.2
"""Share of these kills."""
_ONLINE, _AWAY = (2.0, 8.0), (0.5, 5.0)
"""Seconds for which the device's link works, and for which it carries nothing."""
_AGAIN = 0.1
_ASKED_BY = 0.6
"""Share of the kills by which all requests are asked."""
_ENDS = 600.0
"""Seconds after the last kill within which all is to be over."""


@dataclass(slots=True)
class Asked:
    """A request and what its client has of it.

    Attributes:
        ask: the text that it asks for.
        way: how its client reads it.
        after: number of kills after which it is asked.
        wanted: text of the target alone.
        text: text so far.
        outbox: id of its text in the outbox; empty before it is acknowledged.
        event: id of the last event.
        reason: reason of its end; empty before.
        tokens: tokens that the figures tell.
        begun: somebody asked.
        attempts: requests for it that were answered.
        times: when pieces of it came.
        refused: refusals, by their codes.
    """

    ask: Ask
    way: Way
    after: float
    wanted: Wanted | None = None
    text: str = ""
    outbox: str = ""
    event: str = ""
    reason: str = ""
    tokens: int = 0
    begun: bool = False
    attempts: int = 0
    times: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Restarts:
    """A run.

    Attributes:
        pair: target and draft.
        sizes: sizes of texts.
        kills: kills of the device's daemon.
        seed: seed of all that is drawn.
        asked: requests.
        killed: kills so far.
        struck: texts that clients waited for at a kill, all kills together.
        ready: seconds of each start until the daemon was ready.
        back: seconds from ready to the next piece of a text that a client was reading.
        unread: answers that are told as unread in the end.
        committed: tokens that sessions committed, those of an incarnation that nobody knows any more included.
        broken: rules that are broken, in words.
    """

    pair: Pair
    sizes: Sizes
    kills: int
    seed: int
    asked: list[Asked] = field(default_factory=list)
    killed: int = 0
    struck: int = 0
    ready: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    unread: int = 0
    committed: int = 0
    broken: list[str] = field(default_factory=list)

    async def happen(self, scratch: Path) -> None:
        """Let it happen in an empty folder.

        Raises:
            FlexSpecError: a daemon did not come up, or the reference failed.
        """
        rng = random.Random(f"restarts {self.seed}")
        plan = schedule(self.seed, self.sizes, self.pair.prompts, self.pair.constraints)
        self.asked = [
            Asked(ask, _WAYS[number % 3], rng.uniform(0.0, self.kills * _ASKED_BY))
            for number, ask in enumerate(plan.asks)
        ]
        history, pool = HistoryFile(scratch / "answers.jsonl"), ReferencePool(self.pair.target, DTYPE, 1)
        pool.start()
        try:
            writing = asyncio.gather(*(self._reference(pool, history, each) for each in self.asked))
            flags = [*self.pair.at_workers, "--lease", f"{LEASE:g}"], self.pair.at_devices
            async with site(scratch, self.sizes, *flags, self.seed) as made:
                await writing
                _say("all daemons serve, and the reference is written; it begins")
                await self._happen(made, made.daemons[_DEVICE], rng)
        finally:
            await pool.end()

    def judge(self, scratch: Path) -> None:
        """Check what the device's sessions committed, by their history."""
        judged, records = Judgement(), read_history(sorted(scratch.glob("*.jsonl")))
        check_sessions(records, {each.ask.number: _known(each) for each in self.asked}, judged)
        self.committed = judged.figures["committed"]
        self.broken += [f"{violation.rule}: {violation.what}" for violation in judged.violations]

    async def _reference(self, pool: ReferencePool, history: HistoryFile, asked: Asked) -> None:
        _, asked.wanted = await self.pair.written(pool, asked.ask, asked.ask.prompt)
        history.add(asked.wanted)

    async def _happen(self, made: Site, device: Daemon, rng: random.Random) -> None:
        async with unbounded(kept=0) as http, asyncio.TaskGroup() as group:
            clients = [group.create_task(self._client(http, device, each)) for each in self.asked]
            cuts = group.create_task(_cut_off(device, random.Random(f"cuts {self.seed}")))
            for _ in range(self.kills):
                await self._incarnation(device, rng)
                self.killed += 1
                self.struck += sum(
                    each.begun and each.way != "leave" and not each.reason for each in self.asked
                )
            cuts.cancel()
            await device.start()
            _, late = await asyncio.wait(clients, timeout=_ENDS)
            for task in late:
                task.cancel()
            await self._check_outbox(http, made, device)

    async def _incarnation(self, device: Daemon, rng: random.Random) -> None:
        """Start the daemon, unless it runs, and kill it at a random moment."""
        if device.down:
            began = time.monotonic()
            starting = asyncio.create_task(device.start())
            early = rng.uniform(*_STARTING) if rng.random() < _EARLY else None
            done, _ = await asyncio.wait([starting], timeout=early)
            if not done:
                starting.cancel()
                await asyncio.wait([starting])
                await device.kill()
                return
            starting.result()
            self.ready.append(time.monotonic() - began)
        ready = time.monotonic()
        await asyncio.sleep(rng.uniform(*_LIVES))
        await device.kill()
        for each in self.asked:
            if (
                first := next((at for at in each.times if at > ready), None)
            ) is not None and each.attempts > 1:
                self.back.append(first - ready)

    async def _client(self, http: httpx2.AsyncClient, device: Daemon, asked: Asked) -> None:
        """Ask until the text is over or, where nobody reads it, acknowledged; again whenever the connection breaks."""
        while self.killed < asked.after:  # noqa: ASYNC110  counted once a second at most
            await asyncio.sleep(_AGAIN)
        asked.begun = True
        while not (asked.reason or (asked.way == "leave" and asked.outbox)):
            with suppress(httpx2.TransportError, ValueError):
                await self._attempt(http, device, asked)
            await asyncio.sleep(_AGAIN)

    async def _attempt(self, http: httpx2.AsyncClient, device: Daemon, asked: Asked) -> None:
        ask = asked.ask
        stream = asked.way != "whole"
        body = {
            "prompt": list(ask.prompt), "max_tokens": ask.limit, **asdict(ask.sampling), "ignore_eos": ask.ignores_eos,
            "stream": stream, "offline": ask.offline, "wait": _PATIENCE,
            **({"stream_options": {"include_usage": True}} if stream else {}),
            **({} if ask.constraint is None else ask.constraint.fields),
        }  # fmt: skip
        headers = {"idempotency-key": f"{self.seed}-{ask.number}"}
        if asked.event:
            headers["last-event-id"] = asked.event
        url = f"http://127.0.0.1:{device.port}/v1/completions"
        async with http.stream("POST", url, json=body, headers=headers) as response:
            asked.attempts += 1
            if response.status_code != 200:
                self._refused(asked, json.loads(await response.aread()))
                return
            self._acknowledged(asked, response.headers["x-flexspec-outbox"])
            if asked.way == "leave":
                return
            if not stream:
                self._event(asked, json.loads(await response.aread()))
                return
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    asked.event = value
                elif value.startswith("{"):
                    self._event(asked, json.loads(value))

    def _event(self, asked: Asked, event: dict[str, Any]) -> None:
        if "error" in event:
            self._refused(asked, event)
        asked.tokens = (event.get("usage") or {}).get("completion_tokens", asked.tokens)
        for choice in event.get("choices", ()):
            if choice["text"]:
                asked.text += choice["text"]
                asked.times.append(time.monotonic())
            asked.reason = choice["finish_reason"] or asked.reason

    def _acknowledged(self, asked: Asked, outbox: str) -> None:
        if asked.outbox not in ("", outbox):
            self.broken.append(f"lost: text {asked.ask.number} is {outbox} now, and was {asked.outbox}")
        asked.outbox = outbox

    def _refused(self, asked: Asked, body: dict[str, Any]) -> None:
        code, why = error_of(body)
        asked.refused[code] += 1
        if asked.outbox:
            self.broken.append(f"failed after it was acknowledged: text {asked.ask.number}, {code}, {why}")
            asked.outbox = asked.event = asked.text = ""

    async def _check_outbox(self, http: httpx2.AsyncClient, made: Site, device: Daemon) -> None:
        """All texts are in the outbox, each once, whole and exact, and so are those that clients have read."""
        url = f"http://127.0.0.1:{device.port}/v1/outbox"
        rows = (await http.get(url)).json()["data"]
        many = Counter(row["id"] for row in rows)
        if len(rows) != len(self.asked):
            self.broken.append(f"lost or doubled: {len(rows)} requests in the outbox of {len(self.asked)}")
        for each in self.asked:
            name, known = f"text {each.ask.number} ({each.way}, {each.ask.offline})", _known(each)
            if not many[each.outbox]:
                self.broken.append(f"lost: {name}, {each.attempts} attempts, refused {dict(each.refused)}")
                continue
            view = await _until_over(http, f"{url}/{each.outbox}")
            found = view["text"], view["reason"], view["tokens"]
            if found != (known.written, known.reason, len(known.tokens)):
                self.broken.append(f"inexact: {name}: {found} ({view['state']}, {view['error']})")
            read = each.text, each.reason, each.tokens
            if each.way != "leave" and read != (known.written, known.reason, len(known.tokens)):
                self.broken.append(f"read otherwise: {name}: {read}")
            self.unread += not view["read"]
        for line in device.log.read_text("utf-8").splitlines():
            with suppress(ValueError):  # words for people, or a line that a kill has torn
                if (said := json.loads(line))["level"] == "error":
                    self.broken.append(f"logged as an error: {said['message']}")
        if list((made.disk / _DEVICE).rglob("*.damaged")):
            self.broken.append("the journal did not open: it was put aside as damaged")


def _known(asked: Asked) -> Wanted:
    assert asked.wanted is not None
    return asked.wanted


async def _until_over(http: httpx2.AsyncClient, url: str) -> dict[str, Any]:
    ends = time.monotonic() + _ENDS
    while True:
        view: dict[str, Any] = (await http.get(url)).json()
        if view.get("finished") is not None or time.monotonic() > ends:
            return {"text": "", "reason": "", "tokens": 0, "state": "", "read": False, "error": "", **view}
        await asyncio.sleep(_AGAIN)


async def _cut_off(device: Daemon, rng: random.Random) -> None:
    """Have the device's link carry nothing at times; for ever."""
    assert device.link is not None
    while True:
        await asyncio.sleep(rng.uniform(*_ONLINE))
        away = rng.uniform(*_AWAY)
        device.link.stall(away, BOTH)
        await asyncio.sleep(away)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = _common.parser(__doc__ or "")
    parser.add_argument("--requests", type=int, help="texts that are asked for (default: 50; quick: 6)")
    parser.add_argument("--kills", type=int, help="SIGKILLs of the device's daemon (default: 100; quick: 5)")
    parser.add_argument(
        "--target", default="", help="checkpoint that writes them, or 'default' (default: tiny)"
    )
    parser.add_argument("--draft", default="default", help="folder of its draft, or 'default'")
    parser.add_argument("--history", type=Path, help="new folder for it (default: one of its own)")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    scratch: Path = args.history or Path(tempfile.mkdtemp(prefix="flexspec-restarts-"))
    scratch.mkdir(exist_ok=True)
    run = _run(args, scratch)
    began = time.monotonic()
    try:
        asyncio.run(run.happen(scratch))
    except* FlexSpecError as errors:
        run.broken += [f"{type(error).__name__}: {error}" for error in errors.exceptions]
    else:
        run.judge(scratch)
    found = _figures(run, time.monotonic() - began)
    for broken in run.broken[:20]:
        print(f"BROKEN: {broken}")
    print(_common.table(("figure", "value"), list(found.items())))
    print(f"seed {args.seed}; the history is in {scratch}")
    _common.finish("restarts", found, quick=args.quick)
    return int(bool(run.broken))


def _run(args: argparse.Namespace, scratch: Path) -> Restarts:
    requests = args.requests or (6 if args.quick else 50)
    kills = args.kills if args.kills is not None else 5 if args.quick else 100
    if args.target:
        pair, sizes = real(args.target, args.draft, args.prompts, _say), _REAL
    else:
        pair, sizes = tiny(scratch), _TINY
    return Restarts(pair, replace(sizes, answers=requests), kills, args.seed)


def _figures(run: Restarts, took: float) -> dict[str, Any]:
    times = {"ready after a start": run.ready, "first piece after ready": run.back}
    return {
        "requests": len(run.asked),
        "kills": run.killed,
        "kills before ready": run.killed - len(run.ready) - 1,
        "texts under way at kills": run.struck,
        "answers told as unread": run.unread,
        "tokens": sum(len(each.wanted.tokens) for each in run.asked if each.wanted),
        "committed": run.committed,
        "attempts": sum(each.attempts for each in run.asked),
        **{f"requests, {mode}": many for mode, many in Counter(each.ask.offline for each in run.asked).items()},
        **{f"refused, {code}": many for code, many in sum((each.refused for each in run.asked), Counter()).items()},
        **{
            f"{what}, p{q}, s": _common.percentile(seconds or [0.0], q / 100)
            for what, seconds in times.items()
            for q in (50, 95, 100)
        },
        "broken rules": len(run.broken),
        "seconds": round(took, 1),
    }  # fmt: skip


def _say(text: str) -> None:
    _common.say(f"{time.strftime('%H:%M:%S')} {text}")


if __name__ == "__main__":
    sys.exit(main())
