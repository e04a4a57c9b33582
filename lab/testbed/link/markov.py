"""Links that are one profile after another at random: a Markov chain in continuous time over profiles.

``markov:wifi,4g,satellite`` is each of them for 20 s in the mean, and then any other.
"""

from __future__ import annotations

import msgspec

from flexspec_mq.errors import UsageError
from lab.testbed.link.profiles import Catalogue, Figure, LinkPlan, Profile, State

PREFIX = "markov:"
"""Of the names of such links."""
LASTS_S = 20.0
"""Mean time in a profile."""


def markov_plan(name: str, seed: int, catalogue: Catalogue) -> LinkPlan:
    """The plan of such a link.

    Args:
        name: of it.
        seed: of all that is drawn at random.
        catalogue: that has the profiles.

    Raises:
        UsageError: a profile is unknown, there twice, or changes itself, or there are fewer than two.
    """
    names = name.removeprefix(PREFIX).split(",")
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(
            f"{name} does not name two profiles or more, each once",
            hint=f"for example {PREFIX}wifi,4g,satellite",
        )
    states = tuple(_state(one, catalogue) for one in names)
    return LinkPlan(name, Profile(f"any other one every {LASTS_S:g} s in the mean", states), seed)


def _state(name: str, catalogue: Catalogue) -> State:
    profile = catalogue.get(name)
    if len(profile.states) > 1 or profile.outages is not None:
        raise UsageError(
            f"the profile {name!r} changes itself", hint="name profiles of one state, without outages"
        )
    dwell = Figure(LASTS_S, "assumption: 20 s in the mean")
    return msgspec.structs.replace(profile.states[0], name=name, next={}, dwell_s=dwell)
