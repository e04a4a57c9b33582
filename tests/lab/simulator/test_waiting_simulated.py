"""A device near a slow target that has no draft: the worker had better wait for the device's, and is told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import fmean

import msgspec

from flexspec_mq.controller.plan import FixedPolicy, Plan, Policy
from flexspec_mq.controller.policies import POLICIES
from lab.simulator.answers import LIKE_OURS, Setting
from lab.simulator.simulation import simulate
from lab.testbed.link.plans import link_plan
from tests.lab.simulator.recordings import TIMES, made

BASE = Plan(4, 1, 1, 8, 0.0, 8)


def test_policies_find_that_waiting_is_best() -> None:
    recording = made(texts=6, right=0.6, limit=96)
    times = msgspec.structs.replace(TIMES, delay=60.0)
    worker = replace(LIKE_OURS, drafts=False, lookup=False)
    setting = Setting(
        recording=recording, times=times, link=link_plan("wifi", 0, None), worker=worker, seed=0
    )
    waits = partial(FixedPolicy, replace(BASE, ahead=0, worker_draft=0))
    ahead = partial(FixedPolicy, replace(BASE, in_flight=3, ahead=64, worker_draft=0))
    ours = (partial(POLICIES["closed-form"], BASE),)

    def seconds(policy: Callable[[], Policy]) -> float:
        return fmean(one.seconds for one in simulate(setting, policy, recording.texts))

    took = [seconds(waits), seconds(ahead), *map(seconds, ours)]
    assert took[0] < 0.93 * took[1]
    # This draft is as sure of each token as of any other, so that ending batches early gains nothing, and costs the
    # token that is drafted and dropped.
    assert max(took[2:]) < 1.1 * took[0], took
