"""Capacity of a modelled accelerator: curves of clients over rate for each strategy and each cost of a draft."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexspec_mq.errors import UsageError
from lab.benchmarks._common import table
from lab.benchmarks.capacity import cost as costs
from lab.benchmarks.capacity.curves import carried, show_carried, show_levels, wrong
from lab.benchmarks.capacity.strategies import COLOCATED, DEFAULT, DEVICE, STRATEGIES, STREAMING, K
from lab.benchmarks.capacity.virtual_crowd import Place, VirtualCrowd
from lab.benchmarks.parts.pool import pool
from lab.benchmarks.replay.crowds import texts_each
from lab.benchmarks.replay.figures import figures
from lab.simulator.accelerator import Accelerator, Modelled
from lab.simulator.cost import DraftTimes
from lab.simulator.recording import Recording

RATES = (5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0, 120.0)
"""Tokens per second of each client: a reader takes five to ten, a program what it gets."""
_TOGETHER = 24
"""Texts of a crowd that count, at least."""


@dataclass(frozen=True, slots=True)
class Job:
    """One curve, or one level of an open loop.

    Attributes:
        place: what is simulated.
        least: tokens per second; no crowd is larger than the first one that is carried at less.
        most: clients.
        growth: of crowds, from one to the next.
        each: texts of a client that count, at least.
        offered: texts per second of an open loop; None is a closed one.
        count: of texts of an open loop.
    """

    place: Place
    least: float = 0.0
    most: int = 1
    growth: float = 2.0
    each: int = 1
    offered: float | None = None
    count: int = 0


def add_arguments(parser: ArgumentParser) -> None:
    """Flags of the section."""
    costs.add_arguments(parser)
    group = parser.add_argument_group("simulated crowds")
    group.add_argument("--most-clients", type=int, default=512, help="of the largest crowd")
    group.add_argument("--growth", type=float, default=1.5, help="from one crowd to the next")
    group.add_argument(
        "--offered",
        type=float,
        nargs="*",
        default=[0.3, 0.6, 0.9],
        metavar="SHARE",
        help="open loop: texts arrive at so much of what streaming writes when it is saturated",
    )
    group.add_argument("--open-texts", type=int, default=200, help="of each open loop")
    group.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes that simulate"
    )


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be simulated with.

    Raises:
        UsageError: naming the flag.
    """
    costs.check(options)
    for name, least in (("most_clients", 1), ("open_texts", 10), ("jobs", 1)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name)} is less than {least}")
    if options.growth <= 1.0:
        raise UsageError(f"--growth {options.growth:g} is not above 1")
    if options.offered and min(options.offered) <= 0.0:
        raise UsageError(f"--offered {min(options.offered):g} is not above 0")


def run(job: Job) -> dict[int, dict[str, Any]]:
    """Simulate; figures by number of clients, or of the open loop under 0."""
    if job.offered is not None:
        crowd = VirtualCrowd(job.place)
        return {0: _figures(crowd, figures(crowd.open(job.offered, job.count)))}
    found: dict[int, dict[str, Any]] = {}
    count = 1
    while count <= job.most:
        crowd = VirtualCrowd(job.place)
        runs = crowd.closed(count, texts_each(count, job.each, _TOGETHER))
        found[count] = _figures(crowd, figures(runs))
        if found[count]["rate"] < job.least:
            break
        count = max(count + 1, round(count * job.growth))
    return found


def _figures(crowd: VirtualCrowd, found: dict[str, Any]) -> dict[str, Any]:
    worker = crowd.worker_figures()
    return {**found, "rows": worker["rows_per_token"], "worker": worker}


