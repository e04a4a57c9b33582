"""Seconds of a phone's channel, from the rows of UCC's 5G dataset. Pure but for reading the file.

The dataset is that of Raca et al., Beyond Throughput, the Next Generation: a 5G Dataset with Channel and Context
Metrics, MMSys 2020, all its logs in one CSV file with a column `file`. A log under ``Download/`` fetches a file again
and again, so its download rate says what the link could carry; every dozen seconds the download pauses for five
pings. What is made of that:

- The round trip of a second is that of the newest pings, as they change slowly.
- Loss counts in the second of its pings only: in between, it is in the rate of the download that goes on.
- Around pings up to three rows of nearly no rate are the pause. They have the rate before it. Longer ones are stalls.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, pairwise
from pathlib import Path

from flexspec_mq.errors import UsageError
from lab.testbed.link.trace import read_text

COLUMNS = (
    "file",
    "Timestamp",
    "NetworkMode",
    "DL_bitrate",
    "UL_bitrate",
    "PINGAVG",
    "PINGSTDEV",
    "PINGLOSS",
)
PAUSE_KBIT = 50.0
"""Rates below are those of a paused download, or of a stall."""
PAUSE_ROWS = 3
"""Rows that a pause for pings has at most."""
_LONGEST_S = 10.0
"""Of a second, where the log has a gap: nobody knows what the channel did in there."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the file.

    Attributes:
        log: it belongs to.
        time: of day, in seconds since an epoch.
        mode: of the network, such as ``5G`` or ``LTE``.
        down_kbit, up_kbit: used by the download, per second.
        ping_ms, deviation_ms: of the pings' round trips; None where none was sent or came back.
        lost: share of the pings, 0 to 1; None where none was sent.
    """

    log: str
    time: float
    mode: str
    down_kbit: float
    up_kbit: float
    ping_ms: float | None
    deviation_ms: float | None
    lost: float | None


@dataclass(frozen=True, slots=True)
class Second:
    """A piece of a channel, about a second long.

    Attributes:
        lasts_s: it goes on for.
        mode: of the network.
        down_kbit, up_kbit: per second; up is what acknowledgements used, so the link can carry at least that.
        ping_ms, deviation_ms: round trip.
        lost: share of round trips, 0 to 1.
    """

    lasts_s: float
    mode: str
    down_kbit: float
    up_kbit: float
    ping_ms: float
    deviation_ms: float
    lost: float


def read_rows(path: Path, under: str) -> list[Row]:
    """The rows of all logs below a folder.

    Args:
        path: of the CSV file, which may be compressed by gzip.
        under: folder that the logs' names begin with, such as ``Download/Driving``.

    Raises:
        UsageError: it cannot be read, lacks a column, has a row that is none, or no such log.
    """
    try:
        lines = read_text(path).splitlines()
    except UnicodeDecodeError:
        raise _no_rows(path, "it is not ASCII text") from None
    reader = csv.DictReader(lines)
    missing = set(COLUMNS) - set(reader.fieldnames or ())
    if missing:
        raise _no_rows(path, f"it has no column {', '.join(sorted(missing))}")
    rows = []
    for found in reader:
        if not (found["file"] or "").startswith(f"{under}/"):
            continue
        try:
            rows.append(_row(found))
        except (TypeError, ValueError) as error:
            raise _no_rows(path, f"line {reader.line_num}: {error}") from None
    if not rows:
        raise _no_rows(path, f"it has no log under {under}/")
    return rows


def seconds_of(rows: Sequence[Row]) -> list[Second]:
    """What a channel did, log after log; seconds before the first pings of a log have those.

    A log without any pings that came back is left out.
    """
    found: list[Second] = []
    for _, log in groupby(rows, key=lambda row: row.log):
        found += _seconds_of_log(list(log))
    return found


def _seconds_of_log(rows: list[Row]) -> list[Second]:
    pings = [(row.ping_ms, row.deviation_ms) for row in rows if row.ping_ms is not None]
    if not pings:
        return []
    ping, deviation = pings[0][0] or 0.0, pings[0][1] or 0.0
    paused = _pauses(rows)
    working = [row for row, pause in zip(rows, paused, strict=True) if not pause]
    if not working:
        return []
    down, up = working[0].down_kbit, working[0].up_kbit
    groups = [list(group) for _, group in groupby(zip(rows, paused, strict=True), lambda pair: pair[0].time)]
    times = [group[0][0].time for group in groups]
    lasts = [min(_LONGEST_S, after - before) for before, after in pairwise(times)]
    found = []
    for group, seconds in zip(groups, [*lasts, 1.0], strict=True):
        lost = 0.0
        for row, _ in group:
            if row.ping_ms is not None:
                ping, deviation = row.ping_ms, row.deviation_ms or 0.0
            lost = max(lost, row.lost or 0.0)
        rates = [(row.down_kbit, row.up_kbit) for row, pause in group if not pause]
        if rates:
            down, up = (sum(column) / len(rates) for column in zip(*rates, strict=True))
        found.append(Second(seconds, group[-1][0].mode, down, up, ping, deviation, lost))
    return found


def _pauses(rows: Sequence[Row]) -> list[bool]:
    """Which rows of a log stand in a pause for pings."""
    pinged = [row.lost is not None for row in rows]
    found = [False] * len(rows)
    for low, run in groupby(range(len(rows)), key=lambda place: rows[place].down_kbit < PAUSE_KBIT):
        places = list(run)
        around = pinged[max(0, places[0] - 1) : places[-1] + 2]
        if low and len(places) <= PAUSE_ROWS and any(around):
            found[places[0] : places[-1] + 1] = [True] * len(places)
    return found


def _row(found: dict[str, str]) -> Row:
    time = datetime.strptime(found["Timestamp"], "%Y.%m.%d_%H.%M.%S")  # noqa: DTZ007  only differences count
    lost = _number(found["PINGLOSS"])
    return Row(
        found["file"],
        (time - datetime(1970, 1, 1)).total_seconds(),  # noqa: DTZ001  likewise
        found["NetworkMode"],
        float(found["DL_bitrate"]),
        float(found["UL_bitrate"]),
        _number(found["PINGAVG"]),
        _number(found["PINGSTDEV"]),
        None if lost is None else lost / 100,
    )


def _number(text: str) -> float | None:
    return float(text) if text else None


def _no_rows(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} holds no rows of channels: {why}",
        hint="lab/README.md says what a folder of recordings holds",
    )
