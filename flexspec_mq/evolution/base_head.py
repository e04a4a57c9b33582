"""``flexspec head base``: the base itself as a version, which a family begins with. Importing it imports no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from flexspec_mq.errors import UsageError
from flexspec_mq.evolution import offline
from flexspec_mq.heads.manifest import MANIFEST, Canary, HeadError, Manifest, digest

_PROMPTS = (
    "Why is the sky blue?",
    "Name three fruits and say what each tastes like.",
    "A train leaves at nine and arrives at half past eleven. How long does it take?",
    "Write one sentence about the sea.",
)
_TOKENS = 24
"""Tokens of a canary's text."""


def add_base_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``base``; it sets ``func``, which returns an exit code."""
    base = commands.add_parser(
        "base",
        help="write the manifest of the base itself, the first version of a family",
        description="Write a head's folder without weights: the base as it is, as a version that can be published.",
    )
    base.set_defaults(func=_base)
    about = "checkpoint folder of the base (default: the default model)"
    base.add_argument("--base", default="default", metavar="FOLDER", help=about)
    about = "to write; it must not be there yet"
    base.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=about)
    base.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        default="bfloat16",
        help="that workers compute it in (default: bfloat16)",
    )
    offline.add_numbers(
        base, ("--floor", 6, "LAYER", "lowest layer that heads may touch: the depth of the family's backbone")
    )


def base_manifest(base: Path, *, floor: int, dtype: str) -> Manifest:
    """The base as a version.

    Raises:
        ModelError: the base cannot be read.
        UsageError: it has no layer above the floor.
    """
    from flexspec_mq.evolution.canaries import greedy, load_with_head
    from flexspec_mq.models.head import weights_fingerprint
    from flexspec_mq.models.load import load_text
    from flexspec_mq.models.text import Turn, encode_turns

    text = load_text(base)
    layers = int(text.config["num_hidden_layers"])
    if not 0 <= floor < layers:
        raise UsageError(f"--floor {floor} leaves no layer of the base's {layers} to a head")
    model = load_with_head(base, None, kind="base", dtype=dtype)
    prompts = [
        encode_turns(text.tokenizer, (Turn("user", prompt),), max_context=text.max_context)
        for prompt in _PROMPTS
    ]
    return Manifest(
        kind="base",
        base=weights_fingerprint(base),
        tokenizer=text.fingerprint.hex(),
        layers=layers,
        floor=floor,
        dtype=dtype,  # type: ignore[arg-type]  # one of the choices of --dtype
        canaries=tuple(Canary(prompt, greedy(model, [prompt], _TOKENS, text.eos)[0]) for prompt in prompts),
    )


def _base(args: argparse.Namespace) -> int:
    base = offline.base_path(args)
    if args.out.exists():
        raise UsageError(f"{args.out} is there already", hint="name another folder for --out")
    offline.prepare(args)
    encoded = base_manifest(base, floor=args.floor, dtype=args.dtype).encode()
    try:
        args.out.mkdir(parents=True)
        (args.out / MANIFEST).write_bytes(encoded)
    except OSError as error:
        raise HeadError(f"{args.out} cannot be written: {error.strerror}") from error
    offline.print_figures({"head": str(args.out), "digest": digest(encoded).hex()})
    return 0
