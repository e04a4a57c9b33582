"""When a batch ends before it is full: before the token that is not worth the time of drafting and verifying it.

With λ tokens a second lately, and c seconds for one drafted token more, that token must be of use with probability
λ·c at least: the stopping rule of a ratio (renewal reward). A draft that doubts itself ends early, one that does not
goes on beyond the length that would be best for all alike.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from flexspec_mq.controller.choices import LENGTHS, Choice

if TYPE_CHECKING:
    from flexspec_mq.controller.plan import Observation, Plan

_BESIDE = 0.5
"""Share of a token's time that counts where the worker runs ahead: then it is drafted while others are verified."""
_LONGER_AHEAD, _LONGER = 3, 2
"""How many times as long as chosen a batch may be where the worker runs ahead, and where it waits."""
_LEAST, _MOST = 0.02, 0.3
"""Bounds of the threshold: drafts know themselves no better than that."""


def token_worth(seen: Observation) -> float | None:
    """Tokens that are written elsewhere in the time of drafting and verifying one; None while that is not known."""
    if seen.rate is None or seen.draft_time is None:
        return None
    return seen.rate * (seen.draft_time + (seen.row_cost or 0.0))


def ending_early(choice: Choice, base: Plan, seen: Observation) -> Plan:
    """The plan with a choice, whose batches end by the draft's confidence, and have as many tokens as are granted.

    Args:
        choice: how drafts are made, with the length that is best for all batches alike.
        base: everything else of the plan; run-ahead keeps its size. A threshold of its own stays, as do lengths then.
        seen: what is known.
    """
    length, stop = choice.length, base.confidence_threshold
    worth = token_worth(seen) if length and not stop else None
    if worth is not None:
        stop = min(max(_BESIDE * worth if choice.ahead else worth, _LEAST), _MOST)
        length = min(length * _longer(choice.ahead), LENGTHS[-1])
    if seen.granted is not None:
        length = min(length, seen.granted)
    ahead = base.ahead if choice.ahead else 0
    return replace(base, draft_length=length, in_flight=choice.window, ahead=ahead, confidence_threshold=stop)


def choice_of(plan: Plan, base: Plan) -> Choice:
    """The choice that a plan stands for.

    Args:
        plan: of `ending_early`, or of a policy that ends no batch early. Where the length was cut it is told roughly.
        base: of that policy.
    """
    length, ahead = plan.draft_length, plan.ahead > 0
    if plan.confidence_threshold != base.confidence_threshold:
        length = ceil(length / _longer(ahead))
    return Choice(length, plan.in_flight, ahead)


def _longer(ahead: bool) -> int:
    return _LONGER_AHEAD if ahead else _LONGER
