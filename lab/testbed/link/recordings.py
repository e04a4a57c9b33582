"""Links as they were recorded: the channels of a folder of recordings, which is read and never copied.

A channel is either a pair of mahimahi traces, ``NAME.up.gz`` and ``NAME.down.gz``, or the logs of one kind in
``ucc-5g.csv.gz`` (see `drives`). Traces hold no delay, so theirs is that of the CSV file's pings in a network of the
same generation, one after the other as they were recorded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from flexspec_mq.errors import UsageError
from lab.testbed.link import markov, tour
from lab.testbed.link.profiles import MTU, Catalogue, Figure, LinkPlan, Profile, State, WayFigures, built_in
from lab.testbed.link.trace import read_trace
from lab.testbed.link.ucc_dataset import Row, Second, read_rows, seconds_of

PREFIX = "recorded:"
"""Of the names of recorded links."""
DRIVES = "ucc-5g.csv.gz"
LOGS = {"5g-driving": "Download/Driving", "5g-static": "Download/Static"}
"""Folders of logs by the channel's name."""
GENERATIONS = {
    "5g": frozenset({"5G"}),
    "lte": frozenset({"LTE"}),
    "umts": frozenset({"UMTS", "HSDPA", "HSUPA", "HSPA+"}),
    "evdo": frozenset({"UMTS", "HSDPA", "HSUPA", "HSPA+"}),
}
"""Network modes whose pings a trace gets, by a word of its name."""
QUEUE_S = 0.25
"""Of a queue at the mean rate, as in the built-in profiles."""
LEAST_QUEUE_KB = 64.0
LEAST_MBIT = 0.001
"""Of a way in a stall: nearly nothing, and a packet that waits goes on at the rate that follows."""
UP_SHARE = {"5G": 14.7 / 129.9}
OTHER_UP_SHARE = 7.6 / 29.5
"""Upload as a share of download, Ofcom 2023 on 5G and 4G: a log of downloads does not say what the way up carries."""
PING_EVERY_S = 13.0
"""Seconds for which a trace keeps the delay of one ping; the logs ping as often."""
_LOSS = Figure(0.1, "assumption: what the radio does not repeat")
_SOURCE, _QUEUE = "recorded", "assumption: a quarter of a second at the mean rate"
_UP = "assumption: download times Ofcom's ratio"


def link_plan(name: str, seed: int, folder: Path | None, catalogue: Catalogue | None = None) -> LinkPlan:
    """The plan of a link by its name.

    That of a profile, ``tour:PROFILE=SECONDS,…``, ``markov:PROFILE,…`` or ``recorded:CHANNEL``.

    Args:
        name: of the link.
        seed: of all that is drawn at random.
        folder: of recordings.
        catalogue: of profiles; the built-in ones if not given.

    Raises:
        UsageError: there is no such link, or its recording cannot be read.
    """
    profiles = built_in() if catalogue is None else catalogue
    if name.startswith(tour.PREFIX):
        return tour.tour_plan(name, seed, profiles)
    if name.startswith(markov.PREFIX):
        return markov.markov_plan(name, seed, profiles)
    if not name.startswith(PREFIX):
        return LinkPlan(name, profiles.get(name), seed)
    if folder is None:
        raise UsageError(f"{name} needs a folder of recordings", hint="name it with --recorded FOLDER")
    channel = name.removeprefix(PREFIX).lower()
    known = channels(folder)
    if channel not in known:
        there = ", ".join(f"{PREFIX}{one}" for one in known) or "none"
        raise UsageError(f"{folder} has no recorded channel {channel!r}", hint=f"there are: {there}")
    if channel in LOGS:
        return _of_seconds(name, seconds_of(read_rows(folder / DRIVES, LOGS[channel])), seed)
    up, down = (
        read_trace(known[channel].with_name(f"{known[channel].name}.{way}.gz")) for way in ("up", "down")
    )
    return _of_traces(name, up, down, _pings(folder, channel), seed)


