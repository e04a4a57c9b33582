"""A tour: a link that is one profile after another, each for its time, as a device meets them on its way.

States and outages of each leg are drawn when the plan is made, so that a tour is a channel like a recorded one. It
begins anew at its end. The device keeps its address: connections are not broken where a leg ends.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from flexspec_mq.errors import UsageError
from lab.testbed.link.profiles import Catalogue, LinkPlan, Outage, Profile, State
from lab.testbed.link.timeline import StateTimeline, drawn_outages

PREFIX = "tour:"
"""Of the names of tours."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of a tour.

    Attributes:
        profile: by name.
        begins_s, ends_s: seconds of the channel.
    """

    profile: str
    begins_s: float
    ends_s: float


def legs_of(name: str) -> tuple[Leg, ...]:
    """The legs of a tour by its name.

    Args:
        name: such as ``tour:wifi=20,tunnel=40``.

    Raises:
        UsageError: it is no such name.
    """
    found: list[Leg] = []
    for part in name.removeprefix(PREFIX).split(","):
        profile, _, length = part.partition("=")
        try:
            seconds = float(length)
        except ValueError:
            seconds = 0.0
        if not profile or not 0.0 < seconds < math.inf:
            raise UsageError(
                f"{part!r} in {name} is no leg of a tour",
                hint=f"a leg is a profile and its seconds, as in {PREFIX}wifi=20,tunnel=40,4g=20",
            )
        begins = found[-1].ends_s if found else 0.0
        found.append(Leg(profile, begins, begins + seconds))
    return tuple(found)


def tour_plan(name: str, seed: int, catalogue: Catalogue) -> LinkPlan:
    """The plan of a tour.

    Args:
        name: see `legs_of`.
        seed: of all that is drawn at random.
        catalogue: of the profiles that it names.

    Raises:
        UsageError: it is no such name, or there is no such profile.
    """
    states: list[State] = []
    lasts: list[float] = []
    outages: list[Outage] = []
    legs = legs_of(name)
    for number, leg in enumerate(legs):
        profile, of_leg = catalogue.get(leg.profile), f"{seed}/leg {number}"
        for state, seconds in _states(profile, leg, random.Random(f"states/{of_leg}")):
            title = f"{len(states)}: {leg.profile}, {state.name}"
            states.append(msgspec.structs.replace(state, name=title, dwell_s=None, next={}))
            lasts.append(seconds)
        outages += _outages(profile, leg, random.Random(f"outages/{of_leg}"))
    about = ", then ".join(f"{leg.profile} for {leg.ends_s - leg.begins_s:g} s" for leg in legs)
    return LinkPlan(name, Profile(about, tuple(states)), seed, lasts_s=tuple(lasts), outages=tuple(outages))


def _states(profile: Profile, leg: Leg, rng: random.Random) -> Iterator[tuple[State, float]]:
    """What a leg's channel is in, one after the other, and for how many seconds."""
    timeline, length, time = StateTimeline(profile.states, rng), leg.ends_s - leg.begins_s, 0.0
    while time < length:
        index, ends = timeline.at(time)
        yield profile.states[index], min(ends, length) - time
        time = ends


def _outages(profile: Profile, leg: Leg, rng: random.Random) -> Iterator[Outage]:
    """The outages of a leg; one that lasts longer ends with it."""
    if profile.outages is None:
        return
    for start, end in drawn_outages(profile.outages, rng):
        if leg.begins_s + start >= leg.ends_s:
            return
        yield Outage(leg.begins_s + start, min(leg.begins_s + end, leg.ends_s), profile.outages.ways)
