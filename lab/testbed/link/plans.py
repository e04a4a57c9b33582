"""The plan of a link by its name: a profile, a tour, a Markov chain over profiles, or recorded traces.

- ``tour:wifi=20,tunnel=40`` is one profile after another, each for its time, as a device meets them on its way. States
  and outages of each leg are drawn when the plan is made. It begins anew at its end, and the device keeps its address.
- ``markov:wifi,4g,satellite`` is any of them for 20 s in the mean, and then any other: a Markov chain in continuous
  time.
- ``recorded:CHANNEL`` is a pair of mahimahi traces in a folder, ``CHANNEL.up.gz`` and ``CHANNEL.down.gz``. Traces hold
  no delay: that is of the built-in profile of their generation, which their name says.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flexspec_mq.errors import UsageError
from lab.testbed.link.profiles import Catalogue, Figure, LinkPlan, Outage, Profile, State, built_in
from lab.testbed.link.timeline import StateTimeline, drawn_outages
from lab.testbed.link.trace import read_trace

TOUR, MARKOV, RECORDED = "tour:", "markov:", "recorded:"
"""Prefixes of the names of such links."""
GENERATIONS = {"5g": "5g", "lte": "4g", "umts": "4g-weak", "evdo": "4g-weak"}
"""Profile whose delay, jitter, loss and queue a trace gets, by a word of its name."""
LASTS_S = 20.0
"""Mean time in a profile of a Markov chain."""


def link_plan(name: str, seed: int, folder: Path | None, catalogue: Catalogue | None = None) -> LinkPlan:
    """The plan of a link by its name.

    Args:
        name: see above.
        seed: decides all that is drawn at random.
        folder: holds recordings.
        catalogue: profiles; the built-in ones if not given.

    Raises:
        UsageError: there is no such link, or its recording cannot be read.
    """
    profiles = built_in() if catalogue is None else catalogue
    if name.startswith(TOUR):
        return tour_plan(name, seed, profiles)
    if name.startswith(MARKOV):
        return markov_plan(name, seed, profiles)
    if not name.startswith(RECORDED):
        return LinkPlan(name, profiles.get(name), seed)
    if folder is None:
        raise UsageError(f"{name} needs a folder of recordings", hint="name it with --recorded FOLDER")
    channel, known = name.removeprefix(RECORDED).lower(), channels(folder)
    if channel not in known:
        there = ", ".join(f"{RECORDED}{one}" for one in known) or "none"
        raise UsageError(f"{folder} has no recorded channel {channel!r}", hint=f"there are: {there}")
    like = next((profile for word, profile in GENERATIONS.items() if word in channel), None)
    if like is None:
        raise UsageError(
            f"the name of the trace {channel!r} does not say of which network it is",
            hint=f"it should hold one of {', '.join(GENERATIONS)}",
        )
    stem = known[channel]
    up, down = (read_trace(stem.with_name(f"{stem.name}.{way}.gz")) for way in ("up", "down"))
    return LinkPlan(name, built_in().get(like), seed, False, up, down)


def channels(folder: Path) -> dict[str, Path]:
    """Recorded channels of a folder: path without the last two suffixes, by name.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        files = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise UsageError(f"the recordings in {folder} cannot be read: {error.strerror}") from None
    stems = sorted(name.removesuffix(".up.gz") for name in files if name.endswith(".up.gz"))
    return {stem.lower(): folder / stem for stem in stems if f"{stem}.down.gz" in files}


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of a tour.

    Attributes:
        profile: profile by name.
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
    for part in name.removeprefix(TOUR).split(","):
        profile, _, length = part.partition("=")
        try:
            seconds = float(length)
        except ValueError:
            seconds = 0.0
        if not profile or not 0.0 < seconds < math.inf:
            raise UsageError(
                f"{part!r} in {name} is no leg of a tour",
                hint=f"a leg is a profile and its seconds, as in {TOUR}wifi=20,tunnel=40,4g=20",
            )
        begins = found[-1].ends_s if found else 0.0
        found.append(Leg(profile, begins, begins + seconds))
    return tuple(found)


def tour_plan(name: str, seed: int, catalogue: Catalogue) -> LinkPlan:
    """The plan of a tour.

    Args:
        name: see `legs_of`.
        seed: seed of all that is drawn at random.
        catalogue: catalogue of the profiles that it names.

    Raises:
        UsageError: it is no such name, or there is no such profile.
    """
    states: list[State] = []
    lasts: list[float] = []
    outages: list[Outage] = []
    legs = legs_of(name)
    for number, leg in enumerate(legs):
        profile, of_leg = catalogue.get(leg.profile), f"{seed}/leg {number}"
        for state, seconds in _leg_states(profile, leg, random.Random(f"states/{of_leg}")):
            title = f"{len(states)}: {leg.profile}, {state.name}"
            states.append(msgspec.structs.replace(state, name=title, dwell_s=None, next={}))
            lasts.append(seconds)
        outages += _leg_outages(profile, leg, random.Random(f"outages/{of_leg}"))
    about = ", then ".join(f"{leg.profile} for {leg.ends_s - leg.begins_s:g} s" for leg in legs)
    return LinkPlan(name, Profile(about, tuple(states)), seed, lasts_s=tuple(lasts), outages=tuple(outages))


def _leg_states(profile: Profile, leg: Leg, rng: random.Random) -> Iterator[tuple[State, float]]:
    """States of a leg's channel, one after the other, and for how many seconds."""
    timeline, length, time = StateTimeline(profile.states, rng), leg.ends_s - leg.begins_s, 0.0
    while time < length:
        index, ends = timeline.at(time)
        yield profile.states[index], min(ends, length) - time
        time = ends


def _leg_outages(profile: Profile, leg: Leg, rng: random.Random) -> Iterator[Outage]:
    """The outages of a leg; one that lasts longer ends with it."""
    if profile.outages is None:
        return
    for start, end in drawn_outages(profile.outages, rng):
        if leg.begins_s + start >= leg.ends_s:
            return
        yield Outage(leg.begins_s + start, min(leg.begins_s + end, leg.ends_s), profile.outages.ways)


def markov_plan(name: str, seed: int, catalogue: Catalogue) -> LinkPlan:
    """The plan of such a link.

    Args:
        name: name of it.
        seed: seed of all that is drawn at random.
        catalogue: catalogue that has the profiles.

    Raises:
        UsageError: a profile is unknown, there twice, or changes itself, or there are fewer than two.
    """
    names = name.removeprefix(MARKOV).split(",")
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(
            f"{name} does not name two profiles or more, each once",
            hint=f"for example {MARKOV}wifi,4g,satellite",
        )
    states = tuple(_markov_state(one, catalogue) for one in names)
    return LinkPlan(name, Profile(f"any other one every {LASTS_S:g} s in the mean", states), seed)


def _markov_state(name: str, catalogue: Catalogue) -> State:
    profile = catalogue.get(name)
    if len(profile.states) > 1 or profile.outages is not None:
        raise UsageError(
            f"the profile {name!r} changes itself", hint="name profiles of one state, without outages"
        )
    dwell = Figure(LASTS_S, "assumption: 20 s in the mean")
    return msgspec.structs.replace(profile.states[0], name=name, next={}, dwell_s=dwell)
