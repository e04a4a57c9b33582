"""From a checkpoint to the folder that a device needs, whose graphs `graphs` builds.

Only these two modules need torch and the onnx package.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from flexspec_mq.errors import ModelError, UsageError, how_to_install
from flexspec_mq.models.cache import Progress, made_once, models_cache, whole_folder
from flexspec_mq.models.default import default_draft_path
from flexspec_mq.models.draft.artifact import MARKER
from flexspec_mq.models.head import LoraHead
from flexspec_mq.models.onnx.folder import (
    BACKBONE,
    EMBEDDING,
    FORMAT_VERSION,
    GRAPHS_BYTES,
    HEAD,
    IDS,
    KINDS,
    MANIFEST,
    WRITER_VERSION,
    OnnxManifest,
    can_write,
    default_graphs_folder,
    has_graphs,
)
from flexspec_mq.models.onnx.graphs import Backbone, Graph, weights_of
from flexspec_mq.models.tokenizer import ROLES

if TYPE_CHECKING:
    import torch

    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.models.onnx.decoder import Decoder
    from flexspec_mq.models.onnx.offered_decoder import OfferedDecoder
    from flexspec_mq.models.onnx.trimming import Ids

    Floats = npt.NDArray[np.float32]

_BEFORE_ATTENTION, _BEFORE_MLP = "input_layernorm.weight", "post_attention_layernorm.weight"
_QUERY_NORM, _KEY_NORM = "self_attn.q_norm.weight", "self_attn.k_norm.weight"
_SANDWICH = (
    "post_attention_layernorm.weight",
    "pre_feedforward_layernorm.weight",
    "post_feedforward_layernorm.weight",
)
"""Names of the norms behind the attention, before the MLP and behind it, in layers that norm what both of them give."""


WIDE = 32_768
"""Columns from which an LM head is a screened product; that of fewer takes no longer as it is."""


def write_onnx(
    checkpoint: Path,
    out: Path,
    weights: str = "mixed",
    ids: int | None = None,
    lora: LoraHead | None = None,
) -> Path:
    """Write a device's folder, which appears whole or not at all; one that is there is replaced.

    Args:
        checkpoint: checkpoint of a model that `Decoder` knows.
        out: the folder to make.
        weights: kind of the weights, one of `KINDS`.
        ids: how many ids the LM head keeps; 0 is all, None is the usual number where the draft says which are
            frequent.
        lora: additions that are merged into the model's weights.

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
            hint=f"install them, {how_to_install('models,draft,export')}",
        )
    if out.exists() and not (out / MANIFEST).exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty and holds no graphs of a draft", hint="give another folder")
    try:
        with whole_folder(out, replace=True) as work:
            _write(checkpoint, work, weights, ids, lora)
    except OSError as error:
        raise ModelError(f"cannot write the graphs to {out}: {error}") from error
    return out


def default_graphs(say: Progress | None = None) -> Path:
    """Folder of the default draft's graphs in the cache, written if it is not there.

    Args:
        say: told what takes longer than a second.

    Raises:
        ModelError: the default model is not installed, does not fit the difference, or the cache cannot be written.
    """
    folder = default_graphs_folder()
    if has_graphs(folder):
        return folder
    checkpoint, tell = default_draft_path(say), say or (lambda _: None)

    def write() -> None:
        tell("writing the default draft for ONNX Runtime, once")
        write_onnx(checkpoint, folder)

    what = "the default draft for ONNX Runtime"
    return made_once(folder, has_graphs, write, what=what, size=GRAPHS_BYTES, say=tell)


def cached_graphs(checkpoint: Path, say: Progress, head: Path | None = None) -> Path:
    """Folder of a checkpoint's graphs in the cache, written if it is not there.

    Args:
        checkpoint: an ordinary checkpoint folder.
        say: told what takes longer than a second.
        head: folder of a version's head whose LoRA is merged into the weights; the graphs are in it then.

    Raises:
        UnknownModel: graphs cannot be written of such a model.
        ModelError: damaged weights, a LoRA that does not fit, or the cache cannot be written.
    """
    key, size = seen(checkpoint)
    folder = (head or models_cache()) / f"graphs-{key}-onnx{WRITER_VERSION}"

    def write() -> None:
        from flexspec_mq.models.onnx.lora import read_draft_lora

        lora = None if head is None else read_draft_lora(head, checkpoint)
        say(f"writing {checkpoint.name} for ONNX Runtime, once")
        write_onnx(checkpoint, folder, lora=lora)

    return made_once(
        folder, has_graphs, write, what=f"{checkpoint.name} for ONNX Runtime", size=size, say=say
    )


def seen(checkpoint: Path) -> tuple[str, int]:
    """A name of a checkpoint folder as it lies there, 16 hex digits, and its bytes."""
    files = [(file.name, file.stat()) for file in sorted(checkpoint.iterdir()) if file.is_file()]
    facts = str([checkpoint.resolve(), *((name, one.st_size, one.st_mtime_ns) for name, one in files)])
    return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest(), sum(one.st_size for _, one in files)


def _write(checkpoint: Path, work: Path, weights: str, count: int | None, lora: LoraHead | None) -> None:
    from flexspec_mq.models.load import load_text
    from flexspec_mq.models.onnx.decoder import Decoder
    from flexspec_mq.models.onnx.trimming import head_ids

    text = load_text(checkpoint)
    decoder = Decoder(checkpoint, text.config, lora)
    ids = head_ids(checkpoint, decoder.vocab_size, text.eos, count)
    _halves(decoder.tensor("model.embed_tokens.weight")).tofile(work / EMBEDDING)
    write_text(text, work)
    for name in ("generation_config.json", MARKER):
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, work / name)
    write_graphs(decoder, decoder.head_rows(ids), ids, weights, work)


