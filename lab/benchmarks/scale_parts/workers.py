"""Two workers against one: rounds per second, shares of ``$share``, and what busy answers do."""

from __future__ import annotations

import random
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.launcher import PrivateBroker
from lab.benchmarks._common import percentile, table
from lab.benchmarks.scale_parts import null
from lab.benchmarks.scale_parts.orders import Order
from lab.benchmarks.scale_parts.system import Measured, WorkerPlan, generators, in_window, load, null_workers
from lab.testbed.site.process import Process

BAR = 1.8
"""Rounds per second of two workers, over those of one."""
GENERATORS = 2
LIMIT = 48
"""Tokens of a text: short, so that sessions are opened all the time and the share deals them out."""


@dataclass(frozen=True, slots=True)
class Case:
    """Some workers under load.

    Attributes:
        kind: cases of one kind are compared.
        plans: one for each worker.
    """

    kind: str
    plans: tuple[WorkerPlan, ...]


def cases(options: Namespace) -> dict[str, Case]:
    """All of them, by name."""
    device = WorkerPlan(step_ms=options.step_ms, token_ms=options.token_ms, batch=options.batch)
    nothing = WorkerPlan()
    few = options.writers // 4
    narrow = WorkerPlan(step_ms=options.step_ms, token_ms=options.token_ms, batch=options.batch, capacity=few)
    wide = WorkerPlan(
        step_ms=options.step_ms,
        token_ms=options.token_ms,
        batch=options.batch,
        capacity=options.writers - few,
    )
    return {
        "modelled device, 1 worker": Case("device", (device,)),
        "modelled device, 2 workers": Case("device", (device, device)),
        f"the same, room for {few} and {options.writers - few}": Case("busy", (narrow, wide)),
        "no cost, 1 worker": Case("nothing", (nothing,)),
        "no cost, 2 workers": Case("nothing", (nothing, nothing)),
    }


async def measure(options: Namespace, folder: Path) -> dict[str, Any]:
    """Run all cases in turns, each with workers that are started for it."""
    found: dict[str, list[Measured]] = {name: [] for name in cases(options)}
    rng = random.Random(options.seed)
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(PrivateBroker())
        loaders = await stack.enter_async_context(
            generators(broker, folder, edges=options.writers, processes=GENERATORS, right=options.right)
        )
        number = 0
        for _ in range(options.rounds):
            names = list(found)
            rng.shuffle(names)
            for name in names:
                number += 1
                plans = cases(options)[name].plans
                found[name].append(await _once(options, (broker, loaders, folder), f"v{number}", plans))
    return _results(options, found)


async def _once(
    options: Namespace,
    where: tuple[PrivateBroker, Sequence[Process], Path],
    version: str,
    plans: Sequence[WorkerPlan],
) -> Measured:
    broker, loaders, folder = where
    order = Order(
        version=version,
        seed=int(version[1:]) + options.seed * 1000,
        limit=LIMIT,
        draft_length=options.draft_length,
        qos=options.qos,
        starts=0.0,
    )
    async with null_workers(broker, folder, version, plans) as workers:
        timed = in_window(order, time.monotonic(), ramp=options.ramp, seconds=options.worker_seconds)
        return await load(broker, workers, loaders, timed)


def _results(options: Namespace, found: dict[str, list[Measured]]) -> dict[str, Any]:
    rows = [{"case": name, **_row(runs)} for name, runs in found.items()]
    rate = {row["case"]: row["rounds_per_s"] for row in rows}
    ratio = rate["modelled device, 2 workers"] / rate["modelled device, 1 worker"]
    return {
        "writers": options.writers,
        "step_ms": options.step_ms,
        "token_ms": options.token_ms,
        "batch": options.batch,
        "draft_length": options.draft_length,
        "right": options.right,
        "rounds_per_text": null.rounds(1, (1,), LIMIT, k=options.draft_length, right=options.right),
        "cases": rows,
        "ratio": {"value": ratio, "least": BAR, "met": ratio >= BAR},
        "ratio_without_cost": rate["no cost, 2 workers"] / rate["no cost, 1 worker"],
    }


