"""The system under stress: a real broker, workers that die, an edge whose link fails, plans that change at random."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields

from edge_node.fleet.target_texts import TargetTexts
from edge_node.generation import GenerationRequest
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan
from flexspec_mq.drafting.load import DraftModel
from flexspec_mq.models.load import LoadedText
from flexspec_mq.protocol.edge.types import EdgeCounters
from flexspec_mq.protocol.effects import Finish
from flexspec_mq.sampling.params import SamplingParams
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from lab.benchmarks.exact.faults import Weather, stormy
from lab.benchmarks.exact.reference import Text

_NEW_PLAN = 0.15


@dataclass(slots=True)
class RandomPolicy:
    """Draws a new plan at every seventh batch or so; counts them over all sessions in `changes`."""

    rng: random.Random
    changes: list[int]
    _plan: Plan | None = None

    def plan(self, seen: Observation) -> Plan:  # noqa: ARG002  the interface of all policies
        """The plan for the next batch."""
        if self._plan is None or self.rng.random() < _NEW_PLAN:
            self.changes[0] += self._plan is not None
            self._plan = Plan(
                draft_length=self.rng.randint(0, 8),
                in_flight=self.rng.randint(1, 4),
                qos=self.rng.randint(0, 2),
                ahead=self.rng.choice((0, 0, self.rng.randint(8, 64))),
                worker_draft=self.rng.choice((0, self.rng.randint(1, 8))),
                trip_age=self.rng.choice((None, 0.5)),
            )
        return self._plan


@dataclass(slots=True)
class Outcome:
    """A text as the system wrote it.

    Attributes:
        reason: as the edge says it.
        repeated: commits that did not start where the last one ended.
        error: error of a text that failed.
    """

    text: Text
    tokens: list[int]
    reason: str
    repeated: int
    error: str | None


@dataclass(slots=True)
class StressedEdge:
    """The edge node and what its sessions counted.

    Attributes:
        node: edge node that runs.
        weather: weather of its link.
        rng: random numbers of the plans.
        text: tokenizer and ends of text of the target.
        totals: counters of finished sessions, added up.
        plan_changes: changes of plan in mid-session, in a list of one.
        committed: tokens so far, of unfinished texts too.
    """

    node: EdgeNode
    weather: Weather
    rng: random.Random
    text: LoadedText
    totals: EdgeCounters = field(default_factory=EdgeCounters)
    plan_changes: list[int] = field(default_factory=lambda: [0])
    committed: int = 0

    async def write(self, text: Text) -> Outcome:
        """Have a text written."""
        request = GenerationRequest(
            prompt=text.prompt,
            sampling=SamplingParams(text.dice.temperature, text.dice.top_k, text.dice.top_p, text.dice.seed),
            limit=text.limit,
            policy=RandomPolicy(random.Random(self.rng.getrandbits(64)), self.plan_changes),
            ignore_eos=not text.eos,
            finish_at=_stop(text),
            text=self.text,
        )
        generation = self.node.generate(request)
        outcome = Outcome(text, [], "", 0, None)
        async for event in generation:
            if isinstance(event, Finish):
                outcome.reason = event.reason.value
                outcome.error = None if event.error is None else event.error.message
                break
            outcome.repeated += event.start != len(outcome.tokens)
            outcome.tokens += event.tokens
            self.committed += len(event.tokens)
        for one in fields(EdgeCounters):
            total = getattr(self.totals, one.name) + getattr(generation.machine.counters, one.name)
            setattr(self.totals, one.name, total)
        return outcome


def _stop(text: Text) -> Callable[[Sequence[int]], int | None] | None:
    """The text's stop as the edge wants it."""
    if text.stop is None:
        return None
    token, least = text.stop
    return lambda tokens: len(tokens) if tokens[-1] == token and len(tokens) >= least else None


@asynccontextmanager
async def edge(
    settings: EdgeSettings,
    draft: DraftModel,
    port: int,
    weather: Weather,
    rng: random.Random,
    text: LoadedText,
) -> AsyncIterator[StressedEdge]:
    """An edge node at a broker on this machine, with a real draft and weather on its link."""
    loaded = draft.loaded
    node = EdgeNode(settings, draft.drafter, loaded.fingerprint, loaded.eos, texts=TargetTexts(draft))
    base = LinkSettings(port=port, client_id="e-exactness", give_up_after=30.0)
    async with node.running(stormy(mqtt_link, weather), base):
        yield StressedEdge(node, weather, rng, text)
