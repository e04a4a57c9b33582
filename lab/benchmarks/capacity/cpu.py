"""Capacity of a real worker on one core, with the real model: curves of clients over rate for each strategy."""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexspec_mq.errors import UsageError
from lab.benchmarks._common import table
from lab.benchmarks.capacity.curves import Levels, carried, show_carried, show_levels, wrong
from lab.benchmarks.capacity.site import Place, place, rows_of
from lab.benchmarks.capacity.strategies import STRATEGIES, STREAMING
from lab.benchmarks.pricing.asked import say
from lab.benchmarks.replay.crowds import texts_each
from lab.benchmarks.replay.figures import TextRun, figures
from lab.simulator.recording import Recording

RATES = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Tokens per second of each client."""


def add_arguments(parser: ArgumentParser) -> None:
    """Flags of the section."""
    group = parser.add_argument_group("crowds at a real worker")
    group.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="of each crowd")
    group.add_argument("--together", type=int, default=16, help="texts of a crowd that count, at least")
    group.add_argument("--rounds", type=int, default=1, help="turns of each crowd")
    group.add_argument(
        "--device-ms",
        type=float,
        help="that a drafted token takes an edge; without it what it took when it was recorded",
    )
    group.add_argument(
        "--cpu-offered",
        type=float,
        nargs="*",
        default=[0.6],
        metavar="SHARE",
        help="open loop: texts arrive at so much of what streaming writes at its best",
    )
    group.add_argument("--cpu-open-texts", type=int, default=40, help="of each open loop")


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    if min(options.clients) < 1 or len(set(options.clients)) < len(options.clients):
        raise UsageError("--clients are different numbers from 1 on", hint="for example --clients 1 4 16")
    for name, least in (("together", 1), ("rounds", 1), ("cpu_open_texts", 10)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name)} is less than {least}")
    if options.device_ms is not None and options.device_ms < 0.0:
        raise UsageError(f"--device-ms {options.device_ms:g} is negative")
    if options.cpu_offered and min(options.cpu_offered) <= 0.0:
        raise UsageError(f"--cpu-offered {min(options.cpu_offered):g} is not above 0")


def pace(options: Namespace, recording: Recording) -> float:
    """Milliseconds that a drafted token takes an edge."""
    return float(recording.draft_ms if options.device_ms is None else options.device_ms)


async def measure(options: Namespace, recording: Recording, path: Path) -> dict[str, Any]:
    """Run all crowds in turns.

    Args:
        options: of the command.
        recording: the texts.
        path: of its file.
    """
    rows = list(dict.fromkeys(rows_of(STRATEGIES[name]) for name in options.strategies))
    edges = max(options.clients)
    async with place(options, path, rows, edges=edges, token_ms=pace(options, recording)) as here:
        levels = await _closed(options, here)
        loops = await _open(options, recording, here, levels)
    return {
        "device_ms": pace(options, recording),
        "levels": levels,
        "carried": carried(levels, options.rates or RATES),
        "open": loops,
        "wrong": wrong(levels) + sum(one["wrong"] for found in loops.values() for one in found.values()),
    }


async def _closed(options: Namespace, here: Place) -> dict[str, dict[int, dict[str, Any]]]:
    rng = random.Random(options.seed)
    runs: dict[tuple[str, int], list[TextRun]] = {}
    rises: dict[tuple[str, int], list[Mapping[str, float]]] = {}
    names = list(options.strategies)
    for turn in range(options.rounds):
        for count in options.clients:
            rng.shuffle(names)
            for name in names:
                strategy = STRATEGIES[name]
                found, rise = await here.written(
                    rows_of(strategy),
                    [strategy.plan] * count,
                    1000 * options.seed + turn,
                    each=texts_each(count, options.each, options.together),
                )
                runs.setdefault((name, count), []).extend(found)
                rises.setdefault((name, count), []).append(rise)
                say(f"  {count} clients, {name}: {figures(found)['tokens_per_s']:.1f} tokens/s")
    return {
        name: {
            count: {**figures(runs[name, count]), "rows": _rows(rises[name, count])}
            for count in sorted(options.clients)
        }
        for name in options.strategies
    }


async def _open(
    options: Namespace, recording: Recording, here: Place, levels: Mapping[str, Levels]
) -> dict[str, dict[str, dict[str, Any]]]:
    best = levels.get(STREAMING) or next(iter(levels.values()))
    most = max(one["tokens_per_s"] for one in best.values())
    mean = sum(len(text.tokens) for text in recording.texts) / len(recording.texts)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for share in options.cpu_offered:
        by_name = found.setdefault(f"{share:g}", {})
        for name in options.strategies:
            strategy = STRATEGIES[name]
            runs, rise = await here.written(
                rows_of(strategy),
                [strategy.plan] * max(options.clients),
                1000 * options.seed,
                rate=share * most / mean,
                count=options.cpu_open_texts,
            )
            by_name[name] = {**figures(runs), "rows": _rows([rise])}
            say(f"  open loop, {share:g} of streaming's most, {name}")
    return found


def _rows(rises: list[Mapping[str, float]]) -> float:
    """Rows of the target per token, those of prompts included."""
    fed = sum(rise["flexspec_worker_forward_tokens_sum"] for rise in rises)
    return fed / max(1.0, sum(rise["flexspec_worker_tokens_total"] for rise in rises))


def show(results: Mapping[str, Any]) -> None:
    """Print the tables."""
    print(f"a drafted token takes a device {results['device_ms']:.1f} ms")
    show_levels(results["levels"])
    show_carried(results["carried"])
    rows = [
        [
            f"{share} of streaming's most",
            name,
            *(one[key] for key in ("rate", "rate_median", "gap_p99_ms", "first_ms", "up", "down", "wrong")),
        ]
        for share, loops in results["open"].items()
        for name, one in loops.items()
    ]
    if rows:
        heads = ("open loop", "", "9 in 10 have, tok/s", "median, tok/s", "gap p99, ms", "first, ms")
        print(table((*heads, "B up/token", "B down/token", "wrong"), rows))
        print()
