"""Texts through the stressed system, compared token for token with the target's own as both become ready."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings
from edge_node.settings import EdgeSettings
from flexspec_mq.drafting.load import DraftModel
from flexspec_mq.models.load import load_text
from lab.benchmarks.exact.faults import Weather
from lab.benchmarks.exact.fleet import Fleet
from lab.benchmarks.exact.identities import Identities
from lab.benchmarks.exact.pool import ReferencePool
from lab.benchmarks.exact.reference import ReferenceText, Text
from lab.benchmarks.exact.system import Outcome, StressedEdge, edge
from lab.benchmarks.exact.texts import Shape, long_text, next_turn, texts

_LOOK = 0.2
_PROGRESS = 15.0
_MOST_BACKLOG = 48
_LONG_POSITIONS = 1050
WORKERS = 2
"""Cloud workers at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StressLoad:
    """How much, and how hard.

    Attributes:
        tokens: tokens to commit at least.
        sessions: texts at a time.
        strike_every: committed tokens from one kill or hang to the next, on average.
        long: texts with contexts above 1,024 positions.
        seconds: after which no new text is started.
        keys: devices and workers have keys.
        draft: draft of the workers.
    """

    tokens: int
    sessions: int
    strike_every: int
    long: int
    seconds: float
    keys: bool = False
    draft: str = "default"


@dataclass(slots=True)
class ExactTally:
    """Findings of the comparison.

    Attributes:
        texts, tokens: compared.
        long_tokens: tokens of these, in contexts above 1,024 positions.
        wrong_tokens: tokens that differ, from a text's first difference to its end.
        wrong_texts: texts with such tokens.
        wrong_reasons: texts with the right tokens and the wrong reason.
        failed: texts that the edge gave up, with an error; what it had of them is compared all the same.
        repeated: commits that did not start where the last one ended.
        reasons: how many texts ended why.
        examples: the first few that are wrong.
    """

    texts: int = 0
    tokens: int = 0
    long_tokens: int = 0
    wrong_tokens: int = 0
    wrong_texts: int = 0
    wrong_reasons: int = 0
    failed: int = 0
    repeated: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, written: ReferenceText, *, long: bool = False) -> None:
        """Compare one text. `long` is one with a context above 1,024 positions."""
        self.texts += 1
        self.tokens += len(outcome.tokens)
        self.long_tokens += len(outcome.tokens) * long
        self.repeated += outcome.repeated
        self.reasons[outcome.reason] = self.reasons.get(outcome.reason, 0) + 1
        unfinished = outcome.reason not in ("eos", "stop", "length")
        # What an unfinished text has must be how the right one begins.
        wanted = written.tokens[: len(outcome.tokens)] if unfinished else written.tokens
        if outcome.tokens != wanted:
            pairs = zip(outcome.tokens, wanted, strict=False)
            shorter = min(len(outcome.tokens), len(wanted))
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)
            self.wrong_texts += 1
            self.wrong_tokens += max(len(outcome.tokens), len(wanted)) - same
            found, instead = outcome.tokens[same : same + 3], wanted[same : same + 3]
            self._example(outcome, f"differs from token {same} on: {found} instead of {instead}")
        if unfinished:
            self.failed += 1
            self._example(outcome, f"ended with {outcome.reason}: {outcome.error}")
        elif outcome.tokens == wanted and outcome.reason != written.reason:
            self.wrong_reasons += 1
            self._example(outcome, f"ended with {outcome.reason} instead of {written.reason}")

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.wrong_texts or self.wrong_reasons or self.failed or self.repeated)

    def _example(self, outcome: Outcome, what: str) -> None:
        if len(self.examples) < 20:
            self.examples.append(f"text {outcome.text.number} ({outcome.text.dice}): {what}")


