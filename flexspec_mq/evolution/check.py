"""``flexspec head check``: whether a worker would take a head, by its files, its base and its canaries."""

import argparse
from pathlib import Path
from typing import Any, Self

import torch

from flexspec_mq.errors import UsageError
from flexspec_mq.evolution import offline
from flexspec_mq.evolution.canaries import load_base
from flexspec_mq.heads.manifest import CANARY_SHARE, MANIFEST, HeadError, Manifest, digest, read_head
from flexspec_mq.models.default import default_draft_path
from flexspec_mq.models.head import LM_HEAD, NORM, FullHead, LoraDelta, LoraHead
from flexspec_mq.models.head_files import ADAPTER, CONFIG, DRAFT_FILES, FULL, read_weights
from flexspec_mq.models.invariance.target import canary_share
from flexspec_mq.models.load import LoadedText, find_model, load_text
from flexspec_mq.models.onnx.folder import has_graphs
from flexspec_mq.models.onnx.lora import add_draft_lora, read_draft_lora
from flexspec_mq.models.shape import Shape
from flexspec_mq.models.weights import weights_fingerprint

FILES = {"base": set[str](), "lora": {CONFIG, ADAPTER}, "full": {FULL}}
"""Files of a head by its kind, beside those of a LoRA of the draft."""


def check(args: argparse.Namespace) -> int:
    """``flexspec head check``: returns the exit code."""
    base = base_path(args)
    offline.prepare(args)
    offline.print_figures(check_head(args.folder, base, args.draft))
    return 0


def add_draft(args: argparse.Namespace) -> int:
    """``flexspec head add-draft``: returns the exit code."""
    offline.print_figures({"head": str(args.out), "digest": add_draft_lora(args.folder, args.lora, args.out)})
    return 0


def base_path(args: argparse.Namespace) -> Path | None:
    """The folder that ``--base`` names; None for ``none``.

    Raises:
        UsageError: it names no folder.
        ModelError: the default model cannot be made.
    """
    return None if args.base == "none" else offline.base_path(args)


def check_head(folder: Path, base: Path | None, draft: str = "default") -> dict[str, Any]:
    """Check a head in all ways.

    Args:
        folder: folder of the head.
        base: checkpoint folder; None leaves out what cannot be seen without it: shapes, fingerprints and canaries.
        draft: checkpoint folder, or ``default``, of the draft that a LoRA in the head is for; ``none`` leaves it out.

    Returns:
        Figures for people: ``parameters`` is how many numbers the head's weights have, ``layers`` are those that it
        changes, ``others`` final norm and LM head as far as it changes them, by their names in the base, ``canaries``
        and ``shuffled`` are shares of the canaries' tokens (0-1), ``draft`` is how many numbers its LoRA of
        the draft has.

    Raises:
        HeadError: a worker would refuse this head or the LoRA in it, or nobody could tell it from a damaged one.
        ModelError: the base cannot be read, or is built in a way that heads are not for.
    """
    manifest = read_head(folder)
    if not manifest.canaries:
        raise HeadError("the head has no canaries, so a damaged one looks as good")
    text = None if base is None else load_text(base)
    if base is not None and text is not None:
        _check_base(manifest, text, base)
    _check_files(folder, manifest)
    figures: dict[str, Any] = {
        "kind": manifest.kind,
        "digest": digest((folder / MANIFEST).read_bytes()).hex(),
        "bytes": sum(file.size for file in manifest.files),
    }
    if draft != "none" and any((folder / name).exists() for name in DRAFT_FILES):
        lora = read_draft_lora(folder, _draft_path(draft))
        figures["draft"] = sum(tensor.numel() for tensor in _tensors(lora).values())
    if manifest.kind == "base":
        return {**figures, "parameters": 0, "layers": [], "others": []}
    shape = _unknown_shape(manifest.layers)
    if text is not None:
        shape = Shape.from_config(text.config)
    head = read_weights(folder, manifest.kind, shape, manifest.floor)
    tensors = _tensors(head)
    _check_dtypes(tensors, manifest.dtype)
    layers = range(head.floor, shape.layers) if isinstance(head, FullHead) else sorted(head.layers)
    figures["parameters"] = sum(tensor.numel() for tensor in tensors.values())
    figures["layers"] = list(layers)
    figures["others"] = [
        name for name, part in ((LM_HEAD, head.lm_head), (NORM, head.norm)) if part is not None
    ]
    if base is not None:
        figures |= _check_canaries(manifest, base, head, tensors)
    return figures


