"""A tiny base and random text to train drafts on, and the commands that do."""

import argparse
import itertools
from collections.abc import Callable

import numpy as np
import torch
from transformers import LlamaForCausalLM

from tests.models.tiny_checkpoints import tiny_llama
from training.commands.draft import add_parser
from training.draft.rows import TextRows

VOCABULARY, WIDTH = 97, 32


def tiny_base(
    vocabulary: int = VOCABULARY, seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> LlamaForCausalLM:
    """Four layers with weights that make a difference."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 4, **heads}
    base = tiny_llama(vocabulary, seed=seed, tie_word_embeddings=True, initializer_range=0.3, **sizes)
    torch.nn.Module.to(base, dtype)
    return base.requires_grad_(requires_grad=False)


def some_text(
    rows: int = 120, seed: int = 0, vocabulary: int = VOCABULARY, prompts: tuple[int, int] = (1, 5)
) -> TextRows:
    rng = np.random.default_rng(seed)
    length = rng.integers(8, 24, rows)
    return TextRows(
        ids=rng.integers(0, vocabulary, int(length.sum()), dtype=np.int64),
        start=np.cumsum([0, *length], dtype=np.int64),
        prompt_len=rng.integers(*prompts, rows).astype(np.int32),
        temperature=np.zeros(rows, dtype=np.float32),
    )


def stop_after(questions: int) -> Callable[[], bool]:
    """An answer to "is it time to stop?": no so many times, then yes."""
    asked = itertools.count()
    return lambda: next(asked) >= questions


def run_draft(*arguments: object) -> int:
    """``flexspec draft`` with these arguments; errors are raised."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["draft", *map(str, arguments)])
    return int(args.func(args))
