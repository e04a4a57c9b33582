"""Statuses of workers in simulated time: they wake a radio while nobody writes."""

from __future__ import annotations

import msgspec
import pytest

from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.policies.fixed import FixedPolicy
from lab.simulator.answers import Setting
from lab.simulator.channel.statuses import EVERY, status_size
from lab.simulator.cost import Measured
from lab.simulator.simulation import simulate
from lab.testbed.link.profiles import LinkPlan, built_in
from tests.lab.simulator.recordings import TIMES, made


def down(times: Measured, statuses: int) -> tuple[int, float]:
    """Bytes that came to a device while it wrote, and how long that took."""
    link = LinkPlan("4g", built_in().get("4g"))
    setting = Setting(recording=made(), times=times, link=link, drafts=False, statuses=statuses)
    answers = simulate(setting, lambda: FixedPolicy(Plan(0, 1, 1, 256)))
    return sum(one.down.bytes for one in answers), sum(one.lasted for one in answers)


def test_a_device_hears_each_worker_every_ten_seconds() -> None:
    slow = msgspec.structs.replace(TIMES, delay=1000.0)
    without, lasts = down(slow, 0)
    heard = [down(slow, workers)[0] - without for workers in (1, 3)]
    each = status_size(made()) + 52 + 20
    assert lasts > 10 * EVERY
    assert heard[0] == pytest.approx(lasts / EVERY * each, rel=0.4)
    assert heard[1] == pytest.approx(3 * heard[0], rel=0.2)
