"""Requests of a session to a drafter, and settings of a draft, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_node.settings import EdgeSettings
from flexspec_mq.protocol.edge.types import DraftRequest
from flexspec_mq.sampling.params import SamplingParams
from schemas.messages import Identity


def asked(
    session: int,
    context: Sequence[int],
    params: SamplingParams | None = None,
    committed: int | None = None,
    **more: Any,
) -> DraftRequest:
    """A request; by default greedy, with all of the context committed."""
    dice = params or SamplingParams()
    identity = Identity(1, bytes(16), dice.temperature, dice.top_k, dice.top_p, dice.seed, (), False, 1000)
    return DraftRequest(session, context, identity, len(context) if committed is None else committed, **more)


def settings(folder: Path, **more: Any) -> EdgeSettings:
    """Settings of an edge whose draft is in a folder."""
    return EdgeSettings(edge="e", draft=str(folder), **more)


def silent(_text: str) -> None:
    """Hear what takes long, and say nothing."""
