"""Which base a head belongs to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from flexspec_mq.heads.manifest import HeadError

if TYPE_CHECKING:
    from pathlib import Path

_WEIGHTS = "model.safetensors"


def weights_fingerprint(folder: Path) -> str:
    """BLAKE2b over names, dtypes, shapes and bytes of all tensors of a checkpoint, 32 hex digits.

    The tensors are read one at a time, in the order of their names, so neither the files that they lie in nor
    memory matters.

    Raises:
        HeadError: the folder has no safetensors weights that can be read.
    """
    import json

    import torch
    from safetensors import SafetensorError, safe_open

    whole = hashlib.blake2b(digest_size=16)
    index = folder / f"{_WEIGHTS}.index.json"
    try:
        if index.exists():
            where: dict[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
        else:
            with safe_open(folder / _WEIGHTS, framework="pt") as opened:
                where = dict.fromkeys(opened.keys(), _WEIGHTS)
        for name, file in sorted(where.items()):
            with safe_open(folder / file, framework="pt") as opened:
                tensor = opened.get_tensor(name)
            whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise HeadError(
            f"cannot read weights from {folder}: {error}",
            hint=f"expected a checkpoint folder with {_WEIGHTS}",
        ) from error
    return whole.hexdigest()
