"""Many edges on one broker and two workers: the load is raised until something is full, then held for a minute."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from broker.launcher import PrivateBroker
from lab.benchmarks._common import percentile, table
from lab.benchmarks.scale_parts import null
from lab.benchmarks.scale_parts.generator import prompt_of
from lab.benchmarks.scale_parts.orders import Order
from lab.benchmarks.scale_parts.system import Measured, WorkerPlan, generators, in_window, load, null_workers
from lab.testbed.site.process import Process
from lab.testbed.site.topology import Daemon

LIMIT = 32
"""Tokens of a text."""
BEHIND = 0.5
"""Seconds that a text may begin after its time for a level to count as sustained."""
KEPT = 0.85
"""Share of the offered rounds that must be done for it; texts begin one by one, so that a window has some too few."""
PLAN = WorkerPlan(step_ms=2.0, token_ms=0.02)
"""A step of some milliseconds, so that sessions share steps as they would on a device."""
SAMPLE = 200
"""Texts from which the rounds of a text are foretold."""


def rounds_per_text(options: Namespace) -> float:
    """What a text of the null model takes, on average."""
    counts = [
        null.rounds(seed, prompt_of(seed), LIMIT, k=options.draft_length, right=options.right)
        for seed in range(SAMPLE)
    ]
    return sum(counts) / len(counts)


async def measure(options: Namespace, folder: Path) -> dict[str, Any]:
    """Raise the load level by level, then hold the highest that was sustained."""
    levels: list[dict[str, Any]] = []
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(PrivateBroker())
        workers = await stack.enter_async_context(null_workers(broker, folder, "base", (PLAN, PLAN)))
        loaders = await stack.enter_async_context(
            generators(broker, folder, edges=options.edges, processes=options.generators, right=options.right)
        )
        run = _Run(options, broker, workers, loaders)
        for rate in options.rates:
            levels.append(await run.level(rate, options.level_seconds))
            if not levels[-1]["sustained"]:
                break
        kept = [level["offered"] for level in levels if level["sustained"]]
        held = await run.level(max(kept, default=options.rates[0]), options.seconds)
    return {
        "edges": options.edges,
        "generators": options.generators,
        "draft_length": options.draft_length,
        "right": options.right,
        "rounds_per_text": rounds_per_text(options),
        "levels": levels,
        "held": held,
        "limit": _limit(levels),
    }


class _Run:
    """Levels of load on one system."""

    def __init__(
        self, options: Namespace, broker: PrivateBroker, workers: Sequence[Daemon], loaders: Sequence[Process]
    ) -> None:
        self._options = options
        self._broker = broker
        self._workers = workers
        self._loaders = loaders
        self._number = 0

    async def level(self, rate: float, seconds: float) -> dict[str, Any]:
        """Offer `rate` rounds per second for so long."""
        options = self._options
        self._number += 1
        # Every edge begins a text once a period, and each text takes some rounds.
        period = options.edges * rounds_per_text(options) / rate
        order = Order(
            version="base",
            seed=1000 * options.seed + self._number,
            limit=LIMIT,
            draft_length=options.draft_length,
            qos=options.qos,
            period=period,
            starts=0.0,
        )
        # Within one period every edge has begun its first text; a slow level needs less than that to be steady.
        ramp = min(period, options.ramp)
        timed = in_window(order, time.monotonic(), ramp=ramp, seconds=seconds)
        return _row(rate, await load(self._broker, self._workers, self._loaders, timed))


def _row(rate: float, found: Measured) -> dict[str, Any]:
    outcome, use = found.outcome, found.use
    done = len(outcome.rounds_us) / use.seconds
    times = outcome.rounds_us
    return {
        "offered": rate,
        "seconds": use.seconds,
        "rounds_per_s": done,
        "sustained": done >= KEPT * rate
        and outcome.behind <= BEHIND
        and not outcome.wrong
        and not outcome.failures,
        "p50_ms": percentile(times, 0.5) / 1e3 if times else None,
        "p99_ms": percentile(times, 0.99) / 1e3 if times else None,
        "behind_s": outcome.behind,
        "texts": outcome.texts,
        "rounds_per_text": outcome.text_rounds / max(1, outcome.texts),
        "wrong": outcome.wrong,
        "failures": outcome.failures,
        "reopens": outcome.reopens,
        "polls": outcome.polls,
        "busy": outcome.busy,
        "workers": outcome.workers,
        "sessions_per_step": _sessions_per_step(found.workers),
        "cpu": use.processes,
        "cores_busy": use.busy + use.stolen,
        "others": use.others,
        "cores": use.cores,
        "limit": use.limit(),
    }


def _sessions_per_step(workers: Mapping[str, Mapping[str, float]]) -> float:
    name = "flexspec_worker_batch_sessions"
    steps = sum(rise[f"{name}_count"] for rise in workers.values())
    return sum(rise[f"{name}_sum"] for rise in workers.values()) / max(1.0, steps)


def _limit(levels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the search found."""
    sustained = [level["rounds_per_s"] for level in levels if level["sustained"]]
    over = next((level for level in levels if not level["sustained"]), None)
    return {
        "sustained_rounds_per_s": max(sustained, default=None),
        "most_rounds_per_s": max(level["rounds_per_s"] for level in levels),
        "found": over is not None,
        "why": over["limit"] if over else "the highest load that was offered was sustained",
    }


def show(results: Mapping[str, Any]) -> None:
    """Print the tables."""
    names = list(results["held"]["cpu"])
    heads = (
        f"{results['edges']} edges, offered/s",
        *("rounds/s", "p50 ms", "p99 ms", "behind s", "sessions/step", "texts", "bad", "re-opens", "polls"),
        *(f"CPU {name}" for name in names),
        *("others", "cores busy"),
    )
    rows = [
        [
            f"{row['offered']:g}{' held' if row is results['held'] else ''}",
            *(row[key] for key in ("rounds_per_s", "p50_ms", "p99_ms", "behind_s", "sessions_per_step")),
            row["texts"],
            row["wrong"] + len(row["failures"]),
            row["reopens"],
            row["polls"],
            *(row["cpu"][name] for name in names),
            row["others"],
            f"{row['cores_busy']:.2f}/{row['cores']}",
        ]
        for row in (*results["levels"], results["held"])
    ]
    print(table(heads, rows))
    limit = results["limit"]
    print(
        f"\nmost rounds per second: {limit['most_rounds_per_s']:.0f}; sustained as offered: "
        f"{limit['sustained_rounds_per_s'] or 0:.0f}; the limit: {limit['why']}"
    )
