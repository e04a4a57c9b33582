"""From a checkpoint to the folder that a device needs, whose graphs `graphs` builds.

Only these two modules need torch and the onnx package.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from flexspec_mq.errors import ModelError, UsageError, how_to_install
from flexspec_mq.models.cache import Progress, made_once, whole_folder
from flexspec_mq.models.default import default_draft_path
from flexspec_mq.models.draft.artifact import MARKER, TOKENIZER_FILES
from flexspec_mq.models.onnx.folder import (
    BACKBONE,
    EMBEDDING,
    FORMAT_VERSION,
    GRAPHS_BYTES,
    HEAD,
    IDS,
    MANIFEST,
    OnnxManifest,
    can_write,
    default_graphs_folder,
    has_graphs,
)
from flexspec_mq.models.onnx.graphs import Backbone, Graph, weights_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    import torch

    from flexspec_mq.models.compact.tensors import Tensors
    from flexspec_mq.models.shape import Shape

    Floats = npt.NDArray[np.float32]

KINDS = {"mixed": (8, 4), "int8": (8, 8), "int4": (4, 4)}
"""Bits of a weight in the attention, and in MLPs and LM head."""


def write_onnx(checkpoint: Path, out: Path, weights: str = "mixed", ids: int | None = None) -> Path:
    """Write a device's folder, which appears whole or not at all; one that is there is replaced.

    Args:
        checkpoint: checkpoint of a model that the compact engine knows.
        out: the folder to make.
        weights: kind of the weights, one of `KINDS`.
        ids: how many ids the LM head keeps; 0 is all, None is the usual number where the draft says which are
            frequent.

    Returns:
        `out`.

    Raises:
        ModelError: a model that is built otherwise, damaged weights, a folder that holds something else or cannot be
            written, or packages that are missing.
        UsageError: weights of an unknown kind.
    """
    if weights not in KINDS:
        raise UsageError(f"unknown weights {weights!r}", hint=f"choose one of {', '.join(KINDS)}")
    if not can_write():
        raise ModelError(
            "writing graphs of ONNX needs onnx, torch, transformers and safetensors",
            hint=f"install them, {how_to_install('models,edge,export')}",
        )
    if out.exists() and not (out / MANIFEST).exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty and holds no graphs of a draft", hint="give another folder")
    try:
        with whole_folder(out, replace=True) as work:
            _write(checkpoint, work, weights, ids)
    except OSError as error:
        raise ModelError(f"cannot write the graphs to {out}: {error}") from error
    return out


def default_graphs(say: Progress | None = None) -> Path | None:
    """Folder of the default draft's graphs in the cache, written if it is not there; None where neither can be had.

    Args:
        say: told what takes longer than a second.

    Raises:
        ModelError: the default model is not installed, does not fit the difference, or the cache cannot be written.
    """
    folder = default_graphs_folder()
    if has_graphs(folder):
        return folder
    if not can_write():
        return None
    checkpoint, tell = default_draft_path(say), say or (lambda _: None)

    def write() -> None:
        tell("writing the default draft for ONNX Runtime, once")
        write_onnx(checkpoint, folder)

    what = "the default draft for ONNX Runtime"
    return made_once(folder, has_graphs, write, what=what, size=GRAPHS_BYTES, say=tell)


def _write(checkpoint: Path, work: Path, weights: str, count: int | None) -> None:
    from flexspec_mq.models.compact.model import head_ids
    from flexspec_mq.models.compact.tensors import Tensors
    from flexspec_mq.models.load import load_text
    from flexspec_mq.models.shape import Shape

    text = load_text(checkpoint)
    shape = Shape.from_config(text.config)
    ids = head_ids(checkpoint, shape, text.eos, count)
    attention, rest = KINDS[weights]
    tensors = Tensors(checkpoint)
    tensors.check(shape)
    whole = (shape.vocab_size, shape.width)
    _backbone(tensors, shape, (attention, rest)).save(work / BACKBONE)
    embedding = tensors.read("model.embed_tokens.weight", whole)
    head = embedding if shape.tied else tensors.read("lm_head.weight", whole)
    rows = _floats(head if ids is None else head[ids])
    _halves(embedding).tofile(work / EMBEDDING)
    _head(rows, rest).save(work / HEAD)
    if ids is not None:
        np.save(work / IDS, ids.astype(np.int32))
    for name in ("config.json", *TOKENIZER_FILES, MARKER):
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, work / name)
    written = [BACKBONE, weights_of(BACKBONE), HEAD, weights_of(HEAD), EMBEDDING]
    manifest = OnnxManifest(
        format_version=FORMAT_VERSION,
        weights=weights,
        layers=shape.layers,
        width=shape.width,
        keys=shape.keys,
        head=shape.head,
        vocab_size=shape.vocab_size,
        columns=len(rows),
        speeds=shape.speeds,
        files={name: (work / name).stat().st_size for name in (*written, *([] if ids is None else [IDS]))},
    )
    for file in work.iterdir():
        file.chmod(0o644)
    (work / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")


def _backbone(tensors: Tensors, shape: Shape, bits: tuple[int, int]) -> Graph:
    """All layers and the last norm."""
    from flexspec_mq.models.compact.tensors import FIRST_NORM, NORM, SECOND_NORM, layer_prefix, layer_weights

    attention, mlp = bits
    backbone = Backbone(shape)

    def norm(name: str) -> Floats:
        return _floats(tensors.read(name, (shape.width,)))

    normed = backbone.first_norm(norm(f"{layer_prefix(0)}{FIRST_NORM}"))
    for index in range(shape.layers):
        weights = layer_weights(tensors, index, shape)

        def product(name: str, matrix: str, x: str, few: int) -> str:
            weight, bias = weights[matrix]  # noqa: B023  called in this turn
            return backbone.graph.product(
                name, x, _floats(weight), few, None if bias is None else _floats(bias)
            )

        projected = product(f"projected.{index}", "project", normed, attention)
        merged = product(f"merged.{index}", "merge", backbone.attention(index, projected), attention)
        normed = backbone.added(f"between.{index}", merged, norm(f"{layer_prefix(index)}{SECOND_NORM}"))
        gated = backbone.gated(index, product(f"widened.{index}", "widen", normed, mlp))
        narrowed = product(f"narrowed.{index}", "narrow", gated, mlp)
        last = index == shape.layers - 1
        following = NORM if last else f"{layer_prefix(index + 1)}{FIRST_NORM}"
        normed = backbone.added(f"layer.{index}", narrowed, norm(following), last=last)
    return backbone.graph


def _head(rows: Floats, bits: int) -> Graph:
    graph = Graph()
    columns, width = rows.shape
    graph.input("state", "float", ["rows", width])
    graph.product("logits", "state", rows, bits)
    graph.output("logits", ["rows", columns])
    return graph


def _floats(tensor: torch.Tensor) -> Floats:
    array: Floats = tensor.float().numpy()
    return array


def _halves(tensor: torch.Tensor) -> npt.NDArray[np.uint16]:
    """bfloat16 as what numpy has: its 16 bits."""
    import torch

    return tensor.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
