"""``flexspec doctor``: is everything there that this machine's daemons need, and does it work?

Without arguments it checks the edge node's setup, with the settings that ``flexspec-edge serve`` would have, and the
worker's too where there is a cloud.toml or a FLEXSPEC_CLOUD_… variable. All other flags are those of the daemon:
``flexspec doctor --broker broker.example:8883 --tls-ca ca.crt --username truck-17 --password-file secret``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.progress import stages
from flexspec_mq.doctor.checks import Finding, State
from flexspec_mq.doctor.command import add_doctor_flags, print_findings
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.document import usual_place

if TYPE_CHECKING:
    from collections.abc import Sequence


_MODULES = {"edge": "edge_node", "cloud": "cloud_worker"}
_GRACE = 10.0
"""Seconds beyond its own bound that a daemon's doctor may take to start and to end."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv)


def build_parser() -> argparse.ArgumentParser:
    """The flags that are not the daemons'."""
    parser = argparse.ArgumentParser(
        prog="flexspec doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="flexspec doctor [edge | cloud] [options] [flags of flexspec-edge or flexspec-cloud]",
        epilog="Exit codes: 0 all is well; otherwise that of the first fault: 2 settings or port, 3 model,\n"
        "4 broker, 5 worker or text, 1 anything else. docs/doctor.md has what each finding means.",
    )
    parser.add_argument("--edge-config", type=Path, metavar="FILE", help="settings of the edge node")
    parser.add_argument(
        "--cloud-config", type=Path, metavar="FILE", help="settings of the worker; checks it as well"
    )
    add_doctor_flags(parser)
    return parser


def _main(argv: Sequence[str]) -> int:
    only = argv[0] if argv and argv[0] in _MODULES else None
    args, rest = build_parser().parse_known_args(argv[1:] if only else argv)
    flags = _flags(only, args, [word for word in rest if word != "--"])
    commands = {
        part: ["-m", _MODULES[part], "doctor", "--within", str(args.within), *words]
        for part, words in flags.items()
    }
    if len(commands) == 1:
        (command,) = commands.values()
        os.execv(sys.executable, [sys.executable, *command, *["--json"] * args.json])  # noqa: S606
    began = time.monotonic()
    with stages() as tell:
        tell("checking the edge node and the worker")
        findings = asyncio.run(_examine(commands, args.within + _GRACE))
    return print_findings(findings, time.monotonic() - began, as_json=args.json)


def _flags(only: str | None, args: argparse.Namespace, rest: list[str]) -> dict[str, list[str]]:
    """Parts to examine, and the flags of each. Flags of a daemon go to the edge node unless the worker is named.

    Raises:
        UsageError: flags that no part would get.
    """
    files: dict[str, Path | None] = {"edge": args.edge_config, "cloud": args.cloud_config}
    if only is not None:
        other = "cloud" if only == "edge" else "edge"
        if files[other] is not None:
            raise UsageError(
                f"`flexspec doctor {only}` has no use for --{other}-config",
                hint=f"leave out one of them, or {only!r}",
            )
        parts = [only]
    else:
        parts = ["edge"]
        if files["cloud"] is not None or (not rest and files["edge"] is None and _configured("cloud")):
            parts.append("cloud")
    flags = {part: [] if files[part] is None else ["--config", str(files[part])] for part in parts}
    flags[parts[0]] += rest
    return flags


def _configured(part: str) -> bool:
    """Whether a daemon has settings of its own on this machine."""
    prefix = f"FLEXSPEC_{part.upper()}_"
    if any(name.startswith(prefix) and value for name, value in os.environ.items()):
        return True
    place = usual_place(part, os.environ)
    return place is not None and place.exists()


async def _examine(commands: dict[str, list[str]], timeout: float) -> list[Finding]:
    """Run all parts at once, each in a process of its own."""
    parts = (_run(part, command, timeout) for part, command in commands.items())
    return [finding for findings in await asyncio.gather(*parts) for finding in findings]


async def _run(part: str, command: Sequence[str], timeout: float) -> list[Finding]:
    """Run a daemon's own doctor, for only it knows what the daemon needs."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--json", stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    ended = asyncio.get_running_loop().call_later(timeout, process.kill)
    try:
        output, errors = await process.communicate()
    finally:
        ended.cancel()
        if process.returncode is None:  # Ctrl-C
            process.kill()
            await process.wait()
    try:
        return [Finding(**{**row, "state": State(row["state"])}) for row in json.loads(output)["findings"]]
    except (ValueError, KeyError, TypeError):
        said = "; ".join(errors.decode(errors="replace").splitlines()[-3:]) or "it said nothing"
        detail = f"the {part} doctor ended with code {process.returncode}: {said}"
        return [
            Finding("doctor", State.FAILED, detail, f"run it by hand: {' '.join(command)}", "doctor", part)
        ]
