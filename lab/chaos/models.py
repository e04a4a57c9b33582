"""A random target of two layers that writes words of three letters, and a draft that is right about three of four.

It also has the characters of ASCII as tokens, which it seldom takes by itself: grammars have it write JSON in them.
"""

import random
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flexspec_mq.models.onnx.write import write_onnx

_SPECIAL = ("<unk>", "<s>", "</s>")
_LETTERS = "aeiou", "bdgklmnprst", "aeiou"
_CONTEXT = 2048
_NOISE = 0.04
_SPREAD = 0.2
"""Standard deviation of weights, as if it were trained: with the usual one all words are about as likely."""


def tiny_pair(folder: Path) -> tuple[Path, Path, Path]:
    """Write a target, its draft, and the draft as a device runs it."""
    target, draft = _checkpoint(folder / "target", 0.0), _checkpoint(folder / "draft", _NOISE)
    return target, draft, write_onnx(draft, folder / "graphs", "float32", 0)


def tiny_prompts(rng: random.Random, many: int) -> list[list[int]]:
    """Random words."""
    last = len(_SPECIAL) + len(list(product(*_LETTERS))) - 1
    return [[rng.randint(len(_SPECIAL), last) for _ in range(rng.choice((3, 20, 60)))] for _ in range(many)]


def _checkpoint(folder: Path, noise: float) -> Path:
    words = ["Ġ" + "".join(letters) for letters in product(*_LETTERS)]
    tokens = [*_SPECIAL, *words, "Ġ", *map(chr, range(ord("!"), ord("~") + 1))]
    backend = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    bounds = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, **bounds)  # type: ignore[no-untyped-call]
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=_CONTEXT,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * _SPREAD)
        head = model.get_parameter("lm_head.weight")
        head.add_(torch.randn(head.shape, generator=generator), alpha=noise)
        head[:2] = 0.0
        head[len(_SPECIAL) + len(words) :] *= 0.1
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
