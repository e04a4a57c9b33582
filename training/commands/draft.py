"""``flexspec draft`` and its commands. Importing it imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flexspec_mq.daemon.main import run_subcommand
from flexspec_mq.drafting import export
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution import offline
from training import cli_common

_NUMBERS: tuple[tuple[str, int | float, str, str], ...] = (
    ("--step-tokens", 1024, "TOKENS", "answer tokens per optimizer step, at most"),
    ("--learning-rate", 2e-3, "RATE", "peak of AdamW's rate"),
    ("--hybrid-from", 0.5, "SHARE", "share of the budget (0-1) after which total variation joins the loss"),
    ("--common-ids", 8192, "IDS", "ids of the LM head that every step sees; 0 uses the whole head always"),
    (
        "--calibration-rows",
        60,
        "ROWS",
        "held-out rows that the confidence is fitted to at the end; 0 for none",
    ),
    ("--seed", 0, "N", "seed of the order of rows and of the draw of ids"),
)
LAYERS, BLOCKS = 6, 8
"""The shape of a draft from nothing."""
RANK = 32
"""The rank of a draft's LoRA."""

_TEXT_HELP = ".npz of target-written rows; those held out from training count"
_LIMIT = ("--limit", 60, "ROWS", "rows at most, evenly spread")


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
    _add_collect(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_calibrate(commands)
    _add_pack(commands)
    export.add_parser(commands)


def _add_base(parser: argparse.ArgumentParser) -> None:
    """``--base``; `base_path` reads it."""
    parser.add_argument(
        "--base", required=True, metavar="FOLDER", help="checkpoint folder of the base model, or 'default'"
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="torch device: cpu, cuda, cuda:1 (default: cpu)"
    )


def _add_delta(parser: argparse._ActionsContainer, *, required: bool = False) -> None:
    """``--delta``."""
    text = "a trained delta" if required else "a trained delta (default: the one that ships)"
    cli_common.add_path(parser, "--delta", "FILE", text, required=required)


def _add_temperatures(parser: argparse.ArgumentParser, text: str, *default: float) -> None:
    """``--temperatures``."""
    shown = f"{text} (default: {' '.join(f'{t:g}' for t in default)})"
    parser.add_argument(
        "--temperatures", type=float, nargs="+", default=list(default), metavar="T", help=shown
    )


def _add_collect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    collect = commands.add_parser(
        "collect",
        help="let the target write the text that a draft is trained on",
        description="The target answers prompts at the temperatures that it will serve. Ctrl-C stops it; it goes "
        "on where it stopped when the same command is given again: what has been answered, by prompt and "
        "temperature, is not answered again.",
    )
    collect.set_defaults(func=_collect)
    _add_base(collect)
    _add_device(collect)
    about_head = "folder of a head: that version of the base writes"
    cli_common.add_path(collect, "--head", "FOLDER", about_head)
    about_prompts = "JSON lines with `prompt`, or `turns` (the first counts)"
    cli_common.add_path(collect, "--prompts", "FILE", about_prompts, many=True)
    about_out = "the rows to write (.npz); prompts that the target invented go beside it"
    cli_common.add_path(collect, "--out", "FILE", about_out, required=True)
    _add_temperatures(collect, "temperatures, one after another", 0.0, 0.7, 1.0)
    about_limit = "answers at most, those of earlier runs included (default: all)"
    collect.add_argument("--limit", type=int, metavar="TEXTS", help=about_limit)
    offline.add_numbers(
        collect,
        ("--top-p", 0.95, "MASS", "nucleus that is sampled from above temperature 0"),
        ("--max-new", 192, "TOKENS", "tokens of an answer at most"),
        ("--max-prompt", 1024, "TOKENS", "longer prompts are left out"),
        ("--at-once", 48, "TEXTS", "texts that share the forwards: more is faster and takes more memory"),
        ("--invent", 0, "N", "prompts that the target writes itself first, as a user would"),
        ("--seed", 0, "N", "seed of the noise"),
    )


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser(
        "train",
        help="train a draft for a base model",
        description="Distil a draft from text that the target wrote itself. Ctrl-C stops it; it goes on "
        "where it stopped when the same command is given again.",
    )
    train.set_defaults(func=_train)
    _add_base(train)
    _add_device(train)
    about_text = "target-written rows, as `flexspec draft collect` writes them; several files are joined"
    cli_common.add_path(train, "--text", "FILE", about_text, required=True, many=True)
    about_head = (
        "folder of a head: train a LoRA of a draft for that version of the base, which wrote the text"
    )
    cli_common.add_path(train, "--head", "FOLDER", about_head)
    about_cache = "where the teacher's states go: 4 bytes x width per token (2.3 kB at width 576)"
    cli_common.add_path(train, "--cache", "FOLDER", about_cache, required=True)
    about_out = (
        "the delta to write (.safetensors), with --head the folder of the adapter; the state to resume from goes "
        "beside it"
    )
    cli_common.add_path(train, "--out", "FILE", about_out, required=True)
    add = train.add_argument
    about_layers = (
        "backbone layers kept from the base; with 0 all layers are trained "
        f"(default: {LAYERS}, with --from-delta the earlier draft's)"
    )
    add("--layers", type=int, metavar="N", help=about_layers)
    add("--blocks", type=int, metavar="M", help=f"trained blocks on top of the backbone (default: {BLOCKS})")
    about_start = (
        "layers of the base that the blocks start as copies of, such as 9,14,20,29, counted from 0, bottom up "
        "(default: evenly spread over those above the backbone)"
    )
    add("--start-from", metavar="LIST", help=about_start)
    about_earlier = (
        "go on from an earlier draft of the same base, with another text or a smaller backbone: its blocks are "
        "trained further, and below them the layers that --layers leaves out of its backbone (default with --head: the "
        "one that ships)"
    )
    cli_common.add_path(train, "--from-delta", "FILE", about_earlier)
    about_rank = f"with --head: rank of the LoRA (default: {RANK})"
    add("--rank", type=int, metavar="N", help=about_rank)
    add("--minutes", type=float, metavar="MIN", help="time budget, collecting included, resumptions summed")
    add("--steps", type=int, metavar="N", help="budget in optimizer steps; makes the outcome reproducible")
    about_temperatures = (
        "temperatures at which the loss compares both models, one step after another: lower ones weigh the "
        "likeliest tokens more"
    )
    _add_temperatures(train, about_temperatures, 1.0)
    offline.add_numbers(train, *_NUMBERS)


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a draft's acceptance offline",
        description="Replay text that the target wrote and count what the draft would have had accepted. Prints "
        "a JSON object: greedy_match and overlap (shares of positions, 0-1); and by temperature, with the same noise "
        "on both sides: acceptance, the share of positions from which 1, 2, ... tokens are all accepted, and tokens "
        "per round.",
    )
    evaluate.set_defaults(func=_evaluate)
    _add_base(evaluate)
    _add_device(evaluate)
    which = evaluate.add_mutually_exclusive_group()
    _add_delta(which)
    cli_common.add_path(which, "--draft", "FOLDER", "an exported draft, instead of a delta")
    cli_common.add_path(evaluate, "--text", "FILE", _TEXT_HELP, required=True, many=True)
    _add_temperatures(evaluate, "temperatures of both models' choices", 0.0, 0.7, 1.0)
    offline.add_numbers(evaluate, _LIMIT, ("--draft-tokens", 4, "K", "draft tokens per round, at most"))


