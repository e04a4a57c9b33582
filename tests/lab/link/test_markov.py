"""Links that are any of some profiles, one after another at random."""

from __future__ import annotations

from statistics import fmean

import pytest

from flexspec_mq.errors import UsageError
from lab.testbed.link.plans import LASTS_S, link_plan
from lab.testbed.link.profiles import built_in
from lab.testbed.link.timeline import states_of

NAMES = "wifi", "4g-weak", "satellite"
LINK = f"markov:{','.join(NAMES)}"


def test_a_chain_goes_through_the_profiles_and_stays_20_seconds_in_the_mean() -> None:
    plan = link_plan(LINK, 1, None)
    states = states_of(plan)
    lasted: list[float] = []
    visited: set[int] = set()
    time = 0.0
    while len(lasted) < 2000:
        state, ends = states.at(time)
        visited.add(state)
        lasted.append(ends - time)
        time = ends
    assert fmean(lasted) == pytest.approx(LASTS_S, rel=0.1)
    assert visited == set(range(len(NAMES)))
    for name, made in zip(NAMES, plan.profile.states, strict=True):
        (there,) = built_in().get(name).states
        assert (made.name, made.up, made.down) == (name, there.up, there.down)


def test_equal_seeds_give_equal_chains() -> None:
    chains = [
        [states_of(link_plan(LINK, seed, None)).at(9.0 * number)[0] for number in range(60)]
        for seed in (1, 1, 2)
    ]
    assert chains[0] == chains[1] != chains[2]


@pytest.mark.parametrize("names", ["", "wifi", "wifi,wifi", "wifi,nowhere", "wifi,tunnel", "wifi,4g-moving"])
def test_what_does_not_change_or_changes_itself_is_refused(names: str) -> None:
    with pytest.raises(UsageError) as caught:
        link_plan(f"markov:{names}", 0, None)
    assert caught.value.hint
