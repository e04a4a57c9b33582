"""``flexspec draft collect``. Importing it imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.evolution import offline
from training.commands import flags

if TYPE_CHECKING:
    import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``collect``."""
    collect = commands.add_parser(
        "collect",
        help="let the target write the text that a draft is trained on",
        description="The target answers prompts at the temperatures that it will serve. Ctrl-C stops it; it goes "
        "on where it stopped when the same command is given again: what has been answered, by prompt and "
        "temperature, is not answered again.",
    )
    collect.set_defaults(func=_collect)
    flags.add_base(collect)
    flags.add_head(collect, "that version of the base writes")
    about_prompts = "JSON lines with `prompt`, or `turns` (the first counts)"
    offline.add_path(collect, "--prompts", "FILE", about_prompts, many=True)
    about_out = "the rows to write (.npz); prompts that the target invented go beside it"
    offline.add_path(collect, "--out", "FILE", about_out, required=True)
    flags.add_temperatures(collect, "temperatures, one after another", 0.0, 0.7, 1.0)
    about_shares = "instead of all temperatures, each prompt gets one of them, this often, as in 0.5 0.3 0.2"
    collect.add_argument("--shares", type=float, nargs="+", default=[], metavar="SHARE", help=about_shares)
    about_limit = "answers at most, those of earlier runs included (default: all)"
    collect.add_argument("--limit", type=int, metavar="TEXTS", help=about_limit)
    offline.add_numbers(
        collect,
        ("--top-p", 0.95, "MASS", "nucleus that is sampled from above temperature 0"),
        ("--max-new", 192, "TOKENS", "tokens of an answer at most"),
        ("--max-prompt", 1024, "TOKENS", "longer prompts are left out"),
        ("--at-once", 48, "TEXTS", "texts that share the forwards: more is faster and takes more memory"),
        ("--invent", 0, "N", "prompts that the target writes itself first, as a user would"),
        ("--seed", 0, "N", "of the dice, and of which prompt has which temperature"),
        ("--save-minutes", 5.0, "MIN", "minutes between saves"),
    )


def _collect(args: argparse.Namespace) -> int:
    from training.draft.collecting import CollectConfig, CollectFiles, collect_text

    config = CollectConfig(
        temperatures=tuple(args.temperatures),
        shares=tuple(args.shares),
        top_p=args.top_p,
        max_new=args.max_new,
        max_prompt=args.max_prompt,
        at_once=args.at_once,
        limit=args.limit,
        invent=args.invent,
        seed=args.seed,
        save_seconds=args.save_minutes * 60,
    )
    offline.prepare(args)
    with offline.interruptible() as stop:
        rows = collect_text(
            CollectFiles(offline.base_path(args), tuple(args.prompts), args.out, args.head),
            config,
            stop.is_set,
        )
    if rows is None:
        return offline.stopped(args.out)
    offline.print_figures(
        {"rows": len(rows), "answer_tokens": int(rows.answer_len.sum()), "tokens": int(rows.length.sum())}
    )
    return 0
