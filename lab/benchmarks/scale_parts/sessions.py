"""Sessions that share one worker with a real model: tokens per second of 1, 4 and 16 of them, and where time goes.

Every session asks for one token at a time and drafts nothing (K = 0, no run-ahead), so each step decides one token
for each session in it, and the edge's answer to a verdict is what asks for the next. Beside it the target streams
(`ahead`), where no step waits for the edge. The steady part of a turn counts: from when all sessions write until one
of them has written so many tokens since.

Beside tokens per second there is the worker's processor time for a token, which strangers on the machine change less.
"""

from __future__ import annotations

import random
import sys
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from broker.launcher import PrivateBroker
from edge_node.settings import EdgeSettings
from flexspec_mq.drafting.load import load as load_draft
from lab.bench.questions import OWN, read_questions
from lab.benchmarks._common import percentile, table
from lab.benchmarks.scale_parts.cpu import between, take
from lab.benchmarks.scale_parts.orders import BenchmarkError, Crowd, Mark, Order, Outcome, answer
from lab.benchmarks.scale_parts.system import SOON, generator
from lab.testbed.site.figures import since
from lab.testbed.site.process import Process, Processes, python
from lab.testbed.site.topology import Daemon, free_port

SESSIONS = (1, 4, 16)
BAR = 5.0
"""Tokens per second of 16 sessions, over those of one, one token per session and step."""
PROMPT = 64
"""Tokens of each prompt."""
_STEPS = ("1", "2", "4", "8", "16")


@dataclass(frozen=True, slots=True)
class Turn:
    """The steady part of one turn.

    Attributes:
        rate: tokens per second.
        steps: of the worker.
        sessions_per_step: mean.
        sizes: share of the steps with at most 1, 2, 4, 8, 16 sessions.
        step_ms: mean of a forward.
        cpu_ms: of the worker, for a token.
        computing: share of the time in which a forward ran.
        cpu: cores that the worker, the broker and the edges used.
        others: cores that something else used.
    """

    rate: float
    steps: int
    sessions_per_step: float
    sizes: dict[str, float]
    step_ms: float
    cpu_ms: float
    computing: float
    cpu: dict[str, float]
    others: float


@dataclass(slots=True)
class Texts:
    """Compares what the same prompt became in different turns, whatever shared its steps.

    Attributes:
        compared, different: tokens.
    """

    first: dict[int, list[int]] = field(default_factory=dict)
    compared: int = 0
    different: int = 0

    def add(self, edge: int, text: Sequence[int]) -> None:
        """Another text of an edge's prompt."""
        known = self.first.get(edge)
        if known is None:
            self.first[edge] = list(text)
            return
        self.compared += min(len(known), len(text))
        self.different += sum(a != b for a, b in zip(known, text, strict=False))


def case_name(sessions: int, ahead: int) -> str:
    """Of a case."""
    return f"{'streaming' if ahead else 'asked for'}, {sessions}"


async def measure(options: Namespace, folder: Path) -> dict[str, Any]:
    """Run all cases in turns on one worker."""
    cases = {case_name(n, ahead): (n, ahead) for ahead in (0, options.ahead) for n in SESSIONS}
    turns: dict[str, list[Turn]] = {name: [] for name in cases}
    texts, rng = Texts(), random.Random(options.seed)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(_system(options, folder))
        await system.turn(2, 0, Texts(), tokens=4)  # warm up
        for _ in range(options.rounds):
            names = list(cases)
            rng.shuffle(names)
            for name in names:
                turns[name].append(await system.turn(*cases[name], texts, tokens=options.tokens))
    return _results(options, turns, texts)


@asynccontextmanager
async def _system(options: Namespace, folder: Path) -> AsyncIterator[_System]:
    tokenizer = None if options.target == "default" else options.target
    draft = load_draft(EdgeSettings(draft="none", tokenizer=tokenizer), _say)
    prompts = _prompts(draft.loaded.tokenizer, options)
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(PrivateBroker())
        processes = await stack.enter_async_context(Processes())
        metrics = free_port()
        where = ("--broker", f"127.0.0.1:{broker.port}", "--worker", "w1", "--metrics-port", str(metrics))
        what = ("--target", options.target, "--dtype", options.dtype, "--threads", str(options.threads))
        command = python("cloud_worker", "--ready-json", *where, *what)
        worker = Daemon(await processes.start("worker", command, log=folder / "worker.log"), metrics)
        await worker.process.line()
        crowd = Crowd(
            port=broker.port,
            first=0,
            count=max(SESSIONS),
            fingerprint=draft.loaded.fingerprint.hex(),
            eos=draft.loaded.eos,
            right=None,
        )
        edges = await generator(processes, "edges", folder, crowd)
        yield _System(options, broker, worker, edges, prompts)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _prompts(tokenizer: Any, options: Namespace) -> list[list[int]]:
    """Windows of the questions' text, of the same length, one for each edge."""
    text = "\n\n".join(question.text for question in read_questions(options.prompts or OWN))
    stream: list[int] = tokenizer.encode(text)
    stream *= 1 + PROMPT // len(stream)
    rng = random.Random(options.seed)
    starts = [rng.randrange(len(stream) - PROMPT + 1) for _ in range(max(SESSIONS))]
    return [stream[start : start + PROMPT] for start in starts]


