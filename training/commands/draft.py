"""``flexspec draft``, and its commands that train and export. Importing it imports no torch."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flexspec_mq.daemon.main import run_subcommand
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution import offline
from training.commands import collect, flags, measure

_NUMBERS: tuple[tuple[str, int | float, str, str], ...] = (
    ("--step-tokens", 1024, "TOKENS", "answer tokens per optimizer step, at most"),
    ("--learning-rate", 2e-3, "RATE", "peak of AdamW's rate"),
    ("--hybrid-from", 0.5, "SHARE", "share of the budget (0-1) after which total variation joins the loss"),
    ("--common-ids", 8192, "IDS", "ids of the LM head that every step sees; 0 uses the whole head always"),
    ("--extra-ids", 2048, "IDS", "other ids, drawn anew in every step, that stand for the rest"),
    ("--full-from", 0.9, "SHARE", "share of the budget (0-1) after which steps use the whole LM head"),
    ("--first-rows", 512, "ROWS", "rows in the first pass; each pass takes twice as many as the last"),
    ("--collect-until", 0.6, "SHARE", "share of the budget (0-1) after which no more states are collected"),
    ("--save-minutes", 5.0, "MIN", "minutes between saved states"),
    ("--history-steps", 10, "N", "steps from one line of the history to the next"),
    (
        "--calibration-rows",
        60,
        "ROWS",
        "held-out rows that the confidence is fitted to at the end; 0 for none",
    ),
    ("--seed", 0, "N", "of the order of rows and the draw of ids"),
)
LAYERS, BLOCKS = 6, 8
"""The shape of a draft from nothing."""


def main(argv: Sequence[str]) -> int:
    """``flexspec draft``: returns the exit code."""
    return run_subcommand(add_parser, "draft", argv, extras="models")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``draft`` with its commands; each sets ``func``, which returns an exit code."""
    draft = subparsers.add_parser(
        "draft",
        help="make, measure or export a draft model",
        description="A draft is the base's first layers, trained blocks and norm, and the base's own LM "
        "head. It is trained once and serves every later version of the target. docs/models.md is the guide.",
    )
    commands = draft.add_subparsers(required=True, metavar="COMMAND")
    collect.add_parser(commands)
    _add_train(commands)
    measure.add_parsers(commands)
    _add_export(commands)


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser(
        "train",
        help="train a draft for a base model",
        description="Distil a draft from text that the target wrote itself. Ctrl-C stops it; it goes on "
        "where it stopped when the same command is given again.",
    )
    train.set_defaults(func=_train)
    flags.add_base(train)
    about_text = "target-written rows, as `flexspec draft collect` writes them; several files are joined"
    offline.add_path(train, "--text", "FILE", about_text, required=True, many=True)
    flags.add_head(
        train, "the draft is for that version of the base, which wrote the text, and not for all of them"
    )
    about_cache = "where the teacher's states go: 4 bytes x width per token (2.3 kB at width 576)"
    offline.add_path(train, "--cache", "FOLDER", about_cache, required=True)
    about_out = (
        "the delta to write (.safetensors); the state to resume from, history and picture go beside it"
    )
    offline.add_path(train, "--out", "FILE", about_out, required=True)
    add = train.add_argument
    about_layers = (
        f"backbone layers kept from the base (default: {LAYERS}, with --from-delta the earlier draft's)"
    )
    add("--layers", type=int, metavar="N", help=about_layers)
    add("--blocks", type=int, metavar="M", help=f"trained blocks on top of the backbone (default: {BLOCKS})")
    about_start = (
        "which layers of the base the blocks start as copies of: evenly spread over those above the "
        "backbone, those that follow it, or the last ones; or a list such as 9,14,20,29, counted from 0, bottom up "
        "(default: spread)"
    )
    add("--start-from", metavar="spread|next|last|LIST", help=about_start)
    about_earlier = (
        "go on from an earlier draft of the same base, with another text or a smaller backbone: its blocks are "
        "trained further, and below them the layers that --layers leaves out of its backbone"
    )
    offline.add_path(train, "--from-delta", "FILE", about_earlier)
    add("--minutes", type=float, metavar="MIN", help="time budget, collecting included, resumptions summed")
    add("--steps", type=int, metavar="N", help="budget in optimizer steps; makes the outcome reproducible")
    about_temperatures = (
        "at which the loss compares both models, one step after another: lower ones weigh the likeliest "
        "tokens more"
    )
    flags.add_temperatures(train, about_temperatures, 1.0)
    about_prompts = "token of a row from which its prompt is trained on as well (default: answers only)"
    add("--prompts-from", type=int, metavar="POSITION", help=about_prompts)
    offline.add_numbers(train, *_NUMBERS)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export",
        help="write the stand-alone checkpoint that a device loads",
        description="Join base and delta to an ordinary checkpoint folder, or with --onnx to graphs that ONNX "
        "Runtime runs without torch and transformers. A device needs nothing else.",
    )
    export.set_defaults(func=_export)
    flags.add_base(export)
    flags.add_delta(export)
    offline.add_path(export, "--out", "FOLDER", "the folder to make", required=True)
    add = export.add_argument
    add("--onnx", action="store_true", help="write graphs for ONNX Runtime, and no checkpoint")
    about_weights = "with --onnx: mixed is 4 bits in MLPs and LM head and 8 in the attention (default: mixed)"
    add("--weights", choices=("mixed", "int8", "int4"), help=about_weights)
    about_ids = (
        "with --onnx: how many of the most frequent token ids the LM head keeps; 0 is all (default: 16384)"
    )
    add("--ids", type=int, metavar="N", help=about_ids)


