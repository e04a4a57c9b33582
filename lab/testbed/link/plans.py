"""The plan of a link by its name: a profile, a tour, or recorded traces.

- ``tour:wifi=20,satellite=40`` is one profile after another, each for its time, as a device meets them on its way. It
  begins anew at its end, and the device keeps its address.
- ``recorded:CHANNEL`` is a pair of mahimahi traces in a folder, ``CHANNEL.up.gz`` and ``CHANNEL.down.gz``. Traces hold
  no delay: that is of the built-in profile of their generation, which their name says.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from flexspec_mq.errors import UsageError
from lab.testbed.link.profiles import Catalogue, LinkPlan, Profile, State, built_in
from lab.testbed.link.trace import read_trace

TOUR, RECORDED = "tour:", "recorded:"
"""Prefixes of the names of such links."""
GENERATIONS = {"5g": "5g", "lte": "4g", "umts": "4g-weak", "evdo": "4g-weak"}
"""Profile whose delay, jitter, loss and queue a trace gets, by a word of its name."""


def link_plan(name: str, seed: int, folder: Path | None, catalogue: Catalogue | None = None) -> LinkPlan:
    """The plan of a link by its name.

    Args:
        name: a profile's, or one that begins with `TOUR` or `RECORDED`.
        seed: decides all that is drawn at random.
        folder: holds recordings.
        catalogue: profiles; the built-in ones if not given.

    Raises:
        UsageError: there is no such link, or its recording cannot be read.
    """
    profiles = built_in() if catalogue is None else catalogue
    if name.startswith(TOUR):
        return tour_plan(name, seed, profiles)
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
    return LinkPlan(name, built_in().get(like), seed, up, down)


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


def tour_plan(name: str, seed: int, catalogue: Catalogue) -> LinkPlan:
    """The plan of a tour.

    Args:
        name: such as ``tour:wifi=20,satellite=40``.
        seed: decides all that is drawn at random.
        catalogue: holds the profiles that it names.

    Raises:
        UsageError: it is no such name, there is no such profile, or it changes by itself.
    """
    states: list[State] = []
    lasts: list[float] = []
    for number, leg in enumerate(name.removeprefix(TOUR).split(",")):
        profile, _, length = leg.partition("=")
        try:
            seconds = float(length)
        except ValueError:
            seconds = 0.0
        if not profile or not 0.0 < seconds < math.inf:
            raise UsageError(
                f"{leg!r} in {name} is no leg of a tour",
                hint=f"a leg is a profile and its seconds, as in {TOUR}wifi=20,satellite=40,4g=20",
            )
        known = catalogue.get(profile)
        if len(known.states) > 1 or known.outages is not None:
            raise UsageError(
                f"the profile {profile!r} changes by itself",
                hint="name profiles of one state, without outages",
            )
        states.append(msgspec.structs.replace(known.states[0], name=f"{number}: {profile}"))
        lasts.append(seconds)
    return LinkPlan(name, Profile("one after the other", tuple(states)), seed, lasts_s=tuple(lasts))
