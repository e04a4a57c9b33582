"""What journeys came to: by leg, against each other, and whether all were told the same text. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from lab.benchmarks.tour.journey import BOTH, DEVICE, NOBODY, WORKER, Journey, Look, Turn
from lab.testbed.link.profiles import LinkPlan, Outage
from lab.testbed.link.tour import Leg

_WORDS = {
    NOBODY: "nobody drafts",
    WORKER: "worker drafts, if it can",
    DEVICE: "device drafts",
    BOTH: "device drafts, then the worker if it can",
}


def tokens_at(journey: Journey, time: float) -> float:
    """Tokens committed by a moment, interpolated between two looks."""
    for one, after in pairwise(journey.looks):
        if one.at <= time < after.at:
            return one.tokens + (after.tokens - one.tokens) * (time - one.at) / (after.at - one.at)
    first, last = journey.looks[0], journey.looks[-1]
    return 0.0 if time < first.at else float(last.tokens)


def reached(journey: Journey, tokens: int) -> float | None:
    """Seconds until so many tokens were committed, interpolated; None if they never were."""
    for one, after in pairwise(journey.looks):
        if one.tokens < tokens <= after.tokens:
            return one.at + (after.at - one.at) * (tokens - one.tokens) / (after.tokens - one.tokens)
    return None


def of_leg(journey: Journey, leg: Leg) -> dict[str, Any]:
    """What one leg gave, and what was planned in it.

    Returns:
        `tokens`; `rounds`, pieces that came; `silence_s`, the longest time without one, as far as it lies in the leg;
        `chosen`, the plan that was in force for most of its looks, and `share`, of how many; `settled_s`, seconds
        from the leg's beginning until it was in force first; `rtt_ms`, median of what the node estimated; `qos`, the
        levels and how many looks each had. Figures of plans are None where no plan was seen.
    """
    looks = [look for look in journey.looks if leg.begins_s <= look.at < leg.ends_s]
    plans = [look for look in looks if look.who is not None]
    pieces = [at for turn in journey.turns for at in turn.pieces]
    inside = [at for at in pieces if leg.begins_s <= at < leg.ends_s]
    counted = Counter(chosen_in(look) for look in plans)
    common = counted.most_common(1)[0][0] if counted else None
    trips = [look.rtt_ms for look in looks if look.rtt_ms is not None]
    return {
        "tokens": tokens_at(journey, leg.ends_s) - tokens_at(journey, leg.begins_s),
        "rounds": len(inside),
        "silence_s": max(b - a for a, b in pairwise([leg.begins_s, *inside, leg.ends_s])),
        "chosen": common,
        "share": None if common is None else counted[common] / len(plans),
        "settled_s": next((one.at - leg.begins_s for one in plans if chosen_in(one) == common), None),
        "rtt_ms": median(trips) if trips else None,
        "qos": dict(sorted(Counter(look.qos for look in plans).items())),
    }


def chosen_in(look: Look) -> str:
    """A plan in words, without its run-ahead's length and its quality of service.

    Raises:
        ValueError: there was no plan.
    """
    if look.who is None:
        raise ValueError("no plan at that moment")
    batches = f" K={look.draft_length} W={look.in_flight}" if look.draft_length else ""
    return f"{_WORDS[look.who]}{batches}{'' if look.ahead else ', worker waits'}"


def resumed(journey: Journey, outage: Outage) -> float | None:
    """Seconds from an outage's end to the first piece after it; None if none came."""
    after = [at for turn in journey.turns for at in turn.pieces if at >= outage.ends_s]
    return min(after) - outage.ends_s if after else None


def differing(journeys: Mapping[str, Journey]) -> list[str]:
    """Turns in which two journeys were told different texts, in words.

    A text that was not complete when the journey ended agrees with every text that begins with it.
    """
    found = []
    names = list(journeys)
    for number in range(max(len(one.turns) for one in journeys.values())):
        there = [(name, journeys[name].turns[number]) for name in names if number < len(journeys[name].turns)]
        longest = max(there, key=lambda one: (one[1].complete, len(one[1].text)))
        found += [
            f"turn {number + 1} of {longest[0]} and {name}"
            for name, turn in there
            if not _agree(longest[1], turn)
        ]
    return found


def _agree(longest: Turn, other: Turn) -> bool:
    if longest.complete and other.complete:
        return longest.text == other.text
    return longest.text.startswith(other.text)


def least_trip_ms(plan: LinkPlan) -> list[float]:
    """The mean round trip of a small packet in each of a link's states: delay and jitter of both ways."""
    return [
        sum(way.delay_ms.value + way.jitter_ms.value for way in (state.up, state.down))
        for state in plan.profile.states
    ]


def summary(
    journeys: Mapping[str, Journey], legs: Sequence[Leg], outages: Sequence[Outage]
) -> dict[str, dict[str, Any]]:
    """All figures of each journey, by name.

    `same_tokens` are as many as the slowest journey got, and `same_s` the seconds until they were there: the same
    text, so these can be compared.
    """
    least = min(journey.looks[-1].tokens for journey in journeys.values())
    return {
        name: {
            "tokens": journey.looks[-1].tokens,
            "turns": sum(turn.complete for turn in journey.turns),
            "same_tokens": least,
            "same_s": reached(journey, least),
            "resumed_s": [resumed(journey, outage) for outage in outages],
            "legs": [of_leg(journey, leg) for leg in legs],
        }
        for name, journey in journeys.items()
    }