def measure(options: Namespace, recording: Recording) -> dict[str, Any]:
    """Simulate all curves, then all open loops."""
    rates = options.rates or RATES
    places = _places(options, recording)
    curve = {
        "least": min(rates),
        "most": options.most_clients,
        "growth": options.growth,
        "each": options.each,
    }
    began = time.monotonic()
    curves = _simulated({name: Job(place, **curve) for name, place in places.items()}, options)
    saturated = max(one["tokens_per_s"] for one in curves[STREAMING].values())
    mean = sum(len(text.tokens) for text in recording.texts) / len(recording.texts)
    loops = _simulated(
        {
            f"{share:g} {name}": Job(place, offered=share * saturated / mean, count=options.open_texts)
            for share in options.offered
            for name, place in places.items()
        },
        options,
    )
    tokens = recording.tokens_per_round(K)
    shares = []
    for share in options.draft_shares:
        levels = {name: curves[_label(name, share)] for name in options.strategies}
        rows = carried(levels, rates)
        cost = _cost(options, share)
        shares.append(
            {
                "draft_share": share,
                "gain_beforehand": cost.gain(K),
                "carried": rows,
                "beforehand": _beforehand(options, cost, tokens, rates),
                "saturated": {
                    name: max(one["tokens_per_s"] for one in found.values()) for name, found in levels.items()
                },
                "open": {
                    f"{offered:g}": {
                        name: loops[f"{offered:g} {_label(name, share)}"][0] for name in options.strategies
                    }
                    for offered in options.offered
                },
            }
        )
    return {
        "tokens_per_round": tokens,
        "saturated_streaming": saturated,
        "curves": curves,
        "draft_shares": shares,
        "seconds": time.monotonic() - began,
        "wrong": wrong(curves) + wrong(loops),
    }


def _places(options: Namespace, recording: Recording) -> dict[str, Place]:
    """What is simulated, by label; streaming always, as loads are shares of what it can."""
    names = {STREAMING: None, **dict.fromkeys(options.strategies)}
    return {
        _label(name, share): Place(
            recording=recording,
            strategy=STRATEGIES[name],
            times=Modelled(
                _cost(options, share), DraftTimes(token=options.token_ms), request=0.0, broker=0.0
            ),
            rtt_ms=options.rtt_ms,
            seed=options.seed,
        )
        for share in options.draft_shares
        for name in names
    }


def _label(name: str, share: float) -> str:
    """A draft beside the target costs nothing where none is."""
    return f"{name}, draft {share:g}" if name in (COLOCATED, DEFAULT) else name


def _cost(options: Namespace, share: float) -> Accelerator:
    return Accelerator(options.weights_ms, options.row_ms, options.session_ms, share)


def _simulated(jobs: Mapping[str, Job], options: Namespace) -> dict[str, dict[int, dict[str, Any]]]:
    if options.jobs == 1 or len(jobs) < 2:
        return {name: run(job) for name, job in jobs.items()}
    with pool(min(options.jobs, len(jobs))) as processes:
        return dict(zip(jobs, processes.map(run, jobs.values()), strict=True))


def _beforehand(
    options: Namespace, cost: Accelerator, tokens: float, rates: Sequence[float]
) -> dict[str, list[float]]:
    """Clients by the roofline, for each rate."""
    device = {"token_ms": options.token_ms, "rtt_ms": options.rtt_ms}
    return {
        STREAMING: [costs.clients(lambda n: costs.streaming_rate(cost, n), rate) for rate in rates],
        COLOCATED: [
            costs.clients(lambda n: costs.colocated_rate(cost, n, k=K, tokens=tokens), rate) for rate in rates
        ],
        DEVICE: [
            costs.clients(lambda n: costs.device_rate(cost, n, k=K, tokens=tokens, **device), rate)
            for rate in rates
        ],
    }


def show(results: Mapping[str, Any]) -> None:
    """Print the tables."""
    show_levels(results["curves"])
    for one in results["draft_shares"]:
        print(
            f"a forward of the draft beside the target costs {one['draft_share']:g} of the target's: not drafting "
            f"there gives {one['gain_beforehand']:.2f} times the tokens where reading weights is the limit"
        )
        colocated = [_over(row["clients"], DEFAULT, COLOCATED) for row in one["carried"]]
        streaming = [_over(row["clients"], DEFAULT, STREAMING) for row in one["carried"]]
        beforehand = {f"{name}*": values for name, values in one["beforehand"].items()}
        show_carried(
            one["carried"],
            {f"/ {COLOCATED}": colocated, f"/ {STREAMING}": streaming, **beforehand},
        )
        print(f"* by the roofline beforehand; {DEVICE} without run-ahead\n")
        rows = [
            [
                f"{share} of streaming's most",
                name,
                found["rate"],
                found["rate_median"],
                found["gap_p99_ms"],
                found["first_ms"],
                found["worker"]["busy"],
                found["wrong"],
            ]
            for share, loops in one["open"].items()
            for name, found in loops.items()
        ]
        if rows:
            heads = ("open loop", "", "9 in 10 have, tok/s", "median, tok/s", "gap p99, ms", "first, ms")
            print(table((*heads, "busy", "wrong"), rows))
            print()


def _over(clients: Mapping[str, float], one: str, other: str) -> float | None:
    return clients[one] / clients[other] if clients.get(other) and one in clients else None
