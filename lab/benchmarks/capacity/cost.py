"""Flags of a modelled accelerator, and how many clients the roofline gives each strategy beforehand."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from flexspec_mq.errors import UsageError
from lab.simulator.accelerator import Accelerator


def add_arguments(parser: ArgumentParser) -> None:
    """Flags of the model."""
    group = parser.add_argument_group("modelled accelerator")
    group.add_argument(
        "--weights-ms",
        type=float,
        default=6.7,
        help="of reading the weights: 7 G parameters of 2 bytes from the 2,039 GB/s of an A100 80GB SXM's memory "
        "(its data sheet) are 6.9 ms; 6.74 G, as Llama 2 7B has, are 6.6",
    )
    group.add_argument(
        "--row-ms",
        type=float,
        default=0.09,
        help="of computing a row: 2 operations for each of 7 G parameters, at half of an A100's 312 TFLOPS of dense "
        "bfloat16 (its data sheet), which large products reach in practice",
    )
    group.add_argument(
        "--session-ms",
        type=float,
        default=0.13,
        help="of reading a session's keys and values: 0.5 MB a token (32 layers x 2 x 4,096 x 2 bytes, Llama 2 7B) x "
        "500 tokens, at the same 2,039 GB/s",
    )
    group.add_argument(
        "--draft-shares",
        type=float,
        nargs="+",
        default=[0.05, 0.15, 0.4],
        metavar="C",
        help="cost of a forward of the draft beside the target, of the target's; assumed for a small one of its own, "
        "ours in few bits (on a CPU 0.08 to 0.20 of the default target's, docs/benchmarks.md) and ours as it is",
    )
    group.add_argument(
        "--token-ms",
        type=float,
        default=20.0,
        help="that a drafted token takes a device: a phone's or a small board's",
    )
    group.add_argument("--rtt-ms", type=float, default=20.0, help="round trip between device and worker")


def check(options: Namespace) -> None:
    """Refuse impossible figures.

    Raises:
        UsageError: naming the flag.
    """
    for name in ("weights_ms", "row_ms", "session_ms", "token_ms", "rtt_ms"):
        if getattr(options, name) < 0.0:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name):g} is negative")
    if options.weights_ms == 0.0 and options.row_ms == 0.0:
        raise UsageError("a forward would take no time", hint="give --weights-ms or --row-ms")
    if min(options.draft_shares) < 0.0:
        raise UsageError(f"--draft-shares {min(options.draft_shares):g} is negative")


def clients(rate: Callable[[float], float], wanted: float, most: float = 1e5) -> float:
    """The most clients that a falling rate leaves `wanted` tokens per second each; 0 if it leaves none that."""
    if rate(1.0) < wanted:
        return 0.0
    low, high = 1.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) >= wanted else (low, middle)
    return low


def streaming_rate(cost: Accelerator, count: float) -> float:
    """Tokens per second of each of so many clients: all share each step, with a row each."""
    return 1000 / _forward(cost, count, count)


def colocated_rate(cost: Accelerator, count: float, *, k: int, tokens: float) -> float:
    """The same where the worker drafts `k` tokens for each in each step, of which `tokens` a round come."""
    return (
        1000
        * tokens
        / (_forward(cost, count, count * (1 + k)) + k * cost.draft * _forward(cost, count, count))
    )


def device_rate(
    cost: Accelerator, count: float, *, k: int, tokens: float, token_ms: float, rtt_ms: float
) -> float:
    """The same where devices draft `k` tokens a round, while nothing else goes on.

    In each step are those that are not drafting or on the way: a round is that, half a step of waiting, and a step.
    """
    away = rtt_ms + k * token_ms
    low, high = 0.0, count
    for _ in range(60):  # sessions in a step, such that they come back as fast as they are served
        here = (low + high) / 2
        step = _forward(cost, here, here * (1 + k))
        if here * (away + 1.5 * step) > count * step:
            high = here
        else:
            low = here
    return 1000 * tokens / (away + 1.5 * _forward(cost, low, low * (1 + k)))


def _forward(cost: Accelerator, sessions: float, rows: float) -> float:
    return max(cost.weights, rows * cost.row) + sessions * cost.session
