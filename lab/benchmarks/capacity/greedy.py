"""Fairness on a real worker: what many ordinary sessions lose to one that asks for as many drafts as it may."""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_node.settings import PlanOptions
from flexspec_mq.errors import UsageError
from lab.benchmarks._common import percentile, table
from lab.benchmarks.capacity.cpu import pace
from lab.benchmarks.capacity.site import RATIONED, UNRATIONED, Place, place
from lab.benchmarks.pricing.asked import say
from lab.benchmarks.replay.figures import TextRun, figures
from lab.simulator.recording import Recording
from schemas.messages import MAX_DRAFT_TOKENS

ALONE, ORDINARY, GREEDY = "alone", "one ordinary more", "one that takes all"
COMPARED = "greedy / ordinary"
MOST_LOST = 0.05
"""To one that takes all, in the place of an ordinary one: any one more takes its share."""


def add_arguments(parser: ArgumentParser) -> None:
    """Flags of the section."""
    group = parser.add_argument_group("one that takes all")
    group.add_argument("--ordinary", type=int, default=16, help="sessions with the default plan, at T = 0")
    group.add_argument("--greedy-rounds", type=int, default=3, help="turns of each case")


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    for name in ("ordinary", "greedy_rounds"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name)} is less than 1")


async def measure(options: Namespace, recording: Recording, path: Path) -> dict[str, Any]:
    """Run all cases in turns, at a worker that gives rows out by their worth and at one that gives all.

    Raises:
        UsageError: the recording has no text at T = 0.
    """
    if not any(text.temperature == 0.0 for text in recording.texts):
        raise UsageError("the recording has no text at temperature 0", hint="give --temperatures 0")
    count = options.ordinary
    plan = PlanOptions()
    # All the drafts that a batch may have, at once.
    greedy = PlanOptions(policy="fixed", draft_length=MAX_DRAFT_TOKENS, ahead=8)
    cases = {
        ALONE: [plan] * count,
        ORDINARY: [plan] * (count + 1),
        GREEDY: [*[plan] * count, greedy],
    }
    rng = random.Random(options.seed)
    rates: dict[str, dict[str, list[float]]] = {
        rows: {name: [] for name in cases} for rows in (RATIONED, UNRATIONED)
    }
    texts = bad = 0
    async with place(
        options, path, list(rates), edges=count, token_ms=pace(options, recording), hasty=1
    ) as here:
        for turn in range(options.greedy_rounds):
            order = [(rows, name) for rows in rates for name in cases]
            rng.shuffle(order)
            for rows, name in order:
                runs = await _ran(options, here, rows, cases[name], turn)
                bad += sum(1 for run in runs if run.problem)
                texts += len(runs)
                ordinary = [run for run in runs if run.client < count]
                rates[rows][name].append(figures(ordinary)["tokens_per_s"])
                say(f"  {name}, rows {rows}: {rates[rows][name][-1]:.1f} tokens/s of the {count}")
    return {
        "ordinary": count,
        "tokens_per_s": rates,
        "kept": {
            rows: {
                "of alone, beside an ordinary one": _share(found[ORDINARY], found[ALONE]),
                "of alone, beside the greedy one": _share(found[GREEDY], found[ALONE]),
                COMPARED: _share(found[GREEDY], found[ORDINARY]),
            }
            for rows, found in rates.items()
        },
        "texts": texts,
        "wrong": bad,
    }


def _share(rates: list[float], beside: list[float]) -> float:
    """Median over turns of what is kept."""
    return percentile([one / other for one, other in zip(rates, beside, strict=True)], 0.5)


async def _ran(
    options: Namespace, here: Place, rows: str, plans: list[PlanOptions], turn: int
) -> list[TextRun]:
    runs, _ = await here.written(rows, plans, 1000 * options.seed + turn, each=options.each, temperature=0.0)
    return runs


def show(results: Mapping[str, Any]) -> None:
    """Print the table."""
    kept = results["kept"]
    rows = [
        [
            f"rows {which}",
            *(percentile(found[name], 0.5) for name in (ALONE, ORDINARY, GREEDY)),
            *kept[which].values(),
        ]
        for which, found in results["tokens_per_s"].items()
    ]
    heads = (f"tokens/s of {results['ordinary']} sessions", ALONE, ORDINARY, GREEDY)
    print(table((*heads, *kept[RATIONED]), rows))
    lost = 1 - kept[RATIONED][COMPARED]
    print(
        f"lost to a greedy one in an ordinary one's place: {lost:.1%}, at most {MOST_LOST:.0%}: "
        f"{'met' if lost <= MOST_LOST else 'NOT met'}"
    )
    print()
