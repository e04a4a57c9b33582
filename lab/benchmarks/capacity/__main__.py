"""How many clients one worker carries at a rate each, by who drafts.

Four strategies: streaming; drafts at the worker for everybody, always (``colocated``); drafts on the devices
(``device``); and what an edge does without any flags (``default``). Edges replay recorded drafts at a device's pace,
so that they take no core from the worker, and every text is compared with what the target alone writes.

- cpu: a real ``flexspec-cloud`` on one core, real edges in one process on the other, Mosquitto between them
- accelerator: simulated time, the real protocol machines and rule of rows, and a step that costs the larger of
  reading the weights and computing its rows, plus the keys and values of its sessions
- greedy: what ordinary sessions of a real worker lose to one that asks for 64 drafts a batch

A crowd is carried at the rate that nine texts in ten have at least, the wait for the first piece included.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.benchmarks._common import finish, parser
from lab.benchmarks.capacity import accelerator, cpu, greedy
from lab.benchmarks.capacity.strategies import STRATEGIES
from lab.benchmarks.replay import record
from lab.simulator.recording import Recording, keep_recording

SECTIONS = ("cpu", "accelerator", "greedy")


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure"
    )
    made.add_argument("--strategies", nargs="+", choices=tuple(STRATEGIES), default=list(STRATEGIES))
    made.add_argument(
        "--rates",
        type=float,
        nargs="+",
        metavar="R",
        help="tokens per second of each client; else some for each section",
    )
    made.add_argument("--each", type=int, default=2, help="texts of a client that count, at least")
    record.add_arguments(made)
    cpu.add_arguments(made)
    accelerator.add_arguments(made)
    greedy.add_arguments(made)
    return made


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    for part in (record, cpu, accelerator, greedy):
        part.check(options)
    if options.each < 1:
        raise UsageError(f"--each {options.each} is less than 1")
    if options.rates and min(options.rates) <= 0.0:
        raise UsageError(f"--rates {min(options.rates):g} is not above 0")
    for name in ("sections", "strategies"):
        if len(set(getattr(options, name))) < len(getattr(options, name)):
            raise UsageError(f"--{name} names one twice")


def shorten(options: Namespace) -> None:
    """Make it a rough answer in about a minute."""
    options.questions, options.tokens = min(options.questions, 3), min(options.tokens, 16)
    options.temperatures = options.temperatures[:1]
    options.each = 1
    options.sections = [name for name in options.sections if name != "greedy"] or options.sections
    options.clients, options.together, options.rounds = options.clients[:1], 2, 1
    options.cpu_offered, options.offered = [], options.offered[:1]
    options.open_texts = min(options.open_texts, 20)
    options.draft_shares = options.draft_shares[:1]
    options.most_clients, options.growth = min(options.most_clients, 64), max(options.growth, 4.0)
    options.ordinary, options.greedy_rounds = min(options.ordinary, 4), 1


def _section(name: str, options: Namespace, recording: Recording, path: Path) -> dict[str, Any]:
    print(f"== {name}", flush=True)
    if name == "accelerator":
        found = accelerator.measure(options, recording)
        accelerator.show(found)
    elif name == "cpu":
        found = asyncio.run(cpu.measure(options, recording, path))
        cpu.show(found)
    else:
        found = asyncio.run(greedy.measure(options, recording, path))
        greedy.show(found)
    sys.stdout.flush()
    return found


def measure(options: Namespace) -> int:
    """Measure and print.

    Raises:
        FlexSpecError: a process failed, or a text is not what the target alone writes.
    """
    check(options)
    if options.quick:
        shorten(options)
    recording = record.recording(options)
    with tempfile.TemporaryDirectory(prefix="flexspec-capacity-") as folder:
        path = options.recording or Path(folder, "recording.json")
        if not path.exists():
            keep_recording(path, recording)
        results = {name: _section(name, options, recording, path) for name in options.sections}
    finish("capacity", {"texts": len(recording.texts), **results}, quick=options.quick)
    wrong = {name: found["wrong"] for name, found in results.items() if found["wrong"]}
    if wrong:
        raise FlexSpecError(f"texts that are not what the target alone writes: {wrong}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
