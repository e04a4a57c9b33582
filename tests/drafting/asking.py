"""Requests of a session to a drafter, settings of a draft, and a model without weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from edge_node.settings import EdgeSettings
from flexspec_mq.drafting.interface import Drafted
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.protocol.edge.types import DraftRequest
from schemas.messages import Identity, Sampling


def asked(
    session: int,
    context: Sequence[int],
    params: Sampling | None = None,
    committed: int | None = None,
    **more: Any,
) -> DraftRequest:
    """A request; by default greedy, with all of the context committed."""
    sampling = params or Sampling()
    identity = Identity(2, bytes(16), sampling, (), False, 1000)
    return DraftRequest(session, context, identity, len(context) if committed is None else committed, **more)


class ConstantModel:
    """A network with the same logits after every context."""

    def __init__(self, logits: Sequence[float]) -> None:
        self._logits = torch.tensor(logits)

    def new_kv(self) -> SessionKV:
        return SessionKV(1, 1, 2, torch.empty(0))

    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        for model_input in inputs:
            model_input.kv.tokens += model_input.tokens
        return self._logits.expand(sum(model_input.rows for model_input in inputs), -1)


def tokens(drafted: Sequence[Drafted]) -> list[int]:
    """The one token that each session got."""
    assert all(run is not None and len(run) == 1 for run in drafted)
    return [run[0].token for run in drafted if run]


def settings(folder: Path, **more: Any) -> EdgeSettings:
    """Settings of an edge whose draft is in a folder."""
    return EdgeSettings(edge="e", draft=str(folder), **more)


def silent(_text: str) -> None:
    """Hear what takes long, and say nothing."""
