"""The flags of ``flexspec-edge``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_node.config import add_address_arguments, add_arguments
from flexspec_mq.daemon import logs
from flexspec_mq.doctor.command import add_doctor_command
from flexspec_mq.settings import add_show_command


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    # No abbreviations: --password, which is no flag of ours, would be taken for --password-file.
    parser = argparse.ArgumentParser(
        prog="flexspec-edge",
        description="Write texts from this device, with a draft here and the target behind a broker.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    ask = commands.add_parser("ask", help="answer one prompt and stop", allow_abbrev=False)
    ask.add_argument("prompt", nargs="?", help="what to ask; read from standard input when it is left out")
    batch = commands.add_parser("batch", help="answer many prompts at once", allow_abbrev=False)
    batch.add_argument(
        "file", type=Path, help="JSON lines with `prompt`, or `turns` of which the first is used"
    )
    batch.add_argument("--at-once", type=int, default=8, help="texts written at a time (default: 8)")
    ask.add_argument("--events", action="store_true", help="print what happens as JSON lines")
    for command in (ask, batch):
        _add_options(command)
        add_arguments(command, api=False)
        logs.add_verbose(command)
    serves = commands.add_parser(
        "serve", help="an OpenAI-compatible HTTP API for programs on this device", allow_abbrev=False
    )
    serves.add_argument(
        "--ready-json", action="store_true", help="print one JSON line on stdout when serving"
    )
    plan = commands.add_parser(
        "plan", help="how the edge node that serves here plans its drafts, and why", allow_abbrev=False
    )
    plan.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    add_address_arguments(plan)
    for command in (serves, add_show_command(commands), add_doctor_command(commands)):
        add_arguments(command)
        logs.add_verbose(command)
    return parser


def _add_options(command: argparse.ArgumentParser) -> None:
    """Add how texts are written. Whoever scripts wants the same text each time: greedy unless told otherwise."""
    text = command.add_argument_group("text")
    for name, kind, default, about in (
        ("max-tokens", int, 256, "tokens to write at most; -1 is what the context leaves"),
        ("temperature", float, 0.0, "0 is greedy"),
        ("top-k", int, 0, "keep the k most likely tokens; 0 is all"),
        ("top-p", float, 1.0, "keep this mass of them; 1 is all"),
    ):
        text.add_argument(f"--{name}", type=kind, default=default, help=f"{about} (default: {default:g})")
    text.add_argument("--seed", type=int, help="same seed, same text (default: drawn)")
    text.add_argument("--ignore-eos", action="store_true", help="always write up to --max-tokens")
    text.add_argument("--timeout", type=float, help="seconds for one text (default: none)")
    text.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait for the broker while it is away, and for a worker while none serves the version "
        "(default: 0, say so at once)",
    )
