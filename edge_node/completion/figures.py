"""What a text has taken."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from flexspec_mq.controller.explain import in_words
from flexspec_mq.controller.policies import name_of
from flexspec_mq.energy.model import per_hundred

if TYPE_CHECKING:
    from edge_node.fleet.tally import TargetVersion
    from edge_node.generation import Generation
    from flexspec_mq.controller.explain import LimitReport, Planned


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFigures:
    """A plan in short.

    Attributes:
        policy: that made it, by name.
        does: the plan in words; the others see `Plan`.
    """

    policy: str
    does: str
    draft_length: int
    in_flight: int
    ahead: int
    worker_draft: int
    qos: int
    confidence_threshold: float

    @classmethod
    def of(cls, planned: Planned) -> Self:
        """What was planned."""
        plan = planned.plan
        return cls(
            policy=name_of(planned.policy),
            does=in_words(plan),
            draft_length=plan.draft_length,
            in_flight=plan.in_flight,
            ahead=plan.ahead,
            worker_draft=plan.worker_draft,
            qos=plan.qos,
            confidence_threshold=plan.confidence_threshold,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of one text so far, or of a whole one.

    Attributes:
        prompt_tokens: of the prompt.
        tokens: committed; those of a stop string, of an end of text and of an unfinished character as well.
        seconds: since the request.
        first_token: seconds to the first commit; None before.
        tokens_per_second: after the first commit.
        draft_length: of the newest plan; 0 before any.
        plan: the newest one; None before any.
        proposed: tokens that were drafted on the device, of use or not.
        drafted: of these, those that the target's decision met.
        accepted: of these, right.
        looked_up: of the accepted ones, those that a lookup had drafted.
        worker_accepted: tokens that the worker had drafted itself, and that were right.
        rounds: verdicts that committed something.
        tokens_per_round: mean.
        rtt_ms: smoothed round trip without the worker's own time; None before a sample.
        bytes_up, bytes_down: MQTT payload.
        bytes_per_token: both ways together.
        polls, reopens: recoveries.
        energy_j: joules that it took out of the device; None where nobody wanted to know, or nothing can tell.
        energy_j_per_100: the same for each 100 tokens.
        energy_source: how that is known, see `Spent`.
        limits: how those that the user gave are kept, as of the newest plan.
        worker: that holds the session now.
        version: target version that writes it.
        digest: of its head's manifest, in hex; empty without a family.
        exactness: as the statuses of the version's workers say.
        weights: of the target, as they say.
        temperature, top_k, top_p, seed: with which the same text comes again.
        default_limit: tokens that the node allows where a request names no limit; None where it named one, or where
            the context leaves fewer.
    """

    prompt_tokens: int
    tokens: int
    seconds: float
    first_token: float | None
    tokens_per_second: float
    draft_length: int
    plan: PlanFigures | None
    proposed: int
    drafted: int
    accepted: int
    looked_up: int
    worker_accepted: int
    rounds: int
    tokens_per_round: float
    rtt_ms: float | None
    bytes_up: int
    bytes_down: int
    bytes_per_token: float
    polls: int
    reopens: int
    energy_j: float | None
    energy_j_per_100: float | None
    energy_source: str
    limits: tuple[LimitReport, ...]
    worker: str | None
    version: str
    digest: str
    exactness: str
    weights: str
    temperature: float
    top_k: int
    top_p: float
    seed: int
    default_limit: int | None


class Clock:
    """Times one text, from now on."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.first: float | None = None

    def committed(self) -> None:
        """Something was committed now."""
        if self.first is None:
            self.first = time.monotonic()

    def figures(
        self,
        generation: Generation,
        target: TargetVersion,
        exactness: str,
        weights: str,
        default_limit: int | None,
    ) -> Figures:
        """Figures of the text now."""
        now = time.monotonic()
        machine, counters = generation.machine, generation.machine.counters
        seen, traffic, sampling = machine.observation, generation.traffic, generation.request.sampling
        tokens, writing = seen.committed, now - (self.first or now)
        spent, planned = generation.spent(), machine.planned
        return Figures(
            prompt_tokens=len(generation.request.prompt),
            tokens=tokens,
            seconds=now - self.began,
            first_token=None if self.first is None else self.first - self.began,
            tokens_per_second=tokens / writing if writing > 0 else 0.0,
            draft_length=0 if planned is None else planned.plan.draft_length,
            plan=None if planned is None else PlanFigures.of(planned),
            proposed=counters.proposed,
            drafted=seen.drafted,
            accepted=seen.accepted,
            looked_up=counters.looked_up_accepted,
            worker_accepted=counters.worker_accepted,
            rounds=counters.rounds,
            tokens_per_round=tokens / counters.rounds if counters.rounds else 0.0,
            rtt_ms=None if seen.rtt is None else 1000 * seen.rtt,
            bytes_up=traffic.up,
            bytes_down=traffic.down,
            bytes_per_token=(traffic.up + traffic.down) / tokens if tokens else 0.0,
            polls=counters.polls,
            reopens=counters.reopens,
            energy_j=spent.joules,
            energy_j_per_100=None if spent.joules is None else per_hundred(spent.joules, tokens),
            energy_source=spent.source,
            limits=() if planned is None else planned.limits,
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
