"""Canaries as a worker computes them; ``flexspec head base`` writes those of the base itself, which is a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.errors import UsageError
from flexspec_mq.evolution import offline
from flexspec_mq.heads.manifest import MANIFEST, Canary, HeadError, Manifest, digest
from flexspec_mq.models.checkpoint import weights_fingerprint
from flexspec_mq.models.load import load_target, load_text
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.models.text import Turn, encode_turns

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

_PROMPTS = (
    "Why is the sky blue?",
    "Name three fruits and say what each tastes like.",
    "A train leaves at nine and arrives at half past eleven. How long does it take?",
    "Write one sentence about the sea.",
)
_TOKENS = 24
"""Tokens of a canary's text."""


def load_base(base: Path, *, dtype: str, device: str = "cpu") -> PackedModel:
    """A base that can hold heads.

    Raises:
        ModelError: it cannot be loaded.
    """
    loaded = load_target(base, dtype=dtype, device=device, attn_implementation=register())
    return PackedModel(loaded.model)


def greedy(
    model: PackedModel, prompt: Sequence[int], tokens: int, ends: Sequence[int], head: str = ""
) -> tuple[int, ...]:
    """Write greedily, up to a token that ends a text.

    Args:
        model: a base, with the heads that it holds.
        prompt: token ids.
        tokens: most tokens of the text.
        ends: ids that end a text.
        head: name of the head that writes; empty is the base.
    """
    kv, unread, text = model.new_kv(), list(prompt), list[int]()
    while len(text) < tokens and not (text and text[-1] in ends):
        logits = model.forward([ModelInput(kv, unread, 1, head)])
        unread = [int(logits[-1].argmax())]
        text += unread
    return tuple(text)


def write_base(args: argparse.Namespace) -> int:
    """``flexspec head base``: returns the exit code."""
    base, floor = offline.base_path(args), args.floor
    if args.out.exists():
        raise UsageError(f"{args.out} is there already", hint="name another folder for --out")
    offline.prepare(args)
    text = load_text(base)
    layers = int(text.config["num_hidden_layers"])
    if not 0 <= floor < layers:
        raise UsageError(f"--floor {floor} leaves no layer of the base's {layers} to a head")
    model = load_base(base, dtype=args.dtype)
    prompts = [
        encode_turns(text.tokenizer, (Turn("user", prompt),), max_context=text.max_context)
        for prompt in _PROMPTS
    ]
    encoded = Manifest(
        kind="base",
        base=weights_fingerprint(base),
        tokenizer=text.fingerprint.hex(),
        layers=layers,
        floor=floor,
        dtype=args.dtype,
        canaries=tuple(Canary(prompt, greedy(model, prompt, _TOKENS, text.eos)) for prompt in prompts),
    ).encode()
    try:
        args.out.mkdir(parents=True)
        (args.out / MANIFEST).write_bytes(encoded)
    except OSError as error:
        raise HeadError(f"{args.out} cannot be written: {error.strerror}") from error
    offline.print_figures({"head": str(args.out), "digest": digest(encoded).hex()})
    return 0