@dataclass(slots=True)
class Stress:
    """A run.

    Attributes:
        load: how much.
        shape: shape of the texts.
        prompts: token ids.
        rng: decides everything.
        say: told of progress.
    """

    load: StressLoad
    shape: Shape
    prompts: Sequence[Sequence[int]]
    rng: random.Random
    say: Callable[[str], None]
    tally: ExactTally = field(default_factory=ExactTally)
    _open: dict[asyncio.Task[None], Text] = field(default_factory=dict)
    _active: set[int] = field(default_factory=set)
    _earlier: deque[tuple[int, ...]] = field(default_factory=lambda: deque(maxlen=8))

    async def run(self, draft: DraftModel, folder: str, dtype: str, threads: int) -> dict[str, Any]:
        """Run it.

        Args:
            draft: draft of the edge.
            folder: checkpoint of the target.
            dtype: number format of the target.
            threads: threads of each worker.

        Returns:
            Figures for the report.

        Raises:
            FlexSpecError: a worker or a reference process ended by itself.
        """
        began = time.monotonic()
        weather = Weather(random.Random(self.rng.random()))
        pool = ReferencePool(folder, dtype, 2)
        solo = ReferencePool(folder, dtype, 1, "lab.benchmarks.exact.solo")
        with PrivateBroker(BrokerSettings(port=0)) as broker, tempfile.TemporaryDirectory() as place:
            arguments = ["--broker", f"127.0.0.1:{broker.port}", "--target", folder, "--dtype", dtype]
            arguments += ["--threads", str(threads), "--give-up-after", "30", "--draft", self.load.draft]
            identities = Identities() if self.load.keys else None
            fleet = Fleet(arguments, Path(place), random.Random(self.rng.random()), self.say, identities)
            settings = EdgeSettings(edge="e", version="base", give_up=240.0)
            if identities is not None:
                file = identities.written(identities.edge(settings.edge), Path(place))
                settings = replace(settings, keys=file)
            pool.start()
            try:
                self.say(f"{dtype}: {WORKERS} workers load the target and prove it")
                await asyncio.gather(*(fleet.start() for _ in range(WORKERS)))
                rng = random.Random(self.rng.random())
                async with edge(settings, draft, broker.port, weather, rng, load_text(folder)) as node:
                    if self.load.long:
                        solo.start()
                        for _ in range(self.load.long):
                            self._begin_long(node, solo)
                    await self._drive(node, fleet, pool, dtype)
                    seconds = time.monotonic() - began
                    return self._figures(node, fleet, weather, seconds)
            finally:
                for task in self._open:
                    task.cancel()
                await asyncio.gather(*self._open, return_exceptions=True)
                await fleet.end()
                await pool.end()
                await solo.end()

    async def _drive(self, node: StressedEdge, fleet: Fleet, pool: ReferencePool, dtype: str) -> None:
        """Start texts and strike workers until enough is committed and compared."""
        waiting = texts(self.prompts, self.shape, self.rng)
        began = time.monotonic()
        strike_at = self._next_strike(0)
        said = began
        while True:
            now = time.monotonic()
            enough = node.committed + self._under_way() >= self.load.tokens or now - began > self.load.seconds
            while not enough and len(self._active) < self.load.sessions and pool.backlog < _MOST_BACKLOG:
                text = next(waiting)
                if self._earlier and self.rng.random() < self.shape.turns:
                    text = next_turn(text, self._earlier.pop(), self.shape)
                self._follow(node, pool, text)
                enough = node.committed + self._under_way() >= self.load.tokens
            if enough and not self._open:
                return
            if node.committed >= strike_at and fleet.strike():
                strike_at = self._next_strike(node.committed)
            if now - said > _PROGRESS:
                said = now
                self.say(self._line(node, fleet, dtype, now - began))
            fleet.check()
            if self._open:
                done, _ = await asyncio.wait(self._open, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del self._open[task]
                    task.result()

    def _begin_long(self, node: StressedEdge, solo: ReferencePool) -> None:
        positions = _LONG_POSITIONS + self.rng.randint(0, 100)
        self._follow(node, solo, long_text(self.prompts, positions, 40, self.rng), long=True)

    def _follow(self, node: StressedEdge, pool: ReferencePool, text: Text, *, long: bool = False) -> None:
        self._active.add(text.number)
        task = asyncio.create_task(self._compare(node, pool, text, long=long))
        self._open[task] = text

    async def _compare(self, node: StressedEdge, pool: ReferencePool, text: Text, *, long: bool) -> None:
        """Have a text written by both sides and compare."""
        reference = asyncio.create_task(pool.write(text))
        try:
            outcome = await self._system(node, text)
            written = await reference
        finally:
            reference.cancel()
        if not long:
            self._earlier.append((*text.prompt, *outcome.tokens))
        right = self.tally.right
        self.tally.add(outcome, written, long=long)
        if right and not self.tally.right:
            self.say(f"WRONG: {self.tally.examples[-1:]}")

    async def _system(self, node: StressedEdge, text: Text) -> Outcome:
        try:
            return await node.write(text)
        finally:
            self._active.discard(text.number)

    def _under_way(self) -> float:
        """Tokens that the texts under way may still commit: half of their limits."""
        return sum(text.limit for text in self._open.values() if text.number in self._active) / 2

    def _next_strike(self, committed: int) -> float:
        return committed + self.load.strike_every * self.rng.uniform(0.5, 1.5)

    def _line(self, node: StressedEdge, fleet: Fleet, dtype: str, seconds: float) -> str:
        return (
            f"{dtype}: {seconds:.0f} s, {node.committed} tokens committed, {self.tally.tokens} compared, "
            f"{self.tally.wrong_tokens} wrong, {len(self._active)} texts under way, {fleet.ready} workers, "
            f"{fleet.kills} killed, {fleet.hangs} stopped"
        )

    def _figures(self, node: StressedEdge, fleet: Fleet, weather: Weather, seconds: float) -> dict[str, Any]:
        totals, trace = node.totals, fleet.trace()
        stress = {
            "kills": fleet.kills,
            "hangs": fleet.hangs,
            "namesakes": fleet.namesakes,
            "sessions_unknown": totals.unknown,
            **weather.counts(),
            "reopens": totals.reopens,
            "polls": totals.polls,
            "plan_changes": node.plan_changes[0],
            "drafted": totals.drafted,
            "rejections": totals.judged - totals.accepted,
            "accepted": totals.accepted,
            "prompts_named": totals.named - totals.misses,
            "shared_forwards": trace.shared,
            "prefixes_cut": trace.cuts,
            "drafted_by_workers": trace.own,
        }
        return {
            **asdict(self.tally),
            "stress": stress,
            "never": [name for name, count in stress.items() if not count],
            "forwards": trace.forwards,
            "sessions_per_forward": round(trace.sessions / max(1, trace.forwards), 2),
            "most_sessions_in_a_forward": trace.most,
            "diverged": totals.diverged,
            "keys": self.load.keys,
            "refused": {reason.value: count for reason, count in node.node.refused.items()},
            "seconds": round(seconds, 1),
        }
