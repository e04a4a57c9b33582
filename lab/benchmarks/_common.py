"""Helpers of all benchmarks: arguments, facts about the machine, percentiles, table, JSON.

A benchmark prints a table for people and, as its last line, one JSON object for programs.
"""

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flexspec_mq.daemon.main import run_main

_LIBRARIES = (
    *("flexspec-mq", "torch", "transformers", "numpy", "aiomqtt", "paho-mqtt", "msgspec", "zstandard"),
    "llama-cpp-python",
)


def parser(description: str) -> argparse.ArgumentParser:
    """Make the parser that all benchmarks start from.

    It knows ``--quick`` (less than a minute), ``--prompts PATH`` (one prompt a line; None keeps the
    benchmark's own) and ``--seed``.
    """
    spec = sys.modules["__main__"].__spec__
    made = argparse.ArgumentParser(
        # A folder that is run has the name of its file otherwise, which is __main__.
        prog=None if spec is None else f"python -m {spec.name.removesuffix('.__main__')}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="a rough answer in less than a minute")
    made.add_argument(
        "--prompts", type=Path, metavar="PATH", help="file with one prompt a line: text, or JSON"
    )
    made.add_argument("--seed", type=int, default=0, help="of all that is drawn at random")
    return made


def program(extras: str = "") -> Callable[[Callable[[Sequence[str]], int]], Callable[..., int]]:
    """Main function of a program: of the process's arguments unless it is given others, with errors in words."""
    return lambda main: lambda argv=None: run_main(main, argv, extras=extras)


def say(text: str) -> None:
    """Tell people on standard error how far things are."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of `values` do not exceed: nearest rank.

    Raises:
        ValueError: no values, or a share outside 0 to 1.
    """
    if not values or not 0.0 <= share <= 1.0:
        raise ValueError("a percentile needs values, and a share between 0 and 1")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lay out a text table: first column to the left, the others to the right; floats with 3 digits."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headers), *cells]) for i in range(len(headers))]

    def line(values: Sequence[str]) -> str:
        first, *rest = (
            value.ljust(width) if i == 0 else value.rjust(width)
            for i, (value, width) in enumerate(zip(values, widths, strict=True))
        )
        return "  ".join((first, *rest)).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(list(headers)), rule, *(line(row) for row in cells)])


def finish(name: str, results: Mapping[str, Any], *, quick: bool) -> None:
    """Print the last line: one JSON object with the results and the machine's facts."""
    told = {"benchmark": name, "quick": quick, "environment": machine(), "results": dict(results)}
    print(json.dumps(told))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def machine() -> dict[str, Any]:
    """Facts without which a figure means little: processor, cores, load, versions."""
    found: dict[str, Any] = {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
