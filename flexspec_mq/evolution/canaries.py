"""Canaries as a worker computes them, and manifests, which hold them; ``flexspec head base`` writes the base's own."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from flexspec_mq.errors import UsageError
from flexspec_mq.evolution import offline
from flexspec_mq.heads.manifest import CANARY_SHARE, MANIFEST, Canary, HeadError, Manifest, digest, file_entry
from flexspec_mq.models.cache import whole_folder
from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.head import Head
from flexspec_mq.models.invariance.target import TargetModel, canary_share
from flexspec_mq.models.load import LoadedText, load_text, torch_device, torch_dtype
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.models.text import Turn, encode_turns
from flexspec_mq.models.weights import weights_fingerprint

PROMPTS = (
    "Why is the sky blue?",
    "Name three fruits and say what each tastes like.",
    "A train leaves at nine and arrives at half past eleven. How long does it take?",
    "Write one sentence about the sea.",
)
CANARIES, CANARY_TOKENS = 6, 24
"""Prompts and texts of a head at most, by which a worker tells that it is whole, and tokens of each text."""


def load_base(base: Path, *, dtype: str, device: str = "cpu") -> TargetModel:
    """A base that can hold heads.

    Raises:
        ModelError: it cannot be loaded, or is not built like Llama.
    """
    return Checkpoint(base, load_text(base), torch_dtype(dtype), device=torch_device(device)).load()


def greedy(
    model: TargetModel, prompt: Sequence[int], tokens: int, ends: Sequence[int], head: str = ""
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


def head_canaries(
    model: TargetModel, head: Head, prompts: Sequence[Sequence[int]], ends: Sequence[int]
) -> tuple[Canary, ...]:
    """Texts of a head, on those prompts after which the base would write another text the most.

    Texts that are the base's too prove nothing, and are taken only if there are no others.
    """
    model.hold("head", head)
    tried = [Canary(tuple(prompt), greedy(model, prompt, CANARY_TOKENS, ends, "head")) for prompt in prompts]
    shares = {canary: canary_share(model, "", [canary]) for canary in tried}
    ranked = sorted(shares, key=lambda canary: shares[canary])[:CANARIES]
    return tuple(canary for canary in ranked if shares[canary] < CANARY_SHARE) or tuple(ranked)


def check_floor(floor: int, text: LoadedText) -> int:
    """Return the number of the base's layers, some of which lie above the floor.

    Raises:
        UsageError: none does.
    """
    layers = int(text.config["num_hidden_layers"])
    if not 0 <= floor < layers:
        raise UsageError(f"--floor {floor} leaves no layer of the base's {layers} to a head")
    return layers


def write_manifest(
    folder: Path,
    text: LoadedText,
    fingerprint: str,
    *,
    kind: Literal["base", "lora", "full"],
    floor: int,
    dtype: str,
    canaries: Sequence[Canary],
) -> Manifest:
    """Write the manifest of all files that are in a folder.

    Args:
        folder: folder of the head, in which nothing else is.
        text: text side of the base.
        fingerprint: fingerprint of the base's weights.
        kind: ``kind`` of the `Manifest`.
        floor: the lowest layer that the head may touch.
        dtype: dtype that the version is computed in.
        canaries: texts that must come out.
    """
    manifest = Manifest(
        kind=kind,
        base=fingerprint,
        tokenizer=text.fingerprint.hex(),
        layers=check_floor(floor, text),
        floor=floor,
        dtype=dtype,  # type: ignore[arg-type]
        files=tuple(file_entry(path) for path in sorted(folder.iterdir())),
        canaries=tuple(canaries),
    )
    (folder / MANIFEST).write_bytes(manifest.encode())
    return manifest


def write_base(args: argparse.Namespace) -> int:
    """``flexspec head base``: returns the exit code."""
    base, floor = offline.base_path(args), args.floor
    if args.out.exists():
        raise UsageError(f"{args.out} is there already", hint="name another folder for --out")
    offline.prepare(args)
    text = load_text(base)
    check_floor(floor, text)
    model = load_base(base, dtype=args.dtype)
    canaries = [
        Canary(prompt, greedy(model, prompt, CANARY_TOKENS, text.eos))
        for prompt in encode_prompts(text, PROMPTS)
    ]
    try:
        with whole_folder(args.out) as part:
            manifest = write_manifest(
                part,
                text,
                weights_fingerprint(base),
                kind="base",
                floor=floor,
                dtype=args.dtype,
                canaries=canaries,
            )
    except OSError as error:
        raise HeadError(f"{args.out} cannot be written: {error.strerror}") from error
    offline.print_figures({"head": str(args.out), "digest": digest(manifest.encode()).hex()})
    return 0


def encode_prompts(text: LoadedText, prompts: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of a user's questions, as they are asked of the target."""
    return [
        tuple(encode_turns(text.tokenizer, (Turn("user", prompt),), max_context=text.max_context))
        for prompt in prompts
    ]
