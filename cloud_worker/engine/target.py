"""Loading the target and proving it, before anything is promised to anybody."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from flexspec_mq.models.attention import register
from flexspec_mq.models.invariance import Proof
from flexspec_mq.models.load import LoadedModel, load_target
from flexspec_mq.models.packed import PackedModel
from flexspec_mq.models.proof_cache import proved

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloud_worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Target:
    """A target that is ready to verify.

    Attributes:
        remembered: the proof was made at an earlier start.
    """

    loaded: LoadedModel
    packed: PackedModel
    proof: Proof
    remembered: bool = False


def _every(seconds: float, say: Callable[[str], None]) -> Callable[[float], None]:
    """Say how far the proof is, at once and then not more often than every so many seconds."""
    said = -seconds

    def progress(share: float) -> None:
        nonlocal said
        if time.monotonic() - said >= seconds:
            said = time.monotonic()
            say(f"proving that verification does not depend on what shares a forward: {share:.0%}")

    return progress


def load(settings: WorkerSettings, say: Callable[[str], None]) -> Target:
    """Load the model and prove shape-invariance on this device, dtype and thread count.

    Args:
        settings: which model, where.
        say: told what takes long.

    Raises:
        ModelError: the model cannot be loaded or packed.
    """
    torch.set_num_threads(settings.threads)
    loaded = load_target(
        settings.target,
        device=settings.device,
        dtype=settings.dtype,
        attn_implementation=register(),
        progress=say,
    )
    packed, proof, remembered = proved(loaded.model, again=settings.prove, progress=_every(2.0, say))
    return Target(loaded, packed, proof, remembered)