def _add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="fit a draft's confidence, by which a device stops drafting early",
        description="Replay held-out rows with the same noise on both sides, at temperatures 0, 0.7 and 1, and "
        "fit how likely the target takes a drafted token. The delta is written with it. Prints how reliable it is on "
        "rows that it was not fitted to.",
    )
    calibrate.set_defaults(func=_calibrate)
    _add_base(calibrate)
    _add_device(calibrate)
    _add_delta(calibrate, required=True)
    cli_common.add_path(calibrate, "--text", "FILE", _TEXT_HELP, required=True, many=True)
    cli_common.add_path(calibrate, "--out", "FILE", "the delta to write (default: in place of the old one)")
    offline.add_numbers(calibrate, _LIMIT)


def _add_pack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pack = commands.add_parser(
        "pack",
        help="make a delta smaller",
        description="Store the trained blocks' matrices as the difference to the base's layers that they started "
        "from, in few bits. A packed delta is exported like any other.",
    )
    pack.set_defaults(func=_pack)
    _add_base(pack)
    _add_delta(pack, required=True)
    cli_common.add_path(pack, "--out", "FILE", "the packed delta to write", required=True)
    pack.add_argument(
        "--bits", type=int, choices=(4, 8), default=4, help="bits of a weight (default: %(default)s)"
    )
    offline.add_numbers(pack)


