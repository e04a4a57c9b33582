"""Figures of a text: tokens, time, bytes and energy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flexspec_mq.controller.explain import in_words
from flexspec_mq.controller.policies import name_of
from flexspec_mq.energy.model import per_hundred
from schemas.openai import FlexspecUsage
from schemas.plan import Plan

if TYPE_CHECKING:
    from edge_node.fleet.tally import TargetVersion
    from edge_node.generation import Generation
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


def figures_of(
    generation: Generation,
    target: TargetVersion,
    *,
    began: float,
    first: float | None,
    exactness: str,
    weights: str,
    default_limit: int | None,
) -> Figures:
    """Figures of a text now.

    Args:
        generation: writes it.
        target: version that writes it.
        began: when it was asked for.
        first: when its first token was committed; None before.
        exactness: word of the version's workers.
        weights: word of the version's workers.
        default_limit: see `FlexspecUsage`.
    """
    now = time.monotonic()
    machine, counters = generation.machine, generation.machine.counters
    seen, sampling = machine.observation, generation.request.sampling
    tokens, writing = seen.committed, now - (first or now)
    spent, planned = generation.spent(), machine.planned
    return Figures(
        prompt_tokens=len(generation.request.prompt),
        tokens=tokens,
        seconds=now - began,
        first_token=None if first is None else first - began,
        tokens_per_second=tokens / writing if writing > 0 else 0.0,
        draft_length=0 if planned is None else planned.plan.draft_length,
        plan=None if planned is None else plan_told(planned),
        proposed=counters.proposed,
        drafted=counters.judged,
        accepted=counters.accepted,
        looked_up=counters.looked_up_accepted,
        worker_accepted=counters.worker_accepted,
        rounds=counters.rounds,
        tokens_per_round=tokens / counters.rounds if counters.rounds else 0.0,
        rtt_ms=None if seen.rtt is None else 1000 * seen.rtt,
        bytes_up=generation.bytes_up,
        bytes_down=generation.bytes_down,
        bytes_per_token=(generation.bytes_up + generation.bytes_down) / tokens if tokens else 0.0,
        polls=counters.polls,
        reopens=counters.reopens,
        energy_j=spent.joules,
        energy_j_per_100=None if spent.joules is None else per_hundred(spent.joules, tokens),
        energy_source=spent.source,
        limits=[] if planned is None else list(planned.limits),
        worker=machine.worker,
        version=target.version,
        digest=target.digest,
        exactness=exactness,
        weights=weights,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=sampling.seed,
        default_limit=default_limit,
    )
