"""Figures of a text: tokens, time, bytes and energy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.controller.explain import in_words
from flexspec_mq.controller.policies import name_of
from schemas.openai import FlexspecUsage
from schemas.plan import Plan

if TYPE_CHECKING:
    from flexspec_mq.controller.explain import Planned


class Figures(FlexspecUsage, frozen=True, kw_only=True):
    """Figures of one text so far, or of a whole one: those that the API tells, and these.

    Attributes:
        prompt_tokens: tokens of the prompt.
        tokens: tokens committed; those of a stop string, of an end of text and of an unfinished character as well.
        seconds: seconds since the request.
        first_token: seconds to the first commit; None before.
        tokens_per_second: pace after the first commit.
        draft_length: K of the newest plan; 0 before any.
        tokens_per_round: mean tokens of a verdict that committed something.
        rtt_ms: smoothed round trip without the worker's own time; None before a sample.
        bytes_per_token: MQTT payload both ways together.
        polls, reopens: recoveries.
        worker: worker that holds the session now.
    """

    prompt_tokens: int
    tokens: int
    seconds: float
    first_token: float | None
    tokens_per_second: float
    draft_length: int
    tokens_per_round: float
    rtt_ms: float | None
    bytes_per_token: float
    polls: int
    reopens: int
    worker: str | None


def plan_told(planned: Planned) -> Plan:
    """A plan as the API tells it."""
    plan = planned.plan
    return Plan(
        policy=name_of(planned.policy),
        does=in_words(plan),
        draft_length=plan.draft_length,
        in_flight=plan.in_flight,
        ahead=plan.ahead,
        worker_draft=plan.worker_draft,
        qos=plan.qos,
        confidence_threshold=plan.confidence_threshold,
    )
