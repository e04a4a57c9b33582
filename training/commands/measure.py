"""``flexspec draft evaluate``, ``calibrate`` and ``pack``. Importing it imports no torch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from flexspec_mq.evolution import offline
from training.commands import flags

if TYPE_CHECKING:
    import argparse

_TEXT_HELP = ".npz of target-written rows; those held out from training count"
_LIMIT = ("--limit", 60, "ROWS", "rows at most, evenly spread")


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands; each sets ``func``."""
    _add_evaluate(commands)
    _add_calibrate(commands)
    _add_pack(commands)


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
    flags.add_base(evaluate)
    which = evaluate.add_mutually_exclusive_group()
    flags.add_delta(which)
    offline.add_path(which, "--draft", "FOLDER", "an exported draft, instead of a delta")
    source = evaluate.add_mutually_exclusive_group(required=True)
    offline.add_path(source, "--text", "FILE", _TEXT_HELP, many=True)
    about_prompts = (
        "JSON lines with `prompt`, or `turns` (the first counts); the target answers at temperature 0"
    )
    offline.add_path(source, "--prompts", "FILE", about_prompts)
    about_keep = "write the target's answers here (.npz), or read them from here"
    offline.add_path(evaluate, "--keep", "FILE", about_keep)
    flags.add_temperatures(evaluate, "of both models' choices", 0.0, 0.7, 1.0)
    about_stop = "a batch ends before the token whose joint acceptance falls below this, 0-1; 0 ends none"
    offline.add_numbers(
        evaluate,
        ("--limit", 60, "ROWS", "rows or prompts at most, evenly spread over the file"),
        ("--max-new", 128, "TOKENS", "answer tokens at most, with --prompts"),
        ("--draft-tokens", 4, "K", "draft tokens per round, at most"),
        ("--stop", 0.0, "PROBABILITY", about_stop),
    )


def _add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="fit a draft's confidence, by which a device stops drafting early",
        description="Replay held-out rows with the same dice on both sides, at temperatures 0, 0.7 and 1, and "
        "fit how likely the target takes a drafted token. The delta is written with it. Prints how reliable it is on "
        "rows that it was not fitted to.",
    )
    calibrate.set_defaults(func=_calibrate)
    flags.add_base(calibrate)
    flags.add_delta(calibrate, required=True)
    offline.add_path(calibrate, "--text", "FILE", _TEXT_HELP, required=True, many=True)
    offline.add_path(calibrate, "--out", "FILE", "the delta to write (default: in place of the old one)")
    offline.add_numbers(calibrate, _LIMIT)


def _add_pack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pack = commands.add_parser(
        "pack",
        help="make a delta smaller",
        description="Store the trained blocks' matrices as the difference to the base's layers that they started "
        "from, in few bits. A packed delta is exported like any other.",
    )
    pack.set_defaults(func=_pack)
    flags.add_base(pack)
    flags.add_delta(pack, required=True)
    offline.add_path(pack, "--out", "FILE", "the packed delta to write", required=True)
    pack.add_argument(
        "--bits", type=int, choices=(4, 8), default=4, help="bits of a weight (default: %(default)s)"
    )
    offline.add_path(pack, "--text", "FILE", f"measure before and after: {_TEXT_HELP}", many=True)
    offline.add_numbers(pack, _LIMIT)


def _evaluate(args: argparse.Namespace) -> int:
    from training.draft.measuring import EvaluateFiles, Rules, evaluate_draft

    rules = Rules(args.draft_tokens, args.stop, tuple(args.temperatures))
    files = EvaluateFiles(
        offline.base_path(args), args.delta, args.draft, tuple(args.text), args.prompts, args.keep
    )
    offline.prepare(args)
    offline.print_figures(evaluate_draft(files, limit=args.limit, max_new=args.max_new, rules=rules))
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from training.draft.measuring import calibrate_delta

    offline.prepare(args)
    found = calibrate_delta(
        offline.base_path(args), args.delta, args.text, args.out or args.delta, args.limit
    )
    print(found.table(), file=sys.stderr)
    offline.print_figures(found.figures())
    return 0


def _pack(args: argparse.Namespace) -> int:
    from training.draft.packing import pack_file

    offline.prepare(args)
    base = offline.base_path(args)
    weights, added = pack_file(args.delta, base, args.out, args.bits)
    figures: dict[str, Any] = {
        "bytes_before": args.delta.stat().st_size,
        "bytes": args.out.stat().st_size,
        "error_of_weights": round(weights, 5),
        "error_of_difference": round(added, 4),
    }
    if args.text:
        from training.draft.measuring import held_out_overlap

        before, after = held_out_overlap(base, [args.delta, args.out], args.text, args.limit)
        figures |= {"before": before.figures(), "after": after.figures()}
    offline.print_figures(figures)
    return 0
