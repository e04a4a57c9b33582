"""The draft as a file: its difference to the base, and the checkpoint that a device loads.

What ships is what training changed: by how much the blocks differ from the base's layers that they started from, in
few bits, and the norm. With the base they make an ordinary checkpoint folder; a device needs only that folder,
never the base. No model runs here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from flexspec_mq.errors import FingerprintError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

FORMAT_VERSION = 2
MARKER = "flexspec_draft.json"
RANKS = "token_ranks"
"""Token ids by falling frequency in the training text, int32: what a trimmed LM head keeps. In the delta a tensor,
in the checkpoint folder a file, ``token_ranks.npy``."""
WEIGHTS = "model.safetensors"
_METADATA_KEY = "flexspec_draft"
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "generation_config.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeltaMeta:
    """What a delta says about itself.

    Attributes:
        base_fingerprint: ``base_fingerprint`` of the base it was trained on.
        n: Backbone layers below the trained blocks.
        start: The base's layers that the blocks started as copies of, bottom up.
        confidence: How likely the target takes a token of this draft, see ``confidence.Calibration``; None if nobody
            measured it.
        training: Facts about the training: tokens, seconds, measured acceptance. For people only.
        format_version: Layout of the file.
    """

    base_fingerprint: str
    n: int
    start: tuple[int, ...]
    training: dict[str, Any] = field(default_factory=dict)
    confidence: dict[str, Any] | None = None
    format_version: int = FORMAT_VERSION


def default_delta_path() -> Path:
    """The delta that ships with this package, for the default base model."""
    return Path(__file__).parent / "data" / "draft-v1.safetensors"


def base_fingerprint(base_path: Path, n: int) -> str:
    """BLAKE2b over names, dtypes, shapes and bytes of all that a draft takes from its base unchanged.

    That is the embedding, the first ``n`` layers and, if it is not tied, the LM head. Versions of a target
    family agree on it, since their heads touch only what comes after.

    Raises:
        ModelError: The folder has no safetensors weights or they are not named as Llama's.
    """
    return _fingerprint(_read_tensors(base_path, lambda name: _is_shared(name, n)), n)


def save_delta(path: Path, tensors: Mapping[str, torch.Tensor], meta: DeltaMeta) -> Path:
    """Write blocks and norm, named as in the draft, as bfloat16; replaces the file atomically.

    Args:
        path: Where to; its folder is made.
        tensors: See ``architecture.is_trained``; integer tensors beside them are kept as they are.
        meta: Goes into the file's header as JSON.

    Returns:
        ``path``.
    """
    import torch
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    plain = {
        name: (tensor.detach().to(torch.bfloat16) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in tensors.items()
    }
    save_file(plain, part, metadata={_METADATA_KEY: json.dumps(asdict(meta), sort_keys=True)})
    part.chmod(0o644)
    part.replace(path)
    return path


def read_meta(path: Path) -> DeltaMeta:
    """What a delta says about itself.

    Raises:
        ModelError: The file is missing, damaged, no delta, or of a later format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {})[_METADATA_KEY])
            version = facts["format_version"]
            meta = DeltaMeta(**{**facts, "start": tuple(facts.get("start", ()))})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} is not a draft delta: {error!r}", hint="make one with `flexspec draft train`"
        ) from error
    if version != FORMAT_VERSION:
        later = version > FORMAT_VERSION
        message = f"{path} has format {version}, this version reads {FORMAT_VERSION}"
        raise ModelError(message, hint="upgrade flexspec-mq" if later else "train the draft again")
    return meta


def read_delta(path: Path) -> tuple[DeltaMeta, dict[str, torch.Tensor]]:
    """Metadata and tensors of a delta.

    Raises:
        ModelError: As ``read_meta``.
    """
    from safetensors.torch import load_file

    return read_meta(path), load_file(path)


def check_fingerprint(meta: DeltaMeta, found: str, delta_path: Path, base_path: Path) -> None:
    """Refuse a base that the delta was not trained on.

    Raises:
        FingerprintError: The fingerprints differ.
    """
    if found != meta.base_fingerprint:
        raise FingerprintError(
            f"{delta_path} was trained on another base than {base_path}: "
            f"expected fingerprint {meta.base_fingerprint}, found {found}",
            hint="use the base it was made for, or train a draft for this one with `flexspec draft train`",
        )


