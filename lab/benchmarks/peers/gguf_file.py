"""A checkpoint folder of a model built like Llama as a GGUF file, in the number formats that llama.cpp reads.

``python -m lab.benchmarks.peers.gguf_file FILE [--target FOLDER] [--form BF16]`` writes one.
"""

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError, how_to_install
from flexspec_mq.models.load import find_model

FORMATS = ("BF16", "Q8_0", "Q4_1")
"""Formats of the matrices. A vector is always float32."""

Floats = npt.NDArray[np.float32]


class CannotConvertError(Exception):
    """The model cannot be written as GGUF; says why."""


def write_gguf(folder: Path, path: Path, form: str) -> None:
    """Write all of a checkpoint, its tokenizer's words included, into one file.

    Args:
        folder: folder with ``config.json``, ``tokenizer.json`` and safetensors.
        path: appears whole or not at all.
        form: a format of `FORMATS`. Q4_1 keeps the embedding, which is the LM head as well, in Q8_0.

    Raises:
        CannotConvertError: not built like Llama.
    """
    import gguf

    config = json.loads((folder / "config.json").read_text("utf-8"))
    if not is_plain_llama(config):
        raise CannotConvertError("only a Llama without biases is written as GGUF here")
    part = path.with_suffix(f".part-{os.getpid()}")
    writer = gguf.GGUFWriter(part, "llama")
    _facts(writer, config, folder)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{form}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for theirs, values in tensors(folder, config):
        name = names.get_name(theirs, try_suffixes=(".weight",))
        if name is None:
            raise CannotConvertError(f"GGUF has no name for {theirs}")
        kind = gguf.GGMLQuantizationType[tensor_format(name, values.shape, form)]
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def is_plain_llama(config: dict[str, Any]) -> bool:
    """Whether a configuration says that nothing is added to Llama's layers."""
    rope = config.get("rope_parameters") or {}
    return (
        config.get("model_type") == "llama"
        and not (config.get("attention_bias") or config.get("mlp_bias") or config.get("rope_scaling"))
        and rope.get("rope_type", "default") == "default"
    )


def tensor_format(name: str, shape: tuple[int, ...], form: str) -> str:
    """How one tensor is written.

    Raises:
        CannotConvertError: rows that blocks of 32 do not fill.
    """
    if len(shape) < 2:
        return "F32"
    if form.startswith("Q") and shape[-1] % 32:
        raise CannotConvertError(f"{form} holds blocks of 32 values, a row of {name} has {shape[-1]}")
    return "Q8_0" if form == "Q4_1" and name in {"token_embd.weight", "output.weight"} else form


def tensors(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, Floats]]:
    """Every tensor in float32, with queries and keys in llama.cpp's order of rows."""
    from safetensors import safe_open

    heads = config["num_attention_heads"]
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in sorted(opened.keys()):
                values = opened.get_tensor(name).to(torch.float32).numpy()
                if name.endswith("q_proj.weight"):
                    values = interleaved_halves(values, heads)
                elif name.endswith("k_proj.weight"):
                    values = interleaved_halves(values, config.get("num_key_value_heads") or heads)
                yield name, values


def interleaved_halves(rows: Floats, heads: int) -> Floats:
    """Rows of q or k [heads * size, columns] from "first halves, then second halves" of each head to pairs.

    transformers turns the value i of a head with the value i + size / 2, llama.cpp the value 2 i with 2 i + 1.
    """
    size = rows.shape[0] // heads
    pairs = rows.reshape(heads, 2, size // 2, rows.shape[1]).swapaxes(1, 2)
    return np.ascontiguousarray(pairs.reshape(rows.shape))


def _facts(writer: Any, config: dict[str, Any], folder: Path) -> None:
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    writer.add_name(folder.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    _words(writer, config, folder)


def _words(writer: Any, config: dict[str, Any], folder: Path) -> None:
    """The tokenizer: its words, and how a conversation becomes a prompt."""
    import gguf

    read = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    words = {index: word for word, index in read["model"]["vocab"].items()}
    special = {one["id"]: one["content"] for one in read["added_tokens"]}
    words.update(special)
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([words.get(index, f"[UNUSED {index}]") for index in range(config["vocab_size"])])
    writer.add_token_types(
        [
            kinds.CONTROL if index in special else kinds.NORMAL if index in words else kinds.UNUSED
            for index in range(config["vocab_size"])
        ]
    )
    merges = read["model"].get("merges") or [[words[0], words[1]]]  # llama.cpp wants one at least
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_bos_token_id(config.get("bos_token_id") or 0)
    eos = config.get("eos_token_id")
    writer.add_eos_token_id((eos[0] if isinstance(eos, list) else eos) or 0)
    writer.add_add_bos_token(value=False)
    template = folder / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text("utf-8"))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    made = ArgumentParser(
        prog="python -m lab.benchmarks.peers.gguf_file", description=(__doc__ or "").partition("\n")[0]
    )
    made.add_argument("file", type=Path, help="appears whole or not at all")
    made.add_argument("--target", default="default", help="checkpoint folder, or 'default'")
    made.add_argument("--form", choices=FORMATS, default="BF16", help="of the matrices")
    return run_main(lambda arguments: _convert(made.parse_args(arguments)), argv)


def _convert(options: Namespace) -> int:
    folder = find_model(options.target)
    if not isinstance(folder, Path):
        raise UsageError(f"{folder} is no folder", hint="only checkpoint folders are converted")
    if not options.file.parent.is_dir():
        raise UsageError(f"{options.file.parent} is no folder", hint="make it, or name another file")
    if util.find_spec("gguf") is None:
        raise UsageError(
            "gguf, which writes such files, is not installed", hint=f"install it, {how_to_install('gguf')}"
        )
    write_gguf(folder, options.file, options.form)
    return 0


if __name__ == "__main__":
    sys.exit(main())