def _check_base(manifest: Manifest, text: LoadedText, base: Path) -> None:
    layers = int(text.config["num_hidden_layers"])
    if (fingerprint := weights_fingerprint(base)) != manifest.base:
        raise HeadError(
            f"the head is of a base with fingerprint {manifest.base}; {base} has {fingerprint}",
            hint="name its base with --base; `--base none` leaves out what needs it",
        )
    if text.fingerprint.hex() != manifest.tokenizer:
        raise HeadError(
            f"it is of a tokenizer with fingerprint {manifest.tokenizer}, not {text.fingerprint.hex()}"
        )
    if manifest.layers != layers or not manifest.floor < layers:
        raise HeadError(f"floor {manifest.floor} of {manifest.layers} layers does not fit a base of {layers}")
    largest = max(max(*canary.prompt, *canary.text) for canary in manifest.canaries)
    if largest >= text.vocab_size:
        raise HeadError(f"a canary has token {largest}; the base has {text.vocab_size}")


def _check_files(folder: Path, manifest: Manifest) -> None:
    listed = {file.name for file in manifest.files}
    wanted = FILES[manifest.kind] | (DRAFT_FILES if listed & DRAFT_FILES else set())
    if listed != wanted:
        expected = " and ".join(sorted(wanted)) or "no files"
        wrong = ", ".join(sorted(listed ^ wanted))
        raise HeadError(f"a head of kind {manifest.kind} has {expected}; this one differs by {wrong}")
    strange = sorted(path.name for path in folder.iterdir() if path.name not in {*listed, MANIFEST})
    if strange:
        raise HeadError(f"{folder} holds {strange[0]}, which the manifest does not list", hint="remove it")


def _draft_path(draft: str) -> Path:
    """The checkpoint folder of a draft.

    Raises:
        UsageError: there is none.
        ModelError: the default draft cannot be made.
    """
    source = default_draft_path() if draft == "default" else find_model(draft)
    if not isinstance(source, Path) or has_graphs(source):
        raise UsageError(
            f"{draft} is no checkpoint folder of a draft", hint="name one with --draft, or 'none'"
        )
    return source


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


def _check_dtypes(tensors: dict[str, torch.Tensor], dtype: str) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != getattr(torch, dtype):
            actual = str(tensor.dtype).removeprefix("torch.")
            raise HeadError(
                f"{name} is of {actual}, the manifest says {dtype}",
                hint=f"`flexspec head import FOLDER --dtype {dtype}` converts what PEFT has saved",
            )


def _check_canaries(
    manifest: Manifest, base: Path, head: LoraHead | FullHead, tensors: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Canaries must come out with the head, and not with its tensors, which this spoils, in a random order."""
    model = load_base(base, dtype=manifest.dtype)
    model.hold("whole", head)
    whole = canary_share(model, "whole", manifest.canaries)
    if whole < CANARY_SHARE:
        raise HeadError(f"only {whole:.0%} of the canaries' tokens come out, less than {CANARY_SHARE:.0%}")
    generator = torch.Generator().manual_seed(0)
    for tensor in tensors.values():
        order = torch.randperm(tensor.numel(), generator=generator)
        tensor.copy_(tensor.flatten()[order].view_as(tensor))
    model.hold("shuffled", head)
    shuffled = canary_share(model, "shuffled", manifest.canaries)
    if shuffled >= CANARY_SHARE:
        raise HeadError(
            f"{shuffled:.0%} of the canaries' tokens come out with the head's weights in a random order, so that "
            "they prove nothing",
            hint="train the head for longer, or on more that the base would write otherwise; name to `import` "
            "with --prompt what it was trained on",
        )
    return {"canaries": whole, "shuffled": shuffled}
