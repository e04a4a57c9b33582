"""The span of a text at its device, and what its figures are called there."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from edge_node.text.spec import TextSpec
from flexspec_mq.models.text import Turn
from flexspec_mq.protocol.effects import Finish, FinishReason
from flexspec_mq.telemetry import TextSpan, sampling_attributes
from schemas.openai import FlexspecUsage

if TYPE_CHECKING:
    from edge_node.generation import Generation
    from edge_node.node import EdgeNode

_FIGURES = {
    "flexspec.draft.proposed": "proposed",
    "flexspec.draft.judged": "drafted",
    "flexspec.draft.accepted": "accepted",
    "flexspec.draft.looked_up": "looked_up",
    "flexspec.draft.worker_accepted": "worker_accepted",
    "flexspec.forced_tokens": "forced",
    "flexspec.rounds": "rounds",
    "flexspec.bytes_up": "bytes_up",
    "flexspec.bytes_down": "bytes_down",
    "flexspec.energy_j": "energy_j",
    "flexspec.exactness": "exactness",
    "flexspec.digest": "digest",
}
"""Attributes of a span, and the figures that they are."""


def text_span(node: EdgeNode, spec: TextSpec) -> AbstractContextManager[TextSpan | None]:
    """The span of a text, which ends with the block; None where nobody wants it."""
    if node.telemetry is None:
        return nullcontext()
    chat = not isinstance(spec.prompt, str) and bool(spec.prompt) and isinstance(spec.prompt[0], Turn)
    model = spec.version or node.models.default
    streamed = {"gen_ai.request.stream": True}  # as a worker always answers
    return TextSpan(
        node.telemetry, "chat" if chat else "text_completion", model, spec.trace_context, streamed
    )


def note_outcome(
    span: TextSpan, generation: Generation, figures: FlexspecUsage, finish: Finish | None
) -> None:
    """Say on a span what became of its text; `finish` is None where nobody waited for its end."""
    request, seen, counters = generation.request, generation.machine.observation, generation.machine.counters
    seed, plan, reason = request.sampling.seed, figures.plan, None if finish is None else finish.reason
    span.used(figures.version, len(request.prompt), seen.committed)
    span.note(
        {
            "gen_ai.request.max_tokens": request.limit,
            "gen_ai.request.seed": seed if seed < 2**63 else seed - 2**64,  # attributes have a sign
            "gen_ai.response.finish_reasons": reason
            and ["stop" if reason is FinishReason.EOS else reason.value],
            "flexspec.session": generation.session,
            "flexspec.policy": None if plan is None else plan.policy,
            "flexspec.plan": None if plan is None else plan.does,
            "flexspec.rtt_ms": None if seen.rtt is None else 1000 * seen.rtt,
            "flexspec.polls": counters.polls,
            "flexspec.reopens": counters.reopens,
            **sampling_attributes(request.sampling),
            **{name: getattr(figures, field) for name, field in _FIGURES.items()},
        }
    )
