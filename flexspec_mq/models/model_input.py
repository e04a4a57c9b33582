"""What goes into a forward for several sessions, and what comes out: the same for all that run models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    import torch

    from flexspec_mq.models.kv import SessionKV


@dataclass(frozen=True, slots=True)
class ModelInput:
    """Tokens that one session feeds into a forward.

    Attributes:
        kv: the session's keys and values; the forward appends to them.
        tokens: ids that follow what `kv` holds, at least one.
        rows: for how many of the last tokens logits are wanted; 0 when only keys and values are.
    """

    kv: SessionKV
    tokens: Sequence[int]
    rows: int = 1


def to_numpy(logits: torch.Tensor) -> npt.NDArray[np.float32]:
    """Logits as a numpy array on the host; shares memory where it can."""
    return cast("npt.NDArray[np.float32]", logits.cpu().numpy())
