"""``flexspec policy``. Importing it imports no numpy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flexspec_mq.daemon.files import whole
from flexspec_mq.daemon.main import run_subcommand
from flexspec_mq.daemon.progress import answer, stages
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
        "learns which takes least.",
    )
    train.set_defaults(func=_train)
    add = train.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="for rl.json")
    add(
        "--episodes",
        type=int,
        default=600,
        metavar="N",
        help="how many; about a second each (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of all chance (default: %(default)s)")


def _train(args: argparse.Namespace) -> int:
    from lab.policy_training.learner import network_text
    from lab.policy_training.training import train_policy

    if args.episodes < 1 or args.seed < 0:
        raise UsageError("--episodes must be at least 1, and --seed at least 0")
    weights = args.out / "rl.json"
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out {args.out} cannot be used: {error.strerror}", hint="name a folder that can be written"
        ) from error
    with stages() as tell:

        def show(done: int) -> None:
            if done * 100 // args.episodes > (done - 1) * 100 // args.episodes:
                tell(f"{done} of {args.episodes} episodes: {done * 100 // args.episodes} %")

        network, figures = train_policy(args.seed, args.episodes, show)
    with whole(weights) as part:
        part.write_text(network_text(network) + "\n", "utf-8")
    answer(f"{args.episodes} episodes; {figures}")
    answer(f"weights: {weights}")
    return 0
