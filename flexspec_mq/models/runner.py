"""Runners of models, and inputs and outputs of a forward for several sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    import torch
    from typing_extensions import TypeVar

    from flexspec_mq.models.kv import SessionKV

    KV = TypeVar("KV", default=SessionKV)
else:
    from typing import TypeVar

    KV = TypeVar("KV")


@dataclass(frozen=True, slots=True)
class ModelInput(Generic[KV]):
    """Tokens that one session feeds into a forward.

    Attributes:
        kv: the session's KV cache; the forward appends to it.
        tokens: ids that follow what `kv` holds, at least one.
        rows: number of last tokens whose logits are wanted; 0 when only the KV cache is.
        head: name of a head that the runner holds, the same for all that `kv` ever reads; empty is the base.
    """

    kv: KV
    tokens: Sequence[int]
    rows: int = 1
    head: str = ""


class DraftRunner(Protocol):
    """Runner of a draft: `PackedModel`, or `OnnxModel`, whose keys, values and logits are numpy's."""

    def new_kv(self) -> Any:
        """Empty KV cache for a new session, a `ReadTokens` with a `capacity`."""

    def forward(self, inputs: Sequence[ModelInput[Any]]) -> torch.Tensor | npt.NDArray[np.float32]:
        """Read the tokens of all inputs.

        Args:
            inputs: at most one per session.

        Returns:
            Logits of shape [sum of rows, columns], input by input; a column is a token id unless the runner says
            which ids its columns are.
        """


def to_numpy(logits: torch.Tensor | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits as a numpy array on the host; shares memory where it can."""
    if not hasattr(logits, "cpu"):
        return logits
    return cast("npt.NDArray[np.float32]", cast("torch.Tensor", logits).float().cpu().numpy())