def channels(folder: Path) -> dict[str, Path]:
    """What a folder holds: path of each channel by its name, for traces without the last two suffixes.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        files = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise UsageError(f"the recordings in {folder} cannot be read: {error.strerror}") from None
    stems = sorted(name.removesuffix(".up.gz") for name in files if name.endswith(".up.gz"))
    found = {stem.lower(): folder / stem for stem in stems if f"{stem}.down.gz" in files}
    return {**found, **dict.fromkeys(LOGS, folder / DRIVES)} if DRIVES in files else found


def _pings(folder: Path, channel: str) -> list[Row]:
    """Rows with round trips for a trace, in their order."""
    wanted = next((names for word, names in GENERATIONS.items() if word in channel), None)
    if wanted is None:
        raise UsageError(
            f"the name of the trace {channel!r} does not say of which network it is",
            hint=f"it should hold one of {', '.join(GENERATIONS)}",
        )
    rows = read_rows(folder / DRIVES, LOGS["5g-driving"])
    found = [row for row in rows if row.mode in wanted and row.ping_ms is not None]
    if not found:
        raise UsageError(f"{folder / DRIVES} has no pings for the trace {channel!r}")
    return found


def _of_traces(
    name: str, up: tuple[int, ...], down: tuple[int, ...], pings: Sequence[Row], seed: int
) -> LinkPlan:
    rates = _mean_mbit(up), _mean_mbit(down)
    states = []
    for number, row in enumerate(pings):
        delay, jitter = (
            Figure(value, _SOURCE) for value in one_way(row.ping_ms or 0.0, row.deviation_ms or 0.0)
        )
        one, other = (WayFigures(delay, jitter, Figure(rate, _SOURCE), _LOSS, _queue(rate)) for rate in rates)
        states.append(State(f"ping {number}", one, other))
    about = "mahimahi traces; delay and jitter as another network of the generation was pinged"
    lasts = (PING_EVERY_S,) * len(states)
    return LinkPlan(name, Profile(about, tuple(states)), seed, False, up, down, lasts)


def _of_seconds(name: str, seconds: Sequence[Second], seed: int) -> LinkPlan:
    total = sum(second.lasts_s for second in seconds)
    if not total:
        raise UsageError(f"the logs of {name} hold no pings that came back")
    rates = [_rates(second) for second in seconds]
    queues = [
        _queue(sum(rate[way] * second.lasts_s for rate, second in zip(rates, seconds, strict=True)) / total)
        for way in (0, 1)
    ]
    states = []
    for number, (second, rate) in enumerate(zip(seconds, rates, strict=True)):
        delay, jitter = one_way(second.ping_ms, second.deviation_ms)
        loss = Figure(100 * (1 - math.sqrt(1 - second.lost)), _SOURCE)
        up, down = (
            WayFigures(
                Figure(delay, _SOURCE), Figure(jitter, _SOURCE), Figure(rate[way], source), loss, queues[way]
            )
            for way, source in ((0, _UP), (1, _SOURCE))
        )
        states.append(State(f"second {number}", up, down))
    about = "a phone's logs, second by second"
    return LinkPlan(
        name, Profile(about, tuple(states)), seed, lasts_s=tuple(second.lasts_s for second in seconds)
    )


def one_way(ping_ms: float, deviation_ms: float) -> tuple[float, float]:
    """Least delay and mean jitter of each way, in ms, whose round trips have this mean and this deviation.

    Exponential jitter deviates by its mean, the sum of two by √2 times that. Where the deviation is too large for
    that, all of the round trip is jitter: the mean is kept.
    """
    jitter = min(deviation_ms / math.sqrt(2), ping_ms / 2)
    return ping_ms / 2 - jitter, jitter


def _rates(second: Second) -> tuple[float, float]:
    """Up and down, Mbit/s."""
    down = second.down_kbit / 1000
    up = max(second.up_kbit / 1000, down * UP_SHARE.get(second.mode, OTHER_UP_SHARE))
    return max(LEAST_MBIT, up), max(LEAST_MBIT, down)


def _mean_mbit(trace: Sequence[int]) -> float:
    return len(trace) * MTU * 8 / 1000 / trace[-1]


def _queue(mbit: float) -> Figure:
    return Figure(max(LEAST_QUEUE_KB, mbit * 1000 / 8 * QUEUE_S), _QUEUE)
