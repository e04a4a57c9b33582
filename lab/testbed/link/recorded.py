"""A recorded channel as a plan: rates second by second, and outages where nothing was delivered for longer.

Recordings are in mahimahi's format: a line for each opportunity to deliver a packet, its time in ms. They hold no
delay, loss or queue, which come from a profile.
"""

import gzip
from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec

from flexspec_mq.errors import UsageError
from lab.testbed.link.profiles import MTU, Figure, LinkPlan, Outage, Profile, WayFigures

STALL = 1.0
"""Seconds without an opportunity from which on a gap is an outage."""


def recorded(stem: Path, profile: Profile, seed: int = 0) -> LinkPlan:
    """The plan of a channel, of both ways, whose outages are those of either.

    Args:
        stem: path of the two files, without ``.up.gz`` and ``.down.gz``.
        profile: the rest, of its first state.
        seed: seed of jitter and loss.

    Raises:
        UsageError: a file cannot be read, or holds no recording.
    """
    up, down = (_opportunities(stem.with_name(f"{stem.name}.{way}.gz")) for way in ("up", "down"))
    seconds = int(min(up[-1], down[-1]))
    rates = [Counter(map(int, way)) for way in (up, down)]
    state = profile.states[0]
    states = tuple(
        msgspec.structs.replace(
            state,
            name=f"{second} s",
            up=_at(state.up, rates[0][second]),
            down=_at(state.down, rates[1][second]),
        )
        for second in range(seconds)
    )
    made = msgspec.structs.replace(profile, about=stem.name, states=states, outages=None)
    gaps = sorted((a, b) for way in (up, down) for a, b in pairwise(way) if b - a > STALL and b < seconds)
    return LinkPlan(stem.name, made, seed, lasts_s=(1.0,) * seconds, outages=_joined(gaps))


def _at(figures: WayFigures, packets: int) -> WayFigures:
    rate = Figure(max(packets, 1) * MTU * 8 / 1e6, "the recording")
    return msgspec.structs.replace(figures, rate_mbit=rate)


def _joined(gaps: list[tuple[float, float]]) -> tuple[Outage, ...]:
    joined: list[Outage] = []
    for start, end in gaps:
        if joined and start <= joined[-1].ends_s:
            joined[-1] = Outage(joined[-1].starts_s, max(end, joined[-1].ends_s))
        else:
            joined.append(Outage(start, end))
    return tuple(joined)


def _opportunities(path: Path) -> list[float]:
    """Seconds of all opportunities."""
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            found = [int(line) / 1000 for line in file]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} holds no recorded channel: {error}") from None
    if not found or found[-1] < 1:
        raise UsageError(f"{path} holds no second of a channel")
    return found
