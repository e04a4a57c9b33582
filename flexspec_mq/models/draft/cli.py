"""``flexspec draft``: train, measure and export a draft. Importing it imports no torch."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.errors import Cancelled, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flexspec_mq.models.draft.evaluate import Acceptance

_TRAIN_FILES = (
    ("--text", "FILE", ".npz with ids, start, prompt_len and temperature of target-written rows"),
    ("--cache", "FOLDER", "where the teacher's states go: 4 bytes x width per token (2.3 kB at width 576)"),
    ("--out", "FILE", "the delta to write (.safetensors); the state to resume from goes beside it"),
)
_TRAIN_NUMBERS: tuple[tuple[str, int | float, str, str], ...] = (
    ("--layers", 4, "N", "backbone layers kept from the base"),
    ("--step-tokens", 1024, "TOKENS", "answer tokens per optimizer step, at most"),
    ("--learning-rate", 4e-3, "RATE", "peak of AdamW's rate"),
    ("--hybrid-from", 0.6, "SHARE", "share of the budget (0-1) after which total variation joins the loss"),
    ("--common-ids", 8192, "IDS", "ids of the LM head that every step sees; 0 uses the whole head always"),
    ("--extra-ids", 2048, "IDS", "other ids, drawn anew in every step, that stand for the rest"),
    ("--full-from", 0.9, "SHARE", "share of the budget (0-1) after which steps use the whole LM head"),
    ("--first-rows", 512, "ROWS", "rows in the first pass; each pass takes twice as many as the last"),
    ("--collect-until", 0.6, "SHARE", "share of the budget (0-1) after which no more states are collected"),
    ("--save-minutes", 5.0, "MIN", "minutes between saved states"),
    ("--seed", 0, "N", "of the order of rows and the draw of ids"),
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``draft`` with its three commands; each sets ``func``, which returns an exit code."""
    draft = subparsers.add_parser(
        "draft",
        help="train, measure or export a draft model",
        description="A draft is the base's first layers, a trained block and norm, and the base's own LM "
        "head. It is trained once and serves every later version of the target.",
    )
    commands = draft.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_export(commands)


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser(
        "train",
        help="train a draft for a base model",
        description="Distil a draft from text that the target wrote itself. Ctrl-C stops it; it goes on "
        "where it stopped when the same command is given again.",
    )
    train.set_defaults(func=_train)
    _add_base(train)
    for flag, metavar, text in _TRAIN_FILES:
        train.add_argument(flag, type=Path, required=True, metavar=metavar, help=text)
    for flag, default, metavar, text in _TRAIN_NUMBERS:
        kind, shown = type(default), f"{text} (default: %(default)s)"
        train.add_argument(flag, type=kind, default=default, metavar=metavar, help=shown)
    add = train.add_argument
    add("--minutes", type=float, metavar="MIN", help="time budget, collecting included, resumptions summed")
    add("--steps", type=int, metavar="N", help="budget in optimizer steps; makes the outcome reproducible")
    about_prompts = "token of a row from which its prompt is trained on as well (default: answers only)"
    add("--prompts-from", type=int, metavar="POSITION", help=about_prompts)
    _add_threads(train)


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a draft's acceptance offline",
        description="Replay text that the target wrote and count what the draft would have had accepted. "
        "Prints a JSON object: greedy_match and overlap (shares of positions, 0-1), tokens_per_round (accepted + 1).",
    )
    evaluate.set_defaults(func=_evaluate)
    _add_base(evaluate)
    _add_delta(evaluate)
    source = evaluate.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--text", type=Path, metavar="FILE", help=".npz of target-written rows; held-out rows count"
    )
    source.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="JSON lines with `prompt`, or `turns` (the first counts); the target answers at temperature 0",
    )
    add = evaluate.add_argument
    add(
        "--limit",
        type=int,
        default=60,
        metavar="ROWS",
        help="rows or prompts at most, evenly spread over the file (default: %(default)s)",
    )
    add(
        "--max-new",
        type=int,
        default=128,
        metavar="TOKENS",
        help="answer tokens at most, with --prompts (default: %(default)s)",
    )
    add(
        "--keep",
        type=Path,
        metavar="FILE",
        help="write the target's answers here (.npz), or read them from here",
    )
    add(
        "--draft-tokens",
        type=int,
        default=4,
        metavar="K",
        help="draft tokens per round (default: %(default)s)",
    )
    _add_threads(evaluate)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export",
        help="write the stand-alone checkpoint that a device loads",
        description="Join base and delta to an ordinary checkpoint folder. A device needs nothing else.",
    )
    export.set_defaults(func=_export)
    _add_base(export)
    _add_delta(export)
    export.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the folder to make")


def _add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", type=Path, required=True, metavar="FOLDER", help="checkpoint folder of the base model"
    )


def _add_delta(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--delta", type=Path, metavar="FILE", help="a trained delta (default: the one that ships)"
    )


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, default=1, help="processor threads to use (default: %(default)s)"
    )


def _train(args: argparse.Namespace) -> int:
    from flexspec_mq.models.draft.schedule import TrainConfig
    from flexspec_mq.models.draft.session import TrainFiles, train_draft

    if args.minutes is None and args.steps is None:
        raise UsageError("the training needs a budget", hint="give --minutes or --steps")
    config = TrainConfig(
        n=args.layers,
        max_steps=args.steps,
        max_seconds=None if args.minutes is None else args.minutes * 60,
        step_tokens=args.step_tokens,
        prompts_from=args.prompts_from,
        learning_rate=args.learning_rate,
        hybrid_from=args.hybrid_from,
        common_ids=args.common_ids,
        extra_ids=args.extra_ids,
        full_from=args.full_from,
        first_rows=args.first_rows,
        collect_until=args.collect_until,
        seed=args.seed,
    )
    files = TrainFiles(args.base, args.text, args.cache, args.out)
    _show_log(unless_terminal=True)  # where the progress bar is
    _use_threads(args.threads)
    with _interruptible() as stop:
        result = train_draft(files, config, save_seconds=args.save_minutes * 60, should_stop=stop.is_set)
    if result is None:
        print(f"stopped; give the same command again to go on ({args.out})", file=sys.stderr)  # noqa: T201
        return Cancelled.exit_code
    _print_result(result)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from flexspec_mq.models.draft.session import EvaluateFiles, evaluate_draft

    _show_log()
    _use_threads(args.threads)
    files = EvaluateFiles(args.base, args.delta, text=args.text, prompts=args.prompts, keep=args.keep)
    _print_result(evaluate_draft(files, limit=args.limit, max_new=args.max_new, k=args.draft_tokens))
    return 0


def _export(args: argparse.Namespace) -> int:
    from flexspec_mq.models.draft.artifact import export

    print(export(args.base, args.out, args.delta))  # noqa: T201
    return 0


def _print_result(result: Acceptance) -> None:
    print(json.dumps(result.figures()))  # noqa: T201


def _show_log(*, unless_terminal: bool = False) -> None:
    if not (unless_terminal and sys.stderr.isatty()):
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


def _use_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that no step is torn; the second one interrupts at once."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
