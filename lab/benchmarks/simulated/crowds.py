"""Crowds of `lab.benchmarks.capacity` at a real worker, beside the same ones in simulated time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from flexspec_mq.errors import UsageError
from lab.benchmarks._common import table
from lab.benchmarks.capacity.strategies import STRATEGIES
from lab.benchmarks.capacity.virtual_crowd import Place, VirtualCrowd
from lab.benchmarks.replay.figures import figures
from lab.simulator.cost import DraftTimes, Measured
from lab.simulator.recording import Recording

_FIGURES = "tokens_per_s", "rate", "first_ms", "gap_p99_ms", "rows"


def read_crowds(path: Path) -> dict[str, Any]:
    """What a kept run of `lab.benchmarks.capacity` says of its closed loops at a real worker.

    Raises:
        UsageError: it says nothing of them.
    """
    try:
        found: dict[str, Any] = msgspec.json.decode(path.read_text("utf-8").splitlines()[-1])["results"][
            "cpu"
        ]
        _ = found["levels"], found["device_ms"]
    except (OSError, IndexError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise UsageError(
            f"{path} does not end with crowds at a real worker: {error}",
            hint="keep all that lab.benchmarks.capacity --sections cpu prints on standard output",
        ) from error
    return found


def simulated(
    run: Mapping[str, Any], recording: Recording, times: Measured, seed: int
) -> list[dict[str, Any]]:
    """Each crowd's measured and simulated figures, and its simulated tokens a second as a share of the measured.

    Args:
        run: see `read_crowds`.
        recording: that the run replayed.
        times: of the machine.
        seed: of the run.
    """
    # Its devices ask a node and no API, and a drafted token takes them a constant time.
    times = msgspec.structs.replace(times, request=0.0, device=DraftTimes(token=run["device_ms"]))
    rows = []
    for name, levels in run["levels"].items():
        for clients, measured in levels.items():
            place = Place(recording, STRATEGIES[name], times, 0.0, seed, reads=True)
            crowd = VirtualCrowd(place)
            found = figures(crowd.closed(int(clients), measured["texts"] // int(clients)))
            found["rows"] = crowd.worker_figures()["rows_per_token"]
            rows.append(
                {
                    "strategy": name,
                    "clients": int(clients),
                    "measured": {key: measured[key] for key in _FIGURES},
                    "simulated": {key: found[key] for key in _FIGURES},
                    "ratio": found["tokens_per_s"] / measured["tokens_per_s"],
                    "problems": found["problems"],
                }
            )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print them."""
    lines = [
        [
            f"{row['clients']}, {row['strategy']}",
            row["ratio"],
            *(f"{row['measured'][key]:.4g} {row['simulated'][key]:.4g}" for key in _FIGURES),
        ]
        for row in rows
    ]
    heads = ("tokens/s of all", "9 in 10 have", "first, ms", "gap p99, ms", "rows/token")
    print(table(["clients", "simulated / measured", *heads], lines))
    print("\neach other column: measured, simulated")
