"""Which base a head belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.models.draft.delta import fingerprint_of, read_tensors

if TYPE_CHECKING:
    from pathlib import Path


def weights_fingerprint(folder: Path) -> str:
    """BLAKE2b-128 over names, dtypes, shapes and bytes of all weights of a checkpoint folder: 32 hex digits.

    Raises:
        ModelError: the folder has no readable safetensors weights.
    """
    return fingerprint_of(read_tensors(folder, lambda _name: True))