def _row(runs: Sequence[Measured]) -> dict[str, Any]:
    """Medians over the turns; counts are sums."""
    outcomes = [run.outcome for run in runs]
    rates = [len(run.outcome.rounds_us) / run.use.seconds for run in runs]
    times = [us for outcome in outcomes for us in outcome.rounds_us]
    steps = [
        rise["flexspec_worker_batch_sessions_sum"] / max(1.0, rise["flexspec_worker_batch_sessions_count"])
        for run in runs
        for rise in run.workers.values()
    ]
    computing = [
        rise["flexspec_worker_compute_seconds_sum"] / run.use.seconds
        for run in runs
        for rise in run.workers.values()
    ]
    return {
        "rounds_per_s": percentile(rates, 0.5),
        "rates": rates,
        "p50_ms": percentile(times, 0.5) / 1e3 if times else None,
        "p99_ms": percentile(times, 0.99) / 1e3 if times else None,
        "sessions_per_step": sum(steps) / len(steps),
        "computing": sum(computing) / len(computing),
        "texts_by_worker": [_by_worker(run.outcome.workers) for run in runs],
        "texts": sum(outcome.texts for outcome in outcomes),
        "wrong": sum(outcome.wrong for outcome in outcomes),
        "failures": [failure for outcome in outcomes for failure in outcome.failures],
        "busy": sum(outcome.busy for outcome in outcomes),
        "reopens": sum(outcome.reopens for outcome in outcomes),
        "polls": sum(outcome.polls for outcome in outcomes),
        "cpu": {name: _median_use(runs, name) for name in ("broker", "worker", "generator")},
        "limit": runs[-1].use.limit(),
        "others": percentile([run.use.others for run in runs], 0.5),
        "cores_busy": percentile([run.use.busy + run.use.stolen for run in runs], 0.5),
        "cores": runs[-1].use.cores,
    }


def _by_worker(texts: Mapping[str, int]) -> list[int]:
    """Texts of each worker, in the order of their names, which end in a number."""
    return [texts[name] for name in sorted(texts)]


def _median_use(runs: Sequence[Measured], kind: str) -> float:
    """Mean share of a core of the processes of one kind."""
    shares = [
        [
            share
            for name, share in run.use.processes.items()
            if kind in name or (kind == "worker" and "-w" in name)
        ]
        for run in runs
    ]
    return percentile([sum(one) / len(one) for one in shares], 0.5)


def show(results: dict[str, Any]) -> None:
    """Print the table."""
    rows = [
        [
            row["case"],
            row["rounds_per_s"],
            row["p50_ms"],
            row["p99_ms"],
            row["sessions_per_step"],
            row["computing"],
            *(row["cpu"][kind] for kind in ("broker", "worker", "generator")),
            row["others"],
            f"{row['cores_busy']:.2f}/{row['cores']}",
            " ".join("+".join(map(str, turn)) for turn in row["texts_by_worker"]),
            row["busy"],
            row["texts"],
            row["wrong"] + len(row["failures"]),
        ]
        for row in results["cases"]
    ]
    heads = (
        f"{results['writers']} sessions at a time",
        *("rounds/s", "p50 ms", "p99 ms", "sessions/step", "in steps"),
        *("CPU broker", "a worker", "a generator", "others", "cores busy"),
        *("texts by worker", "busy", "texts", "bad"),
    )
    print(table(heads, rows))
    ratio = results["ratio"]
    print(
        f"\ntwo workers over one: {ratio['value']:.2f} where the worker is the limit (at least {ratio['least']}: "
        f"{'met' if ratio['met'] else 'NOT met'}); {results['ratio_without_cost']:.2f} where this machine is"
    )
