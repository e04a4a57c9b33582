"""Checkpoints of a few kB with random weights, and tokenizers of the two kinds that decode differently."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flexspec_mq.models.default import default_model_path

SPECIAL = ("<unk>", "<s>", "</s>")
TEMPLATE = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ':' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"
)


def byte_level_tokenizer(words: tuple[str, ...] = (), template: str | None = None) -> PreTrainedTokenizerFast:
    """As GPT-2, Llama 3, Qwen and SmolLM2: ids 0-2 special, then 256 bytes, then whole words."""
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    backend = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _finish(backend, template)


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2 and Gemma: pieces with ``▁`` for a blank, ``<0x..>`` for bytes of rare characters."""
    pieces = ["▁", "▁the", "▁a", "cat", "é", "�", "日", "."]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    backend = Tokenizer(
        BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], byte_fallback=True)
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finish(backend, None)


def tiny_llama(vocab_size: int = 300, *, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Two layers of width 16 with random weights from a seed."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **{**sizes, **heads, **ends, **changes}))


def save(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Write both as a checkpoint folder."""
    model.save_pretrained(folder)
    (tokenizer or byte_level_tokenizer()).save_pretrained(folder)
    return folder


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    """Change keys of a JSON file in a folder; None removes one."""

    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text()) | changes
        kept = {key: value for key, value in values.items() if key not in changes or value is not None}
        (folder / name).write_text(json.dumps(kept))

    return change


def edit_tensors(file: str, changes: Mapping[str, torch.Tensor | None]) -> Callable[[Path], None]:
    """Change tensors of a safetensors file in a folder; None removes one."""

    def change(folder: Path) -> None:
        tensors = {**load_file(folder / file), **changes}
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(kept, folder / file, metadata={"format": "pt"})

    return change


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Put a file into a folder."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def _finish(backend: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, unk_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2]
    )
    tokenizer.chat_template = template
    return tokenizer


def save_base(folder: Path, layers: int) -> Path:
    """The lowest layers of the default model, with its tokenizer and template."""
    whole = default_model_path()
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    upper = tuple(f"model.layers.{index}." for index in range(layers, 30))
    tensors = load_file(whole / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(upper)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}), "utf-8")
    return folder
