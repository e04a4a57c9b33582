"""Links that are another profile every 20 seconds."""

from __future__ import annotations

from statistics import fmean

import pytest

from flexspec_mq.errors import UsageError
from flexspec_mq.link.changing import LASTS_S, changes
from flexspec_mq.link.profiles import built_in
from flexspec_mq.link.recordings import link_plan
from flexspec_mq.link.timeline import states_of

NAMES = "wifi", "4g-weak", "satellite"


def test_profiles_follow_one_another_every_20_seconds() -> None:
    plan = link_plan(f"changing:{','.join(NAMES)}", 1, None)
    states = states_of(plan)
    there = [plan.profile.states[states.at(LASTS_S * (number + 0.5))[0]] for number in range(6)]
    assert [state.name for state in there] == [*NAMES, *NAMES]
    for state in there:
        (profile,) = built_in().get(state.name).states
        assert (state.up, state.down) == (profile.up, profile.down)


def test_a_chain_stays_20_seconds_in_the_mean_and_knows_its_seed() -> None:
    name = f"markov:{','.join(NAMES)}"
    states = states_of(link_plan(name, 1, None))
    lasted: list[float] = []
    visited: set[int] = set()
    time = 0.0
    while len(lasted) < 2000:
        state, ends = states.at(time)
        visited.add(state)
        lasted.append(ends - time)
        time = ends
    assert fmean(lasted) == pytest.approx(LASTS_S, rel=0.1)
    assert len(visited) == len(NAMES)
    assert [states_of(link_plan(name, 1, None)).at(9.0 * n)[0] for n in range(99)] == [
        states.at(9.0 * n)[0] for n in range(99)
    ]


@pytest.mark.parametrize("kind", ["changing", "markov"])
@pytest.mark.parametrize("names", ["", "wifi", "wifi,wifi", "wifi,nowhere", "wifi,tunnel", "wifi,4g-moving"])
def test_what_does_not_change_or_changes_itself_is_refused(kind: str, names: str) -> None:
    assert changes(f"{kind}:{names}")
    with pytest.raises(UsageError) as caught:
        link_plan(f"{kind}:{names}", 0, None)
    assert caught.value.hint
