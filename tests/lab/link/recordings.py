"""A small folder of recordings, in the form of those that exist."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path

HEADER = "file,Timestamp,Speed,NetworkMode,RSRP,SNR,DL_bitrate,UL_bitrate,PINGAVG,PINGMIN,PINGMAX,PINGSTDEV,PINGLOSS"
DRIVE, OTHER = "Download/Driving/B_1.csv", "Amazon_Prime/Driving/B_2.csv"


def row(
    second: float,
    down: float,
    *,
    mode: str = "5G",
    log: str = DRIVE,
    up: float = 10,
    ping: Sequence[float] = (),
) -> str:
    """A line; `ping` is mean, deviation and loss in percent, or the loss alone if nothing came back."""
    minute, rest = divmod(int(second), 60)
    time = f"2020.01.16_07.{minute:02}.{rest:02}"
    mean, deviation, loss = ("", "", "") if not ping else ("", "", f"{ping[-1]}")
    if len(ping) == 3:
        mean, deviation = f"{ping[0]}", f"{ping[1]}"
    return f"{log},{time},50,{mode},-90,,{down:g},{up:g},{mean},{mean},{mean},{deviation},{loss}"


def write_rows(folder: Path, lines: Iterable[str], header: str = HEADER) -> Path:
    """The CSV file."""
    path = folder / "ucc-5g.csv.gz"
    path.write_bytes(gzip.compress("\n".join((header, *lines, "")).encode("ascii")))
    return path


def write_trace(folder: Path, name: str, times: Iterable[int]) -> Path:
    """A trace; `name` ends in ``.up.gz`` or ``.down.gz``."""
    path = folder / name
    path.write_bytes(gzip.compress("".join(f"{time}\n" for time in times).encode("ascii")))
    return path
