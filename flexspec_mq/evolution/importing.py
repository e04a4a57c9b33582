"""``flexspec head import``: a head from an adapter that PEFT has saved, converted to the dtype of a version."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flexspec_mq.errors import UsageError
from flexspec_mq.evolution import offline
from flexspec_mq.evolution.canaries import (
    PROMPTS,
    check_floor,
    encode_prompts,
    head_canaries,
    load_base,
    write_manifest,
)
from flexspec_mq.evolution.check import check_head
from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.cache import whole_folder
from flexspec_mq.models.head import LM_HEAD, read_safetensors
from flexspec_mq.models.head_files import ADAPTER, CONFIG, PREFIX, read_lora
from flexspec_mq.models.load import load_text, torch_dtype
from flexspec_mq.models.shape import Shape
from flexspec_mq.models.weights import Tensors, weights_fingerprint

EMBEDDING = "model.embed_tokens.weight"
_COPIES = {
    EMBEDDING: EMBEDDING,
    "model.embed_tokens.base_layer.weight": EMBEDDING,
    LM_HEAD: LM_HEAD,
    "lm_head.base_layer.weight": LM_HEAD,
}
"""Tensors that PEFT may save beside an adapter as the base has them, and their names there."""


def import_adapter(args: argparse.Namespace) -> int:
    """``flexspec head import``: returns the exit code."""
    base = offline.base_path(args)
    if args.out.exists():
        raise UsageError(f"{args.out} is there already", hint="name another folder for --out")
    offline.prepare(args)
    prompts = (*args.prompt, *PROMPTS)
    figures = make_head(args.folder, base, args.out, floor=args.floor, dtype=args.dtype, prompts=prompts)
    offline.print_figures({"head": str(args.out), **figures})
    return 0


def make_head(
    adapter: Path, base: Path, out: Path, *, floor: int, dtype: str, prompts: Sequence[str]
) -> dict[str, Any]:
    """Write a head, whole and checked or not at all.

    Args:
        adapter: directory that PEFT has saved; files other than its two are left behind.
        base: checkpoint folder of the base that it was trained on.
        out: folder to write.
        floor: the lowest layer that it may touch.
        dtype: dtype that the version is computed in, and that the weights are converted to.
        prompts: candidates for canaries; those on which the head differs most from the base are taken.

    Returns:
        Figures of `check_head`.

    Raises:
        HeadError: no worker would serve it; says why.
        ModelError: the base cannot be used.
        UsageError: the base has no layer above the floor.
    """
    text = load_text(base)
    check_floor(floor, text)
    shape = Shape.from_config(text.config)
    try:
        with whole_folder(out) as part:
            _convert(adapter, part, base, torch_dtype(dtype))
            head = read_lora(part, shape, floor)
            model = load_base(base, dtype=dtype)
            canaries = head_canaries(model, head, encode_prompts(text, prompts), text.eos)
            fingerprint = weights_fingerprint(base)
            write_manifest(part, text, fingerprint, kind="lora", floor=floor, dtype=dtype, canaries=canaries)
            return check_head(part, base, "none")
    except OSError as error:
        raise HeadError(f"{out} cannot be written: {error}") from error


def _convert(adapter: Path, into: Path, base: Path, dtype: torch.dtype) -> None:
    """Write an adapter's two files again, its weights in another dtype and without copies of the base's."""
    from safetensors.torch import save_file

    for name in (CONFIG, ADAPTER):
        if not (adapter / name).is_file():
            raise HeadError(
                f"{adapter} has no {name}",
                hint="name the directory that peft's save_pretrained(…, safe_serialization=True) has written; pickle "
                "files are never read",
            )
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in read_safetensors(adapter / ADAPTER).items():
        if _is_copy(name.removeprefix(PREFIX), tensor, base):
            continue
        tensors[name] = tensor.to(dtype).contiguous()
        if not bool(tensors[name].isfinite().all()):
            raise HeadError(f"{name} has weights too large for {dtype}", hint="give --dtype bfloat16")
    save_file(tensors, into / ADAPTER, metadata={"format": "pt"})
    shutil.copyfile(adapter / CONFIG, into / CONFIG)


def _is_copy(name: str, tensor: torch.Tensor, base: Path) -> bool:
    """Whether a tensor of an adapter is the base's own."""
    wanted = _COPIES.get(name)
    if wanted is None:
        return False
    own = Tensors(base)
    other = own.read(wanted if wanted in own else EMBEDDING)  # tied
    return other.shape == tensor.shape and torch.equal(other.to(tensor.dtype), tensor)
