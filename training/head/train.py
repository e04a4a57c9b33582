"""``flexspec head train``: tune a base's upper layers on chats, and write a head. Importing it imports no torch."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.daemon.main import run_subcommand
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution import offline
from flexspec_mq.heads.manifest import Canary, Manifest, digest
from training import cli_common

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    import torch

    from flexspec_mq.models.load import LoadedText
    from training.head.chats import ChatRow
    from training.head.tuning import TuneConfig, Tuner

log = logging.getLogger(__name__)

SAVE_SECONDS = 120.0
LONGEST_CANARY_PROMPT = 256
_CANDIDATES = 3
"""Prompts that are tried for one canary."""


def main(argv: Sequence[str]) -> int:
    """``flexspec head train``: returns the exit code."""
    return run_subcommand(add_train_parser, "train", argv, prog="flexspec head", extras="models")


def add_train_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``train``; it sets ``func``, which returns an exit code."""
    train = commands.add_parser(
        "train",
        help="tune a head on chats",
        description="Tune layers of a base from the family's floor on, by LoRA or in whole, and write a head: a "
        "folder with weights and their manifest. Ctrl-C stops it; it goes on where it stopped when the same command "
        "is given again. docs/evolution.md is the guide.",
    )
    train.set_defaults(func=_train)
    add = train.add_argument
    about_base = "checkpoint folder of the base (default: the default model)"
    add("--base", default="default", metavar="FOLDER", help=about_base)
    about_data = 'JSON lines: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}]}'
    cli_common.add_path(train, "--data", "FILE", about_data, required=True)
    cli_common.add_path(
        train, "--out", "FOLDER", "the head to write; the state to resume from goes beside it", required=True
    )
    add("--full", action="store_true", help="tune all weights of the layers instead of LoRA")
    add(
        "--modules",
        nargs="+",
        default=["q_proj", "v_proj"],
        metavar="NAME",
        help="projections that get LoRA: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj "
        "(default: q_proj v_proj)",
    )
    add("--norm", action="store_true", help="tune the final norm as well")
    add("--lm-head", action="store_true", help="tune the LM head as well: by LoRA, or with --full in whole")
    about_dtype = "type of numbers that the version is computed in (default: bfloat16)"
    add("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help=about_dtype)
    add(
        "--device",
        default="cpu",
        metavar="DEVICE",
        help="device to train on: cpu, cuda, cuda:1 (default: cpu)",
    )
    offline.add_numbers(
        train,
        ("--floor", 6, "LAYER", "lowest layer that is touched: the depth of the family's backbone"),
        ("--rank", 8, "N", "rank of LoRA's matrices"),
        ("--alpha", 16, "N", "LoRA's scaling is this over the rank"),
        ("--steps", 200, "N", "steps of the optimizer"),
        ("--step-tokens", 1024, "TOKENS", "tokens of a step at most, prompts included"),
        ("--max-tokens", 512, "TOKENS", "tokens of a row at most; longer ones are cut"),
        ("--learning-rate", 1e-3, "RATE", "peak of AdamW's rate"),
        ("--seed", 0, "N", "seed of LoRA's first matrices and of the order of chats"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Inputs and outputs of a training, and what belongs to a head beside its tuning.

    Attributes:
        base: Checkpoint folder of the base.
        data: File of the chats.
        out: Folder of the head; must not exist.
        dtype: Type of numbers that the version is computed in.
        device: Device to train on.
        max_tokens: Tokens of a row at most; longer ones are cut.
    """

    base: Path
    data: Path
    out: Path
    dtype: str = "bfloat16"
    device: str = "cpu"
    max_tokens: int = 512

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            UsageError: says what would do.
        """
        if self.max_tokens < 2:
            raise UsageError("a row needs two tokens")

    @property
    def state(self) -> Path:
        """File from which a training is resumed."""
        return self.out.with_name(self.out.name + ".state")


def train_head(
    config: TuneConfig, options: TrainOptions, should_stop: Callable[[], bool] = lambda: False
) -> Manifest | None:
    """Tune, or go on tuning, and write the head.

    Args:
        config: how to tune.
        options: files, and what else belongs to the head.
        should_stop: asked between steps.

    Returns:
        The head's manifest, or None if it was stopped; the state is saved then.

    Raises:
        ModelError: the base cannot be used.
        UsageError: the data cannot be used, or the head is there already.
    """
    from flexspec_mq.models.load import load_text
    from flexspec_mq.models.weights import weights_fingerprint
    from training.draft.train import Stopped
    from training.head.chats import read_chats, rows_of

    if options.out.exists():
        raise UsageError(f"{options.out} is there already", hint="name another folder, or remove it")
    text = load_text(options.base)
    rows = rows_of(text, read_chats(options.data), options.max_tokens)
    fingerprint = weights_fingerprint(options.base)
    tuner = _tuner(config, options, rows)
    key = f"{fingerprint} {hashlib.sha256(options.data.read_bytes()).hexdigest()} {options.max_tokens} {options.dtype}"
    if options.state.exists():
        tuner.resume(options.state, key)
    try:
        _run(tuner, should_stop, lambda: tuner.save(options.state, key))
    except Stopped:
        tuner.save(options.state, key)
        return None
    manifest = _write(text, tuner, options, rows, fingerprint)
    options.state.unlink(missing_ok=True)
    return manifest


def _tuner(config: TuneConfig, options: TrainOptions, rows: Sequence[ChatRow]) -> Tuner:
    from flexspec_mq.models.load import load_target, torch_dtype
    from training.head.tuning import Tuner

    # Weights that are tuned themselves need all of their bits.
    dtype = "float32" if config.kind == "full" else options.dtype
    model = load_target(options.base, dtype=dtype, device=options.device).model
    return Tuner(model, torch_dtype(options.dtype), rows, config)


def _run(tuner: Tuner, should_stop: Callable[[], bool], save: Callable[[], None]) -> None:
    steps, first, before = tuner.config.steps, tuner.step, tuner.seconds
    saved = time.monotonic()

    def line() -> str:
        left = (tuner.seconds - before) / (tuner.step - first) * (steps - tuner.step)
        return (
            f"step {tuner.step} of {steps}, loss {tuner.loss:.3f}, {tuner.seconds:.0f} s, {left:.0f} s left"
        )

    def on_step() -> None:
        nonlocal saved
        show(tuner.step / steps, line)
        if time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()

    with cli_common.progress_bar() as show:
        tuner.run(on_step, should_stop)
    log.info("tuned %d steps in %.0f s, loss %.3f", tuner.step, tuner.seconds, tuner.loss)


def _write(
    text: LoadedText, tuner: Tuner, options: TrainOptions, rows: Sequence[ChatRow], fingerprint: str
) -> Manifest:
    """Weights first, then canaries from what was written, then the manifest; the folder appears whole."""
    from flexspec_mq.evolution.canaries import write_manifest
    from flexspec_mq.models.cache import whole_folder
    from flexspec_mq.models.load import torch_dtype

    config = tuner.config
    with whole_folder(options.out) as part:
        save_weights(part, tuner, torch_dtype(options.dtype), text.name)
        canaries = _canaries(part, text, config, options, rows)
        return write_manifest(
            part,
            text,
            fingerprint,
            kind=config.kind,
            floor=config.floor,
            dtype=options.dtype,
            canaries=canaries,
        )


def save_weights(folder: Path, tuner: Tuner, dtype: torch.dtype, base_name: str) -> None:
    """Write what was tuned: a PEFT adapter directory, or tensors with the base's names.

    Args:
        folder: folder to write into.
        tuner: at the end of its training; its weights are rounded.
        dtype: dtype of the stored tensors.
        base_name: name of the base in the adapter's configuration; only people read it.
    """
    from safetensors.torch import save_file

    from flexspec_mq.models.checkpoint import quiet_transformers
    from flexspec_mq.models.head_files import FULL

    for parameter in tuner.tuned.values():
        parameter.data = parameter.data.to(dtype)
    if tuner.peft is None:
        tensors = {name: p.detach().cpu().contiguous() for name, p in tuner.tuned.items()}
        save_file(tensors, folder / FULL, metadata={"format": "pt"})
    else:
        tuner.peft.peft_config["default"].base_model_name_or_path = base_name
        with quiet_transformers():
            # The embedding is tied to the LM head and would be saved in whole.
            tuner.peft.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)


def _canaries(
    head: Path, text: LoadedText, config: TuneConfig, options: TrainOptions, rows: Sequence[ChatRow]
) -> tuple[Canary, ...]:
    """Texts of the head on prompts of the data, where the base would write another text the most."""
    from flexspec_mq.evolution.canaries import CANARIES, head_canaries, load_base
    from flexspec_mq.models.head_files import read_weights
    from flexspec_mq.models.shape import Shape

    prompts = sorted({row.ids[: row.prompt] for row in rows if row.prompt <= LONGEST_CANARY_PROMPT})
    wanted = CANARIES * _CANDIDATES
    prompts = prompts[:: max(1, len(prompts) // wanted)][:wanted]
    if not prompts:
        raise UsageError(f"the data has no prompt of at most {LONGEST_CANARY_PROMPT} tokens for the canaries")
    shape = Shape.from_config(text.config)
    model = load_base(options.base, dtype=options.dtype, device=options.device)
    return head_canaries(model, read_weights(head, config.kind, shape, config.floor), prompts, text.eos)


def _train(args: argparse.Namespace) -> int:
    from training.head.tuning import TuneConfig

    config = cli_common.from_flags(TuneConfig, args, kind="full" if args.full else "lora")
    options = cli_common.from_flags(TrainOptions, args, base=offline.base_path(args))
    offline.prepare(args)
    with cli_common.interruptible() as stop:
        manifest = train_head(config, options, stop.is_set)
    if manifest is None:
        return cli_common.stopped(args.out)
    size = sum(file.size for file in manifest.files)
    offline.print_figures({"head": str(args.out), "digest": digest(manifest.encode()).hex(), "bytes": size})
    return 0
