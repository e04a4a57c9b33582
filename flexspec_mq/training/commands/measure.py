"""``flexspec draft evaluate``, ``calibrate`` and ``pack``. Importing it imports no torch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexspec_mq.training.commands.parts import (
    add_base,
    add_delta,
    add_threads,
    base_path,
    prepare,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXT_HELP = ".npz of target-written rows; those held out from training count"
_LIMIT_HELP = "rows at most, evenly spread (default: %(default)s)"


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands; each sets ``func``."""
    _add_evaluate(commands)
    _add_calibrate(commands)
    _add_pack(commands)


def print_figures(figures: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(figures))  # noqa: T201


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a draft's acceptance offline",
        description="Replay text that the target wrote and count what the draft would have had accepted. Prints "
        "a JSON object: greedy_match and overlap (shares of positions, 0-1), tokens_per_round (accepted + 1, on "
        "greedy answers); and by temperature, with the same dice on both sides: acceptance, the share of positions "
        "from which 1, 2, ... tokens are all accepted, and rounds under --stop.",
    )
    evaluate.set_defaults(func=_evaluate)
    add_base(evaluate)
    which = evaluate.add_mutually_exclusive_group()
    add_delta(which)
    which.add_argument("--draft", type=Path, metavar="FOLDER", help="an exported draft, instead of a delta")
    source = evaluate.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, nargs="+", default=[], metavar="FILE", help=_TEXT_HELP)
    about_prompts = (
        "JSON lines with `prompt`, or `turns` (the first counts); the target answers at temperature 0"
    )
    source.add_argument("--prompts", type=Path, metavar="FILE", help=about_prompts)
    add = evaluate.add_argument
    about_limit = "rows or prompts at most, evenly spread over the file (default: %(default)s)"
    add("--limit", type=int, default=60, metavar="ROWS", help=about_limit)
    about_new = "answer tokens at most, with --prompts (default: %(default)s)"
    add("--max-new", type=int, default=128, metavar="TOKENS", help=about_new)
    about_keep = "write the target's answers here (.npz), or read them from here"
    add("--keep", type=Path, metavar="FILE", help=about_keep)
    add(
        "--draft-tokens",
        type=int,
        default=4,
        metavar="K",
        help="draft tokens per round, at most (default: %(default)s)",
    )
    about_stop = "a batch ends before the token whose survival falls below this, 0-1 (default: never)"
    add("--stop", type=float, default=0.0, metavar="SURVIVAL", help=about_stop)
    about_temperatures = "of both models' choices (default: 0 0.7 1)"
    add(
        "--temperatures", type=float, nargs="+", default=[0.0, 0.7, 1.0], metavar="T", help=about_temperatures
    )
    add_threads(evaluate)


def _add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="fit a draft's confidence, by which a device stops drafting early",
        description="Replay held-out rows with the same dice on both sides, at temperatures 0, 0.7 and 1, and "
        "fit how likely the target takes a drafted token. The delta is written with it. Prints how reliable it is on "
        "rows that it was not fitted to.",
    )
    calibrate.set_defaults(func=_calibrate)
    add_base(calibrate)
    add_delta(calibrate, required=True)
    add = calibrate.add_argument
    add("--text", type=Path, required=True, nargs="+", metavar="FILE", help=_TEXT_HELP)
    add("--out", type=Path, metavar="FILE", help="the delta to write (default: in place of the old one)")
    add("--limit", type=int, default=60, metavar="ROWS", help=_LIMIT_HELP)
    add_threads(calibrate)


def _add_pack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pack = commands.add_parser(
        "pack",
        help="make a delta smaller",
        description="Store the trained blocks' matrices as the difference to the base's layers that they started "
        "from, in few bits. A packed delta is exported like any other.",
    )
    pack.set_defaults(func=_pack)
    add_base(pack)
    add_delta(pack, required=True)
    add = pack.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="the packed delta to write")
    add("--bits", type=int, choices=(4, 8), default=4, help="bits of a weight (default: %(default)s)")
    about_text = f"measure before and after: {_TEXT_HELP}"
    add("--text", type=Path, nargs="+", default=[], metavar="FILE", help=about_text)
    add("--limit", type=int, default=60, metavar="ROWS", help=_LIMIT_HELP)
    add_threads(pack)


def _evaluate(args: argparse.Namespace) -> int:
    from flexspec_mq.training.measuring import EvaluateFiles, Rules, evaluate_draft

    rules = Rules(args.draft_tokens, args.stop, tuple(args.temperatures))
    files = EvaluateFiles(base_path(args), args.delta, args.draft, tuple(args.text), args.prompts, args.keep)
    prepare(args)
    print_figures(evaluate_draft(files, limit=args.limit, max_new=args.max_new, rules=rules))
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from flexspec_mq.training.measuring import calibrate_delta

    prepare(args)
    found = calibrate_delta(base_path(args), args.delta, args.text, args.out or args.delta, args.limit)
    print(found.table(), file=sys.stderr)  # noqa: T201
    print_figures(found.figures())
    return 0


def _pack(args: argparse.Namespace) -> int:
    from flexspec_mq.training.packing import pack_file

    prepare(args)
    base = base_path(args)
    weights, added = pack_file(args.delta, base, args.out, args.bits)
    sizes = {"bytes_before": args.delta.stat().st_size, "bytes": args.out.stat().st_size}
    figures: dict[str, Any] = {
        **sizes,
        "error_of_weights": round(weights, 5),
        "error_of_difference": round(added, 4),
    }
    if args.text:
        from flexspec_mq.training.measuring import held_out_overlap

        before, after = held_out_overlap(base, [args.delta, args.out], args.text, args.limit)
        figures |= {"before": before.figures(), "after": after.figures()}
    print_figures(figures)
    return 0
