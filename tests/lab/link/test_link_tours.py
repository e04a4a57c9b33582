"""A link that is one profile after another."""

from __future__ import annotations

import pytest

from flexspec_mq.errors import UsageError
from lab.testbed.link.impairment import Drop, Impairment
from lab.testbed.link.plans import link_plan, tour_plan
from lab.testbed.link.profiles import Catalogue, LinkPlan, Outage, Profile
from lab.testbed.link.timeline import outages_of
from tests.lab.link.plans import figures, state

SLOW = Profile("late", (state(figures(delay=300)),))
QUICK = Profile("at once", (state(figures(delay=1)),))
MINE = Catalogue({"test": "a test"}, {"slow": SLOW, "quick": QUICK})


@pytest.mark.parametrize(
    "name", ["tour:", "tour:wifi", "tour:wifi=", "tour:=3", "tour:wifi=0", "tour:wifi=-1", "tour:wifi=inf",
             "tour:wifi=nan", "tour:wifi=3,", "tour:wifi=3;4g=3"]
)  # fmt: skip
def test_a_name_that_is_no_tour_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no leg of a tour"):
        link_plan(name, 0, None)


@pytest.mark.parametrize(("name", "why"), [("3g", "3g"), ("tunnel", "by itself"), ("4g-moving", "by itself")])
def test_a_leg_is_a_steady_profile_that_there_is(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        link_plan(f"tour:wifi=3,{name}=3", 0, None)
    assert link_plan("tour:quick=3", 0, None, MINE).profile.states[0].up == QUICK.states[0].up


def test_each_leg_has_the_link_of_its_profile_and_the_tour_begins_anew() -> None:
    made = tour_plan("tour:quick=10,slow=5", 0, MINE)
    assert (made.name, made.recorded_s) == ("tour:quick=10,slow=5", 15.0)
    impaired = Impairment(made, "up")
    times = (0.0, 9.0, 10.5, 14.0, 15.5, 24.0, 25.5)
    delays = [out - time for time in times if not isinstance(out := impaired.arrive(time, 100), Drop)]
    assert delays == pytest.approx([0.001, 0.001, 0.3, 0.3, 0.001, 0.001, 0.3], abs=0.001)


def test_outages_come_again_with_the_period_and_must_end_within_it() -> None:
    plan = LinkPlan("test", QUICK, lasts_s=(9.0,), outages=(Outage(1.0, 2.0),))
    assert outages_of(plan, "up").between(0.0, 20.0) == [(1.0, 2.0), (10.0, 11.0), (19.0, 20.0)]
    with pytest.raises(ValueError, match="within the period"):
        outages_of(LinkPlan("test", QUICK, outages=(Outage(1.0, 2.0),)), "up").touching(0.0, 3.0)
