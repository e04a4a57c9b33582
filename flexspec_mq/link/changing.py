"""Links that are another profile every 20 seconds: in turn, or at random.

``changing:wifi,4g,satellite`` goes through the profiles in their order, over and over. ``markov:wifi,4g,satellite``
is a Markov chain in continuous time: each lasts 20 s in the mean, and any other may follow.
"""

from __future__ import annotations

import msgspec

from flexspec_mq.errors import UsageError
from flexspec_mq.link.profiles import Figure, LinkPlan, Profile, State, built_in

CHANGING, MARKOV = "changing:", "markov:"
"""Of the names of such links."""
LASTS_S = 20.0


def changes(name: str) -> bool:
    """Whether a link's name is that of one that changes."""
    return name.startswith((CHANGING, MARKOV))


def changing_plan(name: str, seed: int) -> LinkPlan:
    """The plan of a link that changes.

    Args:
        name: of the link.
        seed: of all that is drawn at random.

    Raises:
        UsageError: a profile is unknown, there twice, or changes itself, or there are fewer than two.
    """
    kind, _, rest = name.partition(":")
    names = rest.split(",")
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(
            f"{name} does not name two profiles or more, each once",
            hint=f"for example {kind}:wifi,4g,satellite",
        )
    markov = name.startswith(MARKOV)
    states = tuple(_state(one, markov=markov) for one in names)
    profile = Profile(f"another one every {LASTS_S:g} s", states)
    return LinkPlan(name, profile, seed, lasts_s=() if markov else (LASTS_S,) * len(states))


def _state(name: str, *, markov: bool) -> State:
    profile = built_in().get(name)
    if len(profile.states) > 1 or profile.outages is not None:
        raise UsageError(
            f"the profile {name!r} changes itself", hint="name profiles of one state, without outages"
        )
    dwell = Figure(LASTS_S, "assumption: 20 s in the mean") if markov else None
    return msgspec.structs.replace(profile.states[0], name=name, next={}, dwell_s=dwell)