def materialise(base_path: Path, delta_path: Path, out_dir: Path) -> Path:
    """Write the draft that base and delta make, as an ordinary checkpoint folder with tokenizer.

    The folder appears whole or not at all. One that already holds this very draft is kept.

    Args:
        base_path: Checkpoint folder of the base.
        delta_path: From ``save_delta``.
        out_dir: The folder to make. An earlier draft there is replaced, anything else is left alone.

    Returns:
        ``out_dir``.

    Raises:
        FingerprintError: The base is not the one the delta was trained on.
        ModelError: A file is unreadable, or ``out_dir`` holds something else.
    """
    meta, delta = read_delta(delta_path)
    shared = _read_tensors(base_path, lambda name: _is_shared(name, meta.n))
    check_fingerprint(meta, _fingerprint(shared, meta.n), delta_path, base_path)
    marker = {"delta": hashlib.blake2b(delta_path.read_bytes(), digest_size=16).hexdigest(), **asdict(meta)}
    if _holds(out_dir, marker):
        return out_dir
    if out_dir.exists() and not (out_dir / MARKER).exists() and any(out_dir.iterdir()):
        raise ModelError(f"{out_dir} is not empty and holds no draft", hint="give another folder")
    try:
        _write_checkpoint(base_path, {**shared, **delta}, marker, out_dir)
    except OSError as error:
        if not _holds(out_dir, marker):  # else another process was faster
            raise ModelError(f"cannot write the draft to {out_dir}: {error}") from error
    return out_dir


def export(base_path: Path, out_dir: Path, delta_path: Path | None = None) -> Path:
    """Make the stand-alone folder for a device: as ``materialise``, from the shipped delta by default.

    Raises:
        ModelError: As ``materialise``.
    """
    return materialise(base_path, delta_path or default_delta_path(), out_dir)


def _is_shared(name: str, n: int) -> bool:
    if name.startswith("model.layers."):
        return int(name.split(".")[2]) < n
    return name in {"model.embed_tokens.weight", "lm_head.weight"}


def _fingerprint(tensors: Mapping[str, torch.Tensor], n: int) -> str:
    import torch

    layers = {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    if len(layers) != n or "model.embed_tokens.weight" not in tensors:
        raise ModelError(f"the base has no embedding or fewer than {n} layers under Llama's names")
    whole = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _read_tensors(folder: Path, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    index = folder / f"{WEIGHTS}.index.json"
    files = {WEIGHTS}
    tensors = {}
    try:
        if index.exists():
            where: dict[str, str] = json.loads(index.read_text())["weight_map"]
            files = {file for name, file in where.items() if wanted(name)}
        for file in sorted(files):
            with safe_open(folder / file, framework="pt") as opened:
                tensors.update({name: opened.get_tensor(name) for name in opened.keys() if wanted(name)})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelError(
            f"cannot read weights from {folder}: {error}", hint=f"expected a checkpoint folder with {WEIGHTS}"
        ) from error
    return tensors


def _holds(out_dir: Path, marker: dict[str, Any]) -> bool:
    try:
        found = json.loads((out_dir / MARKER).read_text())
    except (OSError, ValueError):
        return False
    complete = (out_dir / WEIGHTS).exists() and (out_dir / "config.json").exists()
    return complete and bool(found == json.loads(json.dumps(marker)))


def _write_checkpoint(
    base_path: Path, tensors: dict[str, torch.Tensor], marker: dict[str, Any], out_dir: Path
) -> None:
    from safetensors.torch import save_file

    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        work.chmod(0o755)
        config = _draft_config(base_path, cast("int", marker["n"]), cast("Sequence[int]", marker["start"]))
        (work / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in _TOKENIZER_FILES:
            if (base_path / name).exists():
                shutil.copyfile(base_path / name, work / name)
        ranks = tensors.pop(RANKS, None)
        if ranks is not None:
            np.save(work / f"{RANKS}.npy", ranks.numpy())
        save_file(tensors, work / WEIGHTS, metadata={"format": "pt"})
        (work / WEIGHTS).chmod(0o644)
        (work / MARKER).write_text(json.dumps(marker, indent=2, sort_keys=True) + "\n")
        if out_dir.exists():
            shutil.rmtree(out_dir)
        work.rename(out_dir)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _draft_config(base_path: Path, n: int, start: Sequence[int]) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((base_path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {base_path / 'config.json'}: {error}") from error
    config["num_hidden_layers"] = n + len(start)
    kinds = config.get("layer_types")
    if kinds:
        config["layer_types"] = [*kinds[:n], *(kinds[layer] for layer in start)]
    return config