def _train(args: argparse.Namespace) -> int:
    if args.minutes is None and args.steps is None:
        raise UsageError("the training needs a budget", hint="give --minutes or --steps")
    if not min(args.temperatures) > 0:
        raise UsageError(
            f"--temperatures {min(args.temperatures):g} is not above 0", hint="0.5 stands for low ones"
        )
    from training.draft.schedule import TrainConfig
    from training.draft.session import Saving, TrainFiles, train_draft

    base = offline.base_path(args)
    n, start = _shape(args, base)
    config = TrainConfig(
        n=n,
        start=start,
        max_steps=args.steps,
        max_seconds=None if args.minutes is None else args.minutes * 60,
        step_tokens=args.step_tokens,
        prompts_from=args.prompts_from,
        learning_rate=args.learning_rate,
        temperatures=tuple(args.temperatures),
        hybrid_from=args.hybrid_from,
        common_ids=args.common_ids,
        extra_ids=args.extra_ids,
        full_from=args.full_from,
        first_rows=args.first_rows,
        collect_until=args.collect_until,
        seed=args.seed,
    )
    files = TrainFiles(base, tuple(args.text), args.cache, args.out, args.from_delta, args.head)
    saving = Saving(args.save_minutes * 60, args.history_steps, args.calibration_rows)
    offline.prepare(args)
    with offline.interruptible() as stop:
        result = train_draft(files, config, saving, stop.is_set)
    if result is None:
        return offline.stopped(args.out)
    offline.print_figures(result.figures())
    return 0


def _shape(args: argparse.Namespace, base: Path) -> tuple[int, tuple[int, ...]]:
    """Backbone layers, and the base's layers that the blocks start as copies of, bottom up.

    Raises:
        UsageError: ``--layers``, ``--blocks``, ``--start-from`` and ``--from-delta`` do not fit together.
        ModelError: The base has not these layers, or cannot be read.
    """
    from flexspec_mq.models.draft.artifact import read_config

    if args.from_delta is not None:
        return _shape_of_earlier(args)
    n = LAYERS if args.layers is None else args.layers
    return n, _start(args, n, int(read_config(base)["num_hidden_layers"]))


def _start(args: argparse.Namespace, n: int, depth: int) -> tuple[int, ...]:
    from training.draft.architecture import check_start, start_layers

    how = args.start_from or "spread"
    if how in {"spread", "next", "last"}:
        return start_layers(n, BLOCKS if args.blocks is None else args.blocks, how, depth)
    try:
        start = tuple(int(layer) for layer in how.split(","))
    except ValueError:
        raise UsageError(
            f"--start-from {how} is neither a way nor a list of layers",
            hint="for example spread, or 9,14,20,29",
        ) from None
    if args.blocks not in {None, len(start)}:
        raise UsageError(
            f"--start-from lists {len(start)} layers for {args.blocks} blocks", hint="leave out --blocks"
        )
    check_start(n, start, depth)
    return start


def _shape_of_earlier(args: argparse.Namespace) -> tuple[int, tuple[int, ...]]:
    from flexspec_mq.models.draft.delta import read_meta

    if args.blocks is not None or args.start_from is not None:
        raise UsageError("--from-delta decides on the blocks", hint="leave out --blocks and --start-from")
    earlier = read_meta(args.from_delta)
    n = earlier.n if args.layers is None else args.layers
    if not 0 < n <= earlier.n:
        raise UsageError(
            f"{args.from_delta} has a backbone of {earlier.n} layers, not {n}",
            hint=f"give --layers 1 to {earlier.n}",
        )
    return n, (*range(n, earlier.n), *earlier.start)


def _export(args: argparse.Namespace) -> int:
    from flexspec_mq.models.draft.artifact import export

    if not args.onnx and (args.weights is not None or args.ids is not None):
        raise UsageError(
            "--weights and --ids are for --onnx", hint="a checkpoint is rounded by the device that loads it"
        )
    if args.ids is not None and args.ids < 0:
        raise UsageError(f"--ids {args.ids} is less than none", hint="0 keeps all")
    if not args.onnx:
        print(export(offline.base_path(args), args.out, args.delta))
        return 0
    from flexspec_mq.models.checkpoint import read_plainly
    from flexspec_mq.models.onnx.write import OnnxChoice, write_onnx

    with tempfile.TemporaryDirectory(prefix="flexspec-export-") as between:
        checkpoint = export(offline.base_path(args), Path(between) / "draft", args.delta)
        made = write_onnx(checkpoint, args.out, OnnxChoice(args.weights or "mixed", args.ids))
    if read_plainly(made) is None:
        print(
            f"note: reading the tokenizer or configuration of {made} takes transformers on the device too",
            file=sys.stderr,
        )
    print(made)
    return 0
