"""The prices that leaves are judged by: flags, each with what was measured as its default, and where it was."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from flexspec_mq.errors import UsageError
from lab.benchmarks.leaves.clients import Accelerator, Drafting
from lab.benchmarks.leaves.seconds import Place, StepPrice, ascending, read_step
from lab.testbed.link.profiles import WAYS, built_in

LOOPBACK = "loopback"
STEPS = (
    *((1, 41.9), (2, 43.1), (3, 37.6), (4, 36.8), (5, 37.4), (6, 38.5), (7, 42.1), (8, 43.4)),
    *((9, 43.5), (10, 45.6), (12, 49.6), (16, 55.7)),
)
"""Of one session, 300 tokens of context: medians of the processor's time in 16 turns, one thread of an AMD EPYC."""


def add_arguments(made: ArgumentParser) -> None:
    """Flags of all prices."""
    step = made.add_argument_group(
        "a step of this CPU, in ms",
        "of one session; docs/benchmarks.md, Leaves, says how it was measured",
    )
    step.add_argument(
        "--step-ms", type=read_step, nargs="+", default=STEPS, metavar="ROWS:MS", help="by its rows"
    )
    step.add_argument("--leaf-ms", type=float, default=0.0, help="of a leaf, beyond its row")
    step.add_argument(
        "--again-ms", type=float, default=0.08, help="keys and values of a right leaf moved into place"
    )
    step.add_argument("--load-ms", type=float, nargs="+", default=[0.0, 60.0], help="on top of each step")
    place = made.add_argument_group("who drafts")
    place.add_argument("--device-draft-ms", type=float, default=4.5, help="of a drafted token on a device")
    place.add_argument("--worker-draft-ms", type=float, nargs="+", default=[2.8, 4.5], help="at the worker")
    place.add_argument("--links", nargs="+", default=[LOOPBACK, "wifi", "5g", "4g", "4g-weak", "satellite"])
    place.add_argument(
        "--transport-ms", type=float, default=0.5, help="of a round without a link; see `Transport`"
    )
    chip = made.add_argument_group("an accelerator, in ms", "7B in 16 bits on an A100, 500 tokens of context")
    chip.add_argument("--weights-ms", type=float, default=6.7, help="of reading the weights")
    chip.add_argument("--chip-row-ms", type=float, default=0.09, help="of computing a row")
    chip.add_argument("--session-ms", type=float, default=0.13, help="of reading a session's keys and values")
    chip.add_argument(
        "--shares", type=float, nargs="+", default=[0.05, 0.15, 0.4], help="of a draft beside the target"
    )
    chip.add_argument("--trip-ms", type=float, default=20.0, help="to devices and back")
    chip.add_argument(
        "--client-rates", type=float, nargs="+", default=[5, 10, 20, 30, 40, 50, 60, 80, 100, 120]
    )


def check(options: Namespace) -> None:
    """Refuse prices that nothing can be reckoned with.

    Raises:
        UsageError: naming the flag.
    """
    for name in ("weights_ms", "chip_row_ms", "session_ms"):
        if getattr(options, name) <= 0:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name):g} is not above 0")
    for name in ("leaf_ms", "again_ms", "device_draft_ms", "transport_ms", "trip_ms"):
        if getattr(options, name) < 0:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name):g} is below 0")
    for name, least in (("client_rates", 0.0), ("shares", 0.0), ("worker_draft_ms", 0.0), ("load_ms", -1e-9)):
        if min(getattr(options, name)) <= least:
            raise UsageError(f"--{name.replace('_', '-')} {min(getattr(options, name)):g} is too small")


def step_price(options: Namespace) -> StepPrice:
    """Of this CPU."""
    return StepPrice(ascending(options.step_ms), options.leaf_ms, options.again_ms)


def places(options: Namespace) -> tuple[list[Place], list[Place]]:
    """Drafts of a device, over each link and with each load; and of the worker.

    Raises:
        UsageError: there is no such link.
    """
    devices = [
        Place(
            f"device, {name}, +{load:g} ms",
            options.device_draft_ms,
            options.transport_ms + trip_ms(name),
            load,
        )
        for load in options.load_ms
        for name in options.links
    ]
    workers = [
        Place(f"worker, {draft:g} ms a token, +{load:g} ms", draft, load=load)
        for load in options.load_ms
        for draft in options.worker_draft_ms
    ]
    return devices, workers


def trip_ms(link: str) -> float:
    """Mean round trip of a link's first state.

    Raises:
        UsageError: there is no such link.
    """
    if link == LOOPBACK:
        return 0.0
    state = built_in().get(link).states[0]
    ways = [state.figures(way) for way in WAYS]
    return sum(way.delay_ms.value + way.jitter_ms.value for way in ways)


def accelerator(options: Namespace) -> tuple[Accelerator, Sequence[Drafting]]:
    """The chip, and where its chains come from."""
    chip = Accelerator(options.weights_ms, options.chip_row_ms, options.session_ms)
    beside = [Drafting(f"beside, {share:g} of a forward", share=share) for share in options.shares]
    device = Drafting("device", token=options.device_draft_ms, trip=options.trip_ms)
    return chip, (*beside, device)
