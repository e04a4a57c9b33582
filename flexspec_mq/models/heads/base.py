"""The base that a head belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.checkpoint import WEIGHTS, fingerprint_of, weight_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch


def weights_fingerprint(folder: Path) -> str:
    """BLAKE2b over names, dtypes, shapes and bytes of all tensors of a checkpoint, 32 hex digits.

    The tensors are read one at a time, in the order of their names, so neither the files that they lie in nor
    memory matters.

    Raises:
        HeadError: the folder has no safetensors weights that can be read.
    """
    from safetensors import SafetensorError, safe_open

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, file in sorted(weight_files(folder).items()):
            with safe_open(folder / file, framework="pt") as opened:
                yield name, opened.get_tensor(name)

    try:
        return fingerprint_of(tensors())
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise HeadError(
            f"cannot read weights from {folder}: {error}",
            hint=f"expected a checkpoint folder with {WEIGHTS}",
        ) from error
