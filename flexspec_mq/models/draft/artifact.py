"""The checkpoint that a device loads: what base and delta make together.

It is an ordinary checkpoint folder; a device needs only that, never the base. No model runs here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flexspec_mq.errors import ModelError, how_to_install
from flexspec_mq.models.cache import whole_folder
from flexspec_mq.models.draft.delta import (
    RANKS,
    check_fingerprint,
    load_delta,
    read_meta,
    read_shared,
)
from flexspec_mq.models.weights import WEIGHTS

if TYPE_CHECKING:
    import torch

MARKER = "flexspec_draft.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "generation_config.json",
)  # fmt: skip


def default_delta_path() -> Path:
    """The delta that ships, for the default base model.

    Raises:
        ModelError: The distribution of its own that holds it is not installed, or one of another version.
    """
    try:
        path = Path(str(resources.files("flexspec_mq_default") / "draft-v3.safetensors"))
    except ModuleNotFoundError:
        path = Path("flexspec_mq_default")
    if not path.is_file():
        raise ModelError(
            f"the draft of the default model is not installed: there is no {path}",
            hint=f"install flexspec-mq-default, {how_to_install(distribution='flexspec_mq_default')}",
        )
    return path


def export(base_path: Path, out_dir: Path, delta_path: Path | None = None) -> Path:
    """Write the draft that base and delta make, as an ordinary checkpoint folder with tokenizer.

    The folder appears whole or not at all. A folder that already holds this very draft is kept.

    Args:
        base_path: Checkpoint folder of the base.
        out_dir: The folder to make. An earlier draft there is replaced, anything else is left alone.
        delta_path: Delta of a draft; None for the one that ships.

    Returns:
        ``out_dir``.

    Raises:
        FingerprintError: The base is not the one the delta was trained on.
        ModelError: A file is unreadable, or ``out_dir`` holds something else.
    """
    delta_path = delta_path or default_delta_path()
    meta = read_meta(delta_path)
    shared, fingerprint = read_shared(base_path, meta.n)
    check_fingerprint(meta.base_fingerprint, fingerprint, delta_path, base_path)
    marker = {"delta": hashlib.blake2b(delta_path.read_bytes(), digest_size=16).hexdigest(), **asdict(meta)}
    if _holds(out_dir, marker):
        return out_dir
    if out_dir.exists() and not (out_dir / MARKER).exists() and any(out_dir.iterdir()):
        raise ModelError(f"{out_dir} is not empty and holds no draft", hint="give another folder")
    _, delta = load_delta(delta_path, base_path)
    try:
        _write_checkpoint(base_path, {**shared, **delta}, marker, out_dir)
    except OSError as error:
        raise ModelError(f"cannot write the draft to {out_dir}: {error}") from error
    return out_dir


def is_complete(folder: Path) -> bool:
    """Whether a folder has the files that make it a draft."""
    return all((folder / name).is_file() for name in (MARKER, WEIGHTS, "config.json"))


def _holds(out_dir: Path, marker: dict[str, Any]) -> bool:
    try:
        stored = json.loads((out_dir / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return is_complete(out_dir) and bool(stored == json.loads(json.dumps(marker)))


def _write_checkpoint(
    base_path: Path, tensors: dict[str, torch.Tensor], marker: dict[str, Any], out_dir: Path
) -> None:
    from safetensors.torch import save_file

    with whole_folder(out_dir, replace=True) as work:
        config = _draft_config(base_path, cast("int", marker["n"]), cast("Sequence[int]", marker["start"]))
        (work / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in TOKENIZER_FILES:
            if (base_path / name).exists():
                shutil.copyfile(base_path / name, work / name)
        ranks = tensors.pop(RANKS, None)
        if ranks is not None:
            import numpy as np

            np.save(work / f"{RANKS}.npy", ranks.numpy())
        save_file(tensors, work / WEIGHTS, metadata={"format": "pt"})
        (work / WEIGHTS).chmod(0o644)
        (work / MARKER).write_text(json.dumps(marker, indent=2, sort_keys=True) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's ``config.json``.

    Raises:
        ModelError: It is missing or no JSON.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {folder / 'config.json'}: {error}") from error
    return config


def _draft_config(base_path: Path, n: int, start: Sequence[int]) -> dict[str, Any]:
    config = read_config(base_path)
    config["num_hidden_layers"] = n + len(start)
    kinds = config.get("layer_types")
    if kinds:
        config["layer_types"] = [*kinds[:n], *(kinds[layer] for layer in start)]
    return config
