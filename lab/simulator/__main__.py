"""Seconds an answer of each policy, in simulated time over many links, as shares of streaming's.

    python -m lab.simulator

All policies write the same drawn texts with the same seeds at the same seconds of a channel. Links that change are
another profile every 20 seconds. lab/README.md says what is simulated.
"""

from __future__ import annotations

import random
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean

import msgspec

from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import FlexSpecError
from lab.benchmarks._common import finish, parser, table
from lab.policy_training.drawn_texts import drawn_recording
from lab.simulator.answers import LIKE_OURS, Setting
from lab.simulator.cost import Measured, epyc_times
from lab.simulator.recording import Recording
from lab.simulator.simulation import simulate
from lab.testbed.link.plans import RECORDED, TOUR, channels, link_plan
from lab.testbed.link.profiles import LinkPlan, built_in

BASE = Plan(4, 1, 1, 8, 0.0, 8)
"""The plan that an edge node starts from, at QoS 1."""
STREAMING = "streaming"
_STREAMING_PLAN = Plan(0, 1, 1, 64)
_ALL = "wifi", "4g-weak", "5g", "satellite-geo", "4g", "satellite"
CHANGES = f"{TOUR}{','.join(f'{name}=20' for name in _ALL)}"
_CHANGING, _EVERY_S = 24, 5.0
"""Answers over a link that changes, and seconds from one to the next."""
_CHANNEL_S = 600.0
_LENGTHS = 16, 32, 48, 64


def build_parser() -> ArgumentParser:
    """Flags of the comparison."""
    made = parser(__doc__ or "")
    made.add_argument("--recorded", type=Path, metavar="FOLDER", help="recordings of channels; lab/README.md")
    made.add_argument("--links", nargs="+", metavar="LINK", help="only these")
    made.add_argument(
        "--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES), help="of these"
    )
    made.add_argument("--answers", type=int, default=24, help="over each link")
    made.add_argument("--delay-ms", type=float, default=0.0, help="on top of each forward of the target")
    made.add_argument("--no-worker-draft", action="store_true", help="the worker has no draft")
    made.add_argument("--others", type=int, default=0, help="more sessions at the worker")
    return made


def simulated(
    recording: Recording, times: Measured, link: LinkPlan, options: Namespace
) -> dict[str, list[float]]:
    """Seconds of each answer over a link, by policy; streaming first.

    Raises:
        FlexSpecError: an answer is not the recorded text.
    """
    drafts = not options.no_worker_draft
    setting = Setting(
        recording=recording,
        times=msgspec.structs.replace(times, delay=times.delay + options.delay_ms),
        link=link,
        worker=replace(LIKE_OURS, drafts=drafts, lookup=drafts),
        others=options.others,
        seed=options.seed,
    )
    rng = random.Random(f"{options.seed} {link.name}")
    texts = list(recording.texts)
    begins = [rng.uniform(0.0, _CHANNEL_S) for _ in texts]
    if link.name.startswith(TOUR):
        texts = list(islice(cycle(texts), _CHANGING))
        begins = [_EVERY_S * number for number in range(_CHANGING)]
    policies = {STREAMING: partial(FixedPolicy, _STREAMING_PLAN)}
    policies |= {name: partial(POLICIES[name], BASE) for name in options.policies}
    found = {}
    for name, policy in policies.items():
        answers = simulate(setting, policy, texts, begins, others=policies[STREAMING])
        if problem := next((one.problem for one in answers if one.problem), ""):
            raise FlexSpecError(f"a simulated answer of {name} over {link.name} is wrong: {problem}")
        found[name] = [one.seconds for one in answers]
    return found


def _measure(argv: Sequence[str]) -> int:
    options = build_parser().parse_args(argv)
    if options.quick:
        options.answers = min(options.answers, 4)
    lengths = tuple(random.Random(options.seed).choice(_LENGTHS) for _ in range(options.answers))
    recording = drawn_recording(random.Random(options.seed), lengths, max(_LENGTHS))
    times = epyc_times()
    recorded = (
        [] if options.recorded is None else [f"{RECORDED}{name}" for name in channels(options.recorded)]
    )
    names = options.links or [*built_in().profiles, CHANGES, *recorded]
    results, rows = {}, []
    for name in names[: 2 if options.quick else None]:
        seconds = simulated(recording, times, link_plan(name, options.seed, options.recorded), options)
        means = {policy: fmean(values) for policy, values in seconds.items()}
        results[name] = means
        shares = (f"{means[policy] / means[STREAMING]:.3f}" for policy in options.policies)
        rows.append([name, f"{means[STREAMING]:.2f}", *shares])
    print(table(["link", "streaming, s", *options.policies], rows))
    finish("simulator", results, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(_measure, argv)


if __name__ == "__main__":
    sys.exit(main())