def write_graphs(
    decoder: Decoder | OfferedDecoder, rows: Floats, ids: Ids | None, weights: str, work: Path
) -> None:
    """Write graphs and manifest into a folder that has its embedding.

    Args:
        decoder: sizes and weights.
        rows: rows of the LM head.
        ids: token ids of these rows, ascending; None for all.
        weights: kind of the weights, one of `KINDS`.
        work: the folder.
    """
    backbone_of(decoder, weights).save(work / BACKBONE)
    lm_head(rows, KINDS[weights][1], decoder.logits_softcap).save(work / HEAD)
    if ids is not None:
        np.save(work / IDS, ids.astype(np.int32))
    written = [BACKBONE, weights_of(BACKBONE), HEAD, weights_of(HEAD), EMBEDDING]
    manifest = OnnxManifest(
        format_version=FORMAT_VERSION,
        weights=weights,
        layers=len(decoder.layers),
        width=decoder.width,
        keys=decoder.keys,
        head=decoder.head,
        vocab_size=decoder.vocab_size,
        columns=len(rows),
        rotary=decoder.rotary,
        embedding_scale=decoder.embedding_scale,
        files={name: (work / name).stat().st_size for name in (*written, *([] if ids is None else [IDS]))},
    )
    for file in work.iterdir():
        file.chmod(0o644)
    (work / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")


def write_text(text: LoadedText, work: Path) -> None:
    """Write configuration and tokenizer as transformers has filled them in, so that a device needs it no more."""
    tokenizer = text.tokenizer
    template = tokenizer.chat_template
    settings = {
        **{role: str(token) for role, token in tokenizer.special_tokens_map.items() if role in ROLES},
        "model_max_length": tokenizer.model_max_length,
        "tokenizer_class": "TokenizersBackend",
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"the tokenizer of {text.source} is not of the tokenizers library, which is all that a device has",
            hint="look for a version of the model with a tokenizer.json",
        )
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(work / "tokenizer.json"))
    (work / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    (work / "config.json").write_text(json.dumps(dict(text.config), default=str), "utf-8")
    if template:
        usual = template if isinstance(template, str) else template["default"]
        (work / "chat_template.jinja").write_text(usual, "utf-8")


def backbone_of(decoder: Decoder | OfferedDecoder, weights: str) -> Graph:
    """All layers and the last norm, with weights of a kind of `KINDS`."""
    attention, mlp = KINDS[weights]
    backbone = Backbone(decoder)

    def product(name: str, x: str, few: int, modules: Sequence[str], joined: str = "") -> str:
        weight, bias = decoder.matrix(layer, modules, joined)
        return backbone.graph.product(name, x, weight, few, bias)

    normed = backbone.normed("layer.normed", "embedded", decoder.norm(f"model.layers.0.{_BEFORE_ATTENTION}"))
    for index in range(len(decoder.layers)):
        layer = f"model.layers.{index}."
        apart = [f"self_attn.{part}_proj" for part in "qkv"]
        projected = product(f"projected.{index}", normed, attention, apart, "self_attn.qkv_proj")
        norms = None
        if decoder.has(f"{layer}{_QUERY_NORM}"):
            norms = decoder.norm(f"{layer}{_QUERY_NORM}"), decoder.norm(f"{layer}{_KEY_NORM}")
        attended = backbone.attention(index, projected, norms)
        merged = product(f"merged.{index}", attended, attention, ["self_attn.o_proj"])
        behind, before, after = ("", _BEFORE_MLP, "")
        if decoder.has(f"{layer}{_SANDWICH[-1]}"):
            behind, before, after = _SANDWICH
            merged = backbone.normed(f"merged.{index}.normed", merged, decoder.norm(f"{layer}{behind}"))
        normed = backbone.added(f"between.{index}", merged, decoder.norm(f"{layer}{before}"))
        widened = product(
            f"widened.{index}", normed, mlp, ["mlp.gate_proj", "mlp.up_proj"], "mlp.gate_up_proj"
        )
        narrowed = product(f"narrowed.{index}", backbone.gated(index, widened), mlp, ["mlp.down_proj"])
        if after:
            narrowed = backbone.normed(f"narrowed.{index}.normed", narrowed, decoder.norm(f"{layer}{after}"))
        last = index == len(decoder.layers) - 1
        following = "model.norm.weight" if last else f"model.layers.{index + 1}.{_BEFORE_ATTENTION}"
        normed = backbone.added(f"layer.{index}", narrowed, decoder.norm(following), last=last)
    return backbone.graph


def lm_head(rows: Floats, bits: int, softcap: float) -> Graph:
    """From the last hidden state to logits; with many columns those are precise for a row's likeliest ids only."""
    columns, width = rows.shape
    graph = Graph(width)
    graph.input("state", "float", ["rows", width])
    name = "uncapped" if softcap else "logits"
    weight = rows / softcap if softcap else rows
    if columns >= WIDE and bits < 32:
        graph.screened_product(name, "state", weight)
    else:
        graph.product(name, "state", weight, bits)
    if softcap:
        graph.node("Tanh", [name], ["share"], domain="")
        bound = graph.constant("softcap", np.array(softcap, dtype=np.float32))
        graph.node("Mul", ["share", bound], ["logits"], domain="")
    graph.output("logits", ["rows", columns])
    return graph


def _halves(tensor: torch.Tensor) -> npt.NDArray[np.uint16]:
    """bfloat16 as what numpy has: its 16 bits."""
    import torch

    return tensor.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
