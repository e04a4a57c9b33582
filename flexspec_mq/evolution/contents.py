"""The contents of a head's files, compared with what its manifest says and a head may touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch

from flexspec_mq.heads.manifest import MANIFEST, HeadError, Manifest
from flexspec_mq.models.head import LM_HEAD, NORM, FullHead, LoraDelta, LoraHead
from flexspec_mq.models.head_files import ADAPTER, CONFIG, FULL, read_weights
from flexspec_mq.models.shape import FAMILIES, HEAD_NORMS, Shape

if TYPE_CHECKING:
    from pathlib import Path

    from flexspec_mq.models.load import LoadedText

FILES = {"base": set[str](), "lora": {CONFIG, ADAPTER}, "full": {FULL}}


class _AnySize(int):
    """A size of a base that is not here, which equals any other."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __mul__(self, other: int) -> Self:
        return self


def _unknown_shape(layers: int) -> Shape:
    """Sizes of a base that is not here."""
    size = _AnySize()
    return Shape(layers, size, size, size, size, size, 0.0, size, tied=False, speeds=())


def check_contents(folder: Path, manifest: Manifest, base: LoadedText | None) -> dict[str, Any]:
    """Refuse a head that holds something else than its manifest and its base allow.

    Args:
        folder: folder of the head, whose files are those of the manifest (`read_head`).
        manifest: manifest of the head.
        base: base that it belongs to; None leaves out shapes.

    Returns:
        What the head changes: ``parameters`` is how many numbers its weights have, ``layers`` are those that it
        changes, ``others`` final norm and LM head as far as it changes them, by their names in the base.

    Raises:
        HeadError: says which file, setting or tensor is wrong.
        ModelError: the base is built in a way that heads are not for.
    """
    listed = {file.name for file in manifest.files}
    if listed != FILES[manifest.kind]:
        expected = " and ".join(sorted(FILES[manifest.kind])) or "no files"
        wrong = ", ".join(sorted(listed ^ FILES[manifest.kind]))
        raise HeadError(f"a head of kind {manifest.kind} has {expected}; this one differs by {wrong}")
    strange = sorted(path.name for path in folder.iterdir() if path.name not in {*listed, MANIFEST})
    if strange:
        raise HeadError(f"{folder} holds {strange[0]}, which the manifest does not list", hint="remove it")
    if manifest.kind == "base":
        return {"parameters": 0, "layers": [], "others": []}
    shape = _unknown_shape(manifest.layers)
    if base is not None:
        shape = Shape.from_config(base.config, (*FAMILIES, *HEAD_NORMS))
    head = read_weights(folder, manifest.kind, shape, manifest.floor)
    tensors = _tensors(head)
    wanted: torch.dtype = getattr(torch, manifest.dtype)
    for name, tensor in tensors.items():
        if tensor.dtype != wanted:
            found = str(tensor.dtype).removeprefix("torch.")
            raise HeadError(
                f"{name} is of {found}, the manifest says {manifest.dtype}", hint="convert the head"
            )
    others = [name for name, part in ((LM_HEAD, head.lm_head), (NORM, head.norm)) if part is not None]
    layers = range(head.floor, shape.layers) if isinstance(head, FullHead) else sorted(head.layers)
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return {"parameters": parameters, "layers": list(layers), "others": others}


def _tensors(head: LoraHead | FullHead) -> dict[str, torch.Tensor]:
    """All of a head's tensors, by names for people."""
    if isinstance(head, FullHead):
        return dict(head.tensors)
    parts: dict[str, LoraDelta | torch.Tensor | None] = {NORM: head.norm, LM_HEAD: head.lm_head}
    for index, modules in head.layers.items():
        parts |= {f"{module}_proj of layer {index}": delta for module, delta in modules.items()}
    tensors: dict[str, torch.Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, LoraDelta):
            tensors |= {f"{name}, A": part.down, f"{name}, B": part.up}
        elif part is not None:
            tensors[name] = part
    return tensors