def _collect(args: argparse.Namespace) -> int:
    from training.draft.collecting import CollectConfig, CollectFiles, collect_text

    config = cli_common.from_flags(CollectConfig, args)
    offline.prepare(args)
    with cli_common.interruptible() as stop:
        rows = collect_text(
            CollectFiles(offline.base_path(args), tuple(args.prompts), args.out, args.head),
            config,
            stop.is_set,
        )
    if rows is None:
        return cli_common.stopped(args.out)
    offline.print_figures(
        {"rows": len(rows), "answer_tokens": int(rows.answer_len.sum()), "tokens": int(rows.length.sum())}
    )
    return 0


def _train(args: argparse.Namespace) -> int:
    if args.minutes is None and args.steps is None:
        raise UsageError("the training needs a budget", hint="give --minutes or --steps")
    if not min(args.temperatures) > 0:
        raise UsageError(
            f"--temperatures {min(args.temperatures):g} is not above 0", hint="0.5 stands for low ones"
        )
    from training.draft.schedule import TrainConfig
    from training.draft.session import TrainFiles, train_draft

    base, rank = offline.base_path(args), _rank(args)
    n, start = _shape(args, base)
    seconds = None if args.minutes is None else args.minutes * 60
    config = cli_common.from_flags(
        TrainConfig, args, n=n, start=start, rank=rank, max_steps=args.steps, max_seconds=seconds
    )
    files = TrainFiles(base, tuple(args.text), args.cache, args.out, args.from_delta, args.head)
    offline.prepare(args)
    with cli_common.interruptible() as stop:
        result = train_draft(files, config, stop.is_set, calibration_rows=args.calibration_rows)
    if result is None:
        return cli_common.stopped(args.out)
    offline.print_figures(result.figures())
    return 0


def _rank(args: argparse.Namespace) -> int:
    """Rank of the LoRA; 0 trains a whole draft. A LoRA without another draft is for the one that ships.

    Raises:
        UsageError: ``--rank`` does not fit ``--head``, or the folder holds something else.
    """
    if args.head is None:
        if args.rank is not None:
            raise UsageError("--rank is for the LoRA of a version", hint="name its head with --head")
        return 0
    from flexspec_mq.models.draft.artifact import default_delta_path
    from flexspec_mq.models.head_files import ADAPTER, MOST_RANK

    rank = RANK if args.rank is None else int(args.rank)
    if not 0 < rank <= MOST_RANK:
        raise UsageError(f"--rank {rank} is not between 1 and {MOST_RANK}")
    if args.out.exists() and not (args.out / ADAPTER).exists():
        raise UsageError(f"{args.out} is there, and no adapter", hint="name another folder, or remove it")
    args.from_delta = args.from_delta or default_delta_path()
    return rank


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

    if args.start_from is None:
        return start_layers(n, BLOCKS if args.blocks is None else args.blocks, depth)
    try:
        start = tuple(int(layer) for layer in args.start_from.split(","))
    except ValueError:
        raise UsageError(
            f"--start-from {args.start_from} is no list of layers", hint="for example 9,14,20,29"
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
    if not 0 <= n <= earlier.n:
        raise UsageError(
            f"{args.from_delta} has a backbone of {earlier.n} layers, not {n}",
            hint=f"give --layers 0 to {earlier.n}",
        )
    return n, (*range(n, earlier.n), *earlier.start)


def _evaluate(args: argparse.Namespace) -> int:
    from training.draft.measuring import evaluate_draft

    offline.prepare(args)
    figures = evaluate_draft(
        offline.base_path(args),
        args.text,
        delta=args.delta,
        exported=args.draft,
        limit=args.limit,
        k=args.draft_tokens,
        device=args.device,
        temperatures=args.temperatures,
    )
    offline.print_figures(figures)
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from training.draft.measuring import calibrate_delta

    offline.prepare(args)
    reliable = calibrate_delta(
        offline.base_path(args), args.delta, args.text, args.out or args.delta, args.limit, args.device
    )
    offline.print_figures(reliable.figures())
    return 0


def _pack(args: argparse.Namespace) -> int:
    from training.draft.packing import pack_file

    offline.prepare(args)
    base = offline.base_path(args)
    pack_file(args.delta, base, args.out, args.bits)
    figures = {"bytes_before": args.delta.stat().st_size, "bytes": args.out.stat().st_size}
    offline.print_figures(figures)
    return 0
