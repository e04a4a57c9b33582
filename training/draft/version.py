"""A version of the base as the teacher: the base with a head on it."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from flexspec_mq.heads.manifest import MANIFEST, HeadError, digest, read_head
from flexspec_mq.models.head import LM_HEAD, NORM, FullHead, Head, LoraDelta, full_name
from flexspec_mq.models.head_files import read_weights
from flexspec_mq.models.load import LoadedText, load_target
from flexspec_mq.models.shape import Shape
from flexspec_mq.models.weights import weights_fingerprint


@dataclass(frozen=True, slots=True)
class HeadVersion:
    """A head that was read for a base.

    Attributes:
        head: weights of the head; None is the base itself.
        floor: the lowest layer that it may touch.
        digest: digest of its manifest, 64 hex digits.
    """

    head: Head | None
    floor: int
    digest: str


def read_version(folder: Path, base: Path, text: LoadedText) -> HeadVersion:
    """Read a head for a base.

    Args:
        folder: folder of the head.
        base: checkpoint folder of the base.
        text: configuration and tokenizer of the base.

    Raises:
        HeadError: the head is damaged, or of another base.
    """
    manifest = read_head(folder)
    for what, theirs, ours in (
        ("base", manifest.base, weights_fingerprint(base)),
        ("tokenizer", manifest.tokenizer, text.fingerprint.hex()),
    ):
        if theirs != ours:
            raise HeadError(
                f"{folder} is not for this model: its {what} is {theirs}, not {ours}",
                hint="give the base that the head was trained on",
            )
    name = digest((folder / MANIFEST).read_bytes()).hex()
    if manifest.kind == "base":
        return HeadVersion(None, manifest.floor, name)
    head = read_weights(folder, manifest.kind, Shape.from_config(text.config), manifest.floor)
    return HeadVersion(head, manifest.floor, name)


def load_teacher(base: Path, version: HeadVersion, device: str = "cpu") -> PreTrainedModel:
    """The base with a head on it, for forwards over whole rows.

    Additions to layers are computed beside their matrices, as workers do. An addition to the LM head is added into
    its matrix, which is then the teacher's own.

    Args:
        base: checkpoint folder of the base.
        version: head that was read for it.
        device: torch device of the model.

    Raises:
        ModelError: the base cannot be loaded.
    """
    model = load_target(base, device=device).model
    if version.head is not None:
        _put(model, version.head)
    return model


def _put(model: Any, head: Head) -> None:
    if head.lm_head is not None:
        weight, own = model.lm_head.weight.detach(), head.lm_head
        weight = own.merged(weight) if isinstance(own, LoraDelta) else own.to(weight)
        model.lm_head.weight = nn.Parameter(weight, requires_grad=False)
    whole = dict(head.tensors) if isinstance(head, FullHead) else {NORM: head.norm}
    # The LM head is in place, and all else has the base's names.
    others = {name: tensor for name, tensor in whole.items() if tensor is not None and name != LM_HEAD}
    model.load_state_dict(others, strict=False)
    if isinstance(head, FullHead):
        return
    for index, modules in head.layers.items():
        for module, delta in modules.items():
            place = model.get_submodule(f"model.layers.{index}.{full_name(module)}")
            place.register_forward_hook(
                partial(_add, delta.down.to(place.weight), delta.up.to(place.weight), delta.scale)
            )


def _add(
    down: torch.Tensor,
    up: torch.Tensor,
    scale: float,
    _module: nn.Module,
    args: tuple[torch.Tensor, ...],
    out: torch.Tensor,
) -> torch.Tensor:
    return out + (args[0] @ down.T) @ up.T * scale
