"""``flexspec policy``. Importing it imports no numpy."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from flexspec_mq.daemon.main import run_subcommand
from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import UsageError


def main(argv: Sequence[str]) -> int:
    """``flexspec policy``: returns the exit code."""
    return run_subcommand(add_parser, "policy", argv, extras="models")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``policy`` with its command, which sets ``func``."""
    policy = subparsers.add_parser("policy", help="train what plans drafts")
    commands = policy.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="train the policy rl in the simulator",
        description="Texts, links and speeds are drawn; every action is tried in the same episode, and the policy "
        "learns which takes least. Ctrl-C stops it; it goes on where it stopped when the same command is given again.",
    )
    train.set_defaults(func=_train)
    add = train.add_argument
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="for rl.json, the state to resume from, and history",
    )
    add(
        "--episodes",
        type=int,
        default=600,
        metavar="N",
        help="how many, those of before included; about a second each (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of all chance (default: %(default)s)")


def _train(args: argparse.Namespace) -> int:
    from flexspec_mq.evolution.offline import interruptible, stopped
    from lab.policy_training.training import PolicyTraining, TrainingFiles
    from training.draft.progress import progress_bar

    if not sys.stderr.isatty():
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.episodes < 1 or args.seed < 0:
        raise UsageError("--episodes must be at least 1, and --seed at least 0")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out {args.out} cannot be used: {error.strerror}", hint="name a folder that can be written"
        ) from error
    files, training = TrainingFiles(args.out), PolicyTraining(args.seed)
    if files.state.exists():
        training.load(files)
    with interruptible() as stop, progress_bar() as tell:

        def told() -> bool:
            tell(training.episodes / args.episodes, lambda: _line(training.episodes, training.history))
            return stop.is_set()

        whole = training.run(args.episodes, lambda: training.save(files), told)
    if not whole:
        return stopped(files.state)
    training.save(files)
    training.write(files)
    answer(_line(training.episodes, training.history))
    answer(f"weights: {files.network}")
    return 0


def _line(episodes: int, history: list[dict[str, float]]) -> str:
    if not history:
        return f"{episodes} episodes"
    last = history[-1]
    return (
        f"{episodes} episodes; held out, beyond the best in hindsight: network {last['held_out']:.1%}, "
        f"best single action {last['best_single']:.1%}"
    )
