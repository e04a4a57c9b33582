"""A run of a schedule: texts are asked for over HTTP while faults happen, and all of it goes into the history."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx2

from flexspec_mq.waiting import PATIENCE
from lab.bench.client import unbounded
from lab.benchmarks.exact.reference import MAX_CONTEXT, ReferenceText
from lab.benchmarks.exact.texts import ReferencePool
from lab.chaos.history import PROVISIONAL, Asked, Began, Ended, HistoryFile, Piece, Unverified
from lab.chaos.pairs import DTYPE, Pair
from lab.chaos.schedule import WORKERS, Ask, Fault, Schedule, Sizes, schedule
from lab.chaos.site import LEASE, Site, site

GRACE = 30.0
FIGURES = ("proposed", "drafted", "accepted", "worker_accepted", "looked_up", "forced", "rounds")
"""The API's, of who drafted what."""
_AGAIN = 0.5
_HANGS = 900.0
"""Seconds for one attempt, after which it counts as hung: beyond the API's own bound."""
_SAY_EVERY = 15.0


@dataclass(slots=True)
class Run:
    """A run.

    Attributes:
        pair: target and draft.
        sizes: how much.
        seed: seed of all that is drawn.
        say: told of progress.
    """

    pair: Pair
    sizes: Sizes
    seed: int
    say: Callable[[str], None]
    _done: int = 0
    _faults: int = 0
    _answers: HistoryFile = field(init=False)
    _references: list[asyncio.Task[tuple[tuple[int, ...], ReferenceText]]] = field(default_factory=list)

    async def happen(self, scratch: Path) -> None:
        """Let it happen in an empty folder, where the history lies then.

        Raises:
            FlexSpecError: a daemon did not come up (again), or the reference failed.
        """
        plan = schedule(self.seed, self.sizes, self.pair.prompts, self.pair.constraints)
        self._answers = HistoryFile(scratch / "answers.jsonl")
        self._answers.add(Began(time.monotonic(), self.seed, GRACE, WORKERS))
        pair, pool = self.pair, ReferencePool(self.pair.target, DTYPE, 1)
        pool.start()
        try:
            for ask in plan.asks:
                self._references.append(asyncio.create_task(self._reference(pool, ask)))
            flags = [*pair.at_workers, "--lease", f"{LEASE:g}"], pair.at_devices
            async with site(scratch, self.sizes, *flags, self.seed) as made:
                self.say("all daemons serve; it begins")
                await self._happen(made, plan)
                await made.given_back()
        finally:
            await pool.end()

    async def _reference(self, pool: ReferencePool, ask: Ask) -> tuple[tuple[int, ...], ReferenceText]:
        prompt = ask.prompt
        if ask.after is not None:
            earlier, text = await self._references[ask.after]
            if len(earlier) + len(text.tokens) + len(prompt) + ask.limit <= MAX_CONTEXT:
                prompt = (*earlier, *text.tokens, *prompt)
        written, wanted = await self.pair.written(pool, ask, prompt)
        self._answers.add(wanted)
        return prompt, written

    async def _happen(self, made: Site, plan: Schedule) -> None:
        lanes: dict[str, list[Fault]] = {}
        for fault in plan.faults:
            lanes.setdefault(fault.lane, []).append(fault)
        began = time.monotonic()
        async with unbounded(kept=0) as http, asyncio.TaskGroup() as group:
            beside = [group.create_task(made.watch()), group.create_task(self._progress(plan, began))]
            async with asyncio.TaskGroup() as all_of_it:
                for lane in lanes.values():
                    all_of_it.create_task(self._lane(made, lane, began))
                for ask in plan.asks:
                    all_of_it.create_task(self._answer(http, made.daemons[ask.edge].port, ask, began))
            for task in beside:
                task.cancel()

    async def _lane(self, made: Site, faults: Sequence[Fault], began: float) -> None:
        for fault in faults:
            await asyncio.sleep(began + fault.at - time.monotonic())
            await made.inflict(fault)
            self._faults += 1

    async def _progress(self, plan: Schedule, began: float) -> None:
        while True:
            await asyncio.sleep(_SAY_EVERY)
            answers = f"{self._done} of {len(plan.asks)} answers"
            faults = f"{self._faults} of {len(plan.faults)} faults"
            self.say(f"{time.monotonic() - began:.0f} s: {answers}, {faults}")

    async def _answer(self, http: httpx2.AsyncClient, port: int, ask: Ask, began: float) -> None:
        """Ask, and again where that fails, as OpenAI's client does, for as long as a request has patience."""
        await asyncio.sleep(began + ask.at - time.monotonic())
        prompt, _ = await self._references[ask.number]
        body = {
            "prompt": list(prompt), "max_tokens": ask.limit, **asdict(ask.sampling),
            "ignore_eos": ask.ignores_eos, "offline": ask.offline,
            "stream": True, "stream_options": {"include_usage": True},
            **({} if ask.constraint is None else ask.constraint.fields),
        }  # fmt: skip
        if ask.patient:
            body["wait"] = PATIENCE
        asked = time.monotonic()
        for attempt in count(1):
            self._answers.add(
                Asked(time.monotonic(), ask.number, attempt, PATIENCE, ask.patient, ask.offline)
            )
            end = await self._attempt(http, port, body, ask.number, attempt)
            self._answers.add(end)
            if not end.code or end.at - asked > PATIENCE + GRACE:
                break
            await asyncio.sleep(_AGAIN)
        self._done += 1

    async def _attempt(
        self, http: httpx2.AsyncClient, port: int, body: dict[str, Any], text: int, attempt: int
    ) -> Ended:
        reason, code, why = "", "", ""
        usage: dict[str, Any] = {}
        headers = {"Idempotency-Key": f"{self.seed}-{text}"}
        url = f"http://127.0.0.1:{port}/v1/completions"
        try:
            async with (
                asyncio.timeout(_HANGS),
                http.stream("POST", url, json=body, headers=headers) as response,
            ):
                if response.status_code != 200:
                    code, why = error_of(json.loads(await response.aread()))
                async for line in response.aiter_lines():
                    event = json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {}
                    if "error" in event:
                        code, why = error_of(event)
                    usage = event.get("usage") or usage
                    reason = self._note(event, text, attempt) or reason
                if not (code or usage):
                    code, why = "connection", "the stream ended without its figures"
        except (httpx2.TransportError, ValueError) as error:
            code, why = "connection", repr(error)
        except TimeoutError:
            code, why = "hung", f"no end within {_HANGS:g} s"
        tokens = usage.get("completion_tokens", 0)
        ours = {name: float(usage.get("flexspec", {}).get(name, 0)) for name in FIGURES}
        if reason == PROVISIONAL:
            code, why = PROVISIONAL, "its patience was over"
        return Ended(time.monotonic(), text, attempt, "" if code else reason, tokens, code, why, ours)

    def _note(self, event: dict[str, Any], text: int, attempt: int) -> str:
        """Note what a user is told; the reason of the end, if it is one."""
        reason = ""
        for choice in event.get("choices", ()):
            if choice.get("text"):
                self._answers.add(Piece(time.monotonic(), text, attempt, choice["text"]))
            reason = choice.get("finish_reason") or reason
        if (told := event.get("flexspec", {}).get("provisional")) is not None:
            self._answers.add(Unverified(time.monotonic(), text, attempt, told["at"], told["text"]))
        return reason


def error_of(body: dict[str, Any]) -> tuple[str, str]:
    """Code and words of an error of the API."""
    return body["error"]["code"] or "none", body["error"]["message"]