class _System:
    """A worker with a model, and edges in one process."""

    def __init__(
        self,
        options: Namespace,
        broker: PrivateBroker,
        worker: Daemon,
        edges: Process,
        prompts: list[list[int]],
    ) -> None:
        self._options = options
        self._edges = edges
        self._prompts = prompts
        self._worker = worker
        self._pids = {"worker": worker.process.pid, "broker": broker.pid or 0, "edges": edges.pid}

    async def turn(self, sessions: int, ahead: int, texts: Texts, *, tokens: int) -> Turn:
        """Have so many texts written at a time, until one of them has got `tokens` in the steady part."""
        order = Order(
            version="base",
            seed=self._options.seed,
            active=sessions,
            limit=64 + 8 * tokens,
            ahead=ahead,
            qos=self._options.qos,
            starts=time.monotonic() + SOON,
            prompts=self._prompts,
            known=False,
            steady=tokens,
        )
        await self._edges.send(msgspec.json.encode(order))
        await self._mark("writing")
        begun, before = take(self._pids), await self._worker.figures()
        await self._mark("ended")
        ended, after = take(self._pids), await self._worker.figures()
        outcome = await answer(self._edges, 300.0)
        if not isinstance(outcome, Outcome) or outcome.failures:
            raise BenchmarkError(f"the edges did not write all texts: {outcome}")
        for edge, text in zip(outcome.edges, outcome.written, strict=True):
            texts.add(edge, text)
        use, rise = between(begun, ended), since(before, after)
        return _turn(steady_rate(outcome), rise, use.seconds, {**use.processes}, use.others)

    async def _mark(self, what: str) -> None:
        found = await answer(self._edges, 300.0)
        if not isinstance(found, Mark) or found.what != what:
            raise BenchmarkError(f"the edges said {found} instead of {what!r}")


def steady_rate(outcome: Outcome) -> float:
    """Tokens per second of all sessions together, while all of them write."""
    begin, end = outcome.begin, outcome.end
    return sum(n for commits in outcome.trace for at, n in commits if begin < at <= end) / (end - begin)


def _turn(
    rate: float, rise: Mapping[str, float], seconds: float, cpu: dict[str, float], others: float
) -> Turn:
    name = "flexspec_worker_batch_sessions"
    steps = max(1.0, rise[f"{name}_count"])
    spent = rise["flexspec_worker_compute_seconds_sum"]
    sizes = {size: rise[f'{name}_bucket{{le="{size}.0"}}'] / steps for size in _STEPS}
    return Turn(
        rate,
        int(steps),
        rise[f"{name}_sum"] / steps,
        sizes,
        1000 * spent / steps,
        1000 * cpu["worker"] / rate,
        spent / seconds,
        cpu,
        others,
    )


def _results(options: Namespace, turns: Mapping[str, Sequence[Turn]], texts: Texts) -> dict[str, Any]:
    rows = []
    for name, runs in turns.items():
        mode = name.partition(",")[0]
        alone = turns[f"{mode}, 1"]
        rate = percentile([run.rate for run in runs], 0.5)
        rows.append(
            {
                "case": name,
                "tokens_per_s": rate,
                "rates": [run.rate for run in runs],
                "of_one": rate / percentile([run.rate for run in alone], 0.5),
                **{
                    key: percentile([getattr(run, key) for run in runs], 0.5)
                    for key in ("steps", "sessions_per_step", "step_ms", "cpu_ms", "computing", "others")
                },
                "sizes": {size: _mean([run.sizes[size] for run in runs]) for size in _STEPS},
                "cpu": {who: _mean([run.cpu[who] for run in runs]) for who in runs[0].cpu},
            }
        )
    most, one = (percentile([run.rate for run in turns[case_name(n, 0)]], 0.5) for n in (max(SESSIONS), 1))
    most_ms, one_ms = (
        percentile([run.cpu_ms for run in turns[case_name(n, 0)]], 0.5) for n in (max(SESSIONS), 1)
    )
    ratio = most / one
    return {
        "target": options.target,
        "dtype": options.dtype,
        "threads": options.threads,
        "prompt": PROMPT,
        "tokens": options.tokens,
        "ahead": options.ahead,
        "cases": rows,
        "tokens_compared": texts.compared,
        "tokens_different": texts.different,
        "ratio_of_processor_time": one_ms / most_ms,
        "ratio": {"value": ratio, "least": BAR, "met": ratio >= BAR},
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def show(results: Mapping[str, Any]) -> None:
    """Print the table."""
    heads = (
        "sessions, one token a step",
        *("tokens/s", "of one", "sessions/step", "ms/step", "CPU ms/token", "in steps"),
        *(f"≤ {size}" for size in _STEPS),
        *("CPU worker", "broker", "edges", "others"),
    )
    rows = [
        [
            row["case"],
            *(
                row[key]
                for key in ("tokens_per_s", "of_one", "sessions_per_step", "step_ms", "cpu_ms", "computing")
            ),
            *row["sizes"].values(),
            *(row["cpu"][who] for who in ("worker", "broker", "edges")),
            row["others"],
        ]
        for row in results["cases"]
    ]
    print(table(heads, rows))
    ratio = results["ratio"]
    met = "met" if ratio["met"] else "NOT met"
    print(
        f"\n16 sessions over one, asked for: {ratio['value']:.2f} (at least {ratio['least']:g}: {met}); "
        f"by processor time {results['ratio_of_processor_time']:.2f}\n"
        f"tokens that differ from another turn of the same prompt: "
        f"{results['tokens_different']} of {results['tokens_compared']}"
    )
