"""Are the emulated links what their profiles say? Delay, rate, loss and outages, each way, measured from the sides.

Real UDP packets through network namespaces (root, Linux). One-way delays need no echo, because both sides share the
machine's clock. For each profile with a single state:

- delay: small packets, far apart; their mean beside the profile's delay + jitter + the time to send such a packet
- loss: small packets, closer together; the profile's loss must lie in the 99.9 % interval of what was lost
- rate: packets of 1,500 bytes, a sixth more of them than fit, both ways at once; beside the rate less the loss
- outages (`tunnel`): the lengths of silence in a steady stream beside what the seed says; --quick shortens them

The table says how late the emulator itself was, which grows with the machine's load.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from flexspec_mq.controller.estimators.wilson import wilson
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError
from lab.benchmarks._common import finish, parser, table
from lab.benchmarks.links_probe import IP_UDP, rate_of
from lab.testbed.link.impairment import Impairment
from lab.testbed.link.netns import NetnsLink, netns_link
from lab.testbed.link.profiles import MTU, WAYS, Figure, LinkPlan, Profile, Way, WayFigures, built_in

SMALL = 100
"""Payload bytes of a probe for delay and loss."""
FEWEST = 180
"""Packets of a probe for the rate."""
TOLERANCE = 0.05
Z = 3.29
"""Of a 99.9 % interval."""


@dataclass(frozen=True)
class Seconds:
    """How long each probe lasts."""

    delay: float
    loss: float
    rate: float
    outages: float


class Probe:
    """A stream of packets over one way of a link; see `links_probe`."""

    def __init__(self, link: NetnsLink, way: Way, port: int, *flags: str) -> None:
        self._link, self._way = link, way
        self._port = ["--port", str(port)]
        to = link.address_b if way == "up" else link.address_a
        self._receiver = self._run("b" if way == "up" else "a", ["receive", to, *self._port, *flags])
        self._to = to
        assert self._receiver.stdout is not None
        if self._receiver.stdout.readline() != "ready\n":
            raise RuntimeError("a probe does not start")

    def start(self, size: int, spacing: float, count: int) -> None:
        """Begin to send."""
        flags = ["--size", str(size), "--spacing", repr(spacing), "--count", str(count)]
        self._sender = self._run("a" if self._way == "up" else "b", ["send", self._to, *self._port, *flags])

    def result(self, timeout: float) -> dict[str, Any]:
        """What the receiver saw, with what the sender sent."""
        sent = json.loads(self._sender.communicate(timeout=timeout)[0])
        return {**json.loads(self._receiver.communicate(timeout=timeout)[0]), **sent}

    def _run(self, side: Literal["a", "b"], words: list[str]) -> subprocess.Popen[str]:
        run = self._link.run_a if side == "a" else self._link.run_b
        command = [sys.executable, "-m", "lab.benchmarks.links_probe", *words]
        return run(command, stdout=subprocess.PIPE, text=True)


def both_ways(
    link: NetnsLink, port: int, size: int, spacing: float, seconds: float
) -> dict[Way, dict[str, Any]]:
    """Send the same stream both ways at once."""
    probes = {way: Probe(link, way, port) for way in WAYS}
    for probe in probes.values():
        probe.start(size, spacing, max(2, int(seconds / spacing)))
    return {way: probe.result(seconds + 60) for way, probe in probes.items()}


def measure(name: str, profile: Profile, seed: int, seconds: Seconds) -> list[dict[str, Any]]:
    """Both ways of a profile, without its outages."""
    steady = msgspec.structs.replace(profile, outages=None)
    figures = {way: profile.states[0].figures(way) for way in WAYS}
    jitter = max(one.jitter_ms.value for one in figures.values()) / 1e3
    slowest = min(one.rate_mbit.value for one in figures.values()) * 1e6
    with netns_link(LinkPlan(name, steady, seed)) as link:
        delays = both_ways(link, 5001, SMALL, max(0.003, 4 * jitter), seconds.delay)
        losses = both_ways(link, 5002, SMALL, max(0.001, (SMALL + IP_UDP) * 8 / slowest * 4), seconds.loss)
        late = link.counters.late_ms_mean
        fast = {way: Probe(link, way, 5003) for way in WAYS}
        for way, one in figures.items():
            spacing = MTU * 8 / (one.rate_mbit.value * 1e6) / 1.17
            fast[way].start(MTU - IP_UDP, spacing, max(FEWEST, int(seconds.rate / spacing)))
        rates = {way: rate_of(fast[way].result(seconds.rate + 120)) for way in WAYS}
    return [
        {"profile": name, "way": way, "late_ms_mean": late}
        | compare(one, delays[way], losses[way], rates[way])
        for way, one in figures.items()
    ]


def compare(said: WayFigures, delays: dict[str, Any], losses: dict[str, Any], rate: float) -> dict[str, Any]:
    """What was measured one way, beside what the profile says."""
    delay = said.delay_ms.value + said.jitter_ms.value + (SMALL + IP_UDP) * 8 / said.rate_mbit.value / 1e3
    share = said.loss_percent.value / 100
    seen = delays["delays_ms"]
    sent = delays["sent"] + losses["sent"]
    lost = sent - len(seen) - len(losses["numbers"])
    low, high = wilson(lost, sent, Z)
    row: dict[str, Any] = {
        "delay_ms": sum(seen) / len(seen),
        "delay_ms_expected": delay,
        "delay_ms_least": min(seen),
        "delay_ms_base": said.delay_ms.value,
        "delay_ms_sampling_error": said.jitter_ms.value / math.sqrt(len(seen)),
        "rate_mbit": rate / 1e6,
        "rate_mbit_expected": said.rate_mbit.value * (1 - share),
        "loss_percent": 100 * lost / sent,
        "loss_percent_expected": said.loss_percent.value,
        "loss_percent_interval": [100 * low, 100 * high],
        "packets": sent,
    }
    row["delay_ratio"] = row["delay_ms"] / delay
    row["rate_ratio"] = row["rate_mbit"] / row["rate_mbit_expected"]
    row["ok"] = {
        "delay": abs(row["delay_ratio"] - 1) <= TOLERANCE,
        "rate": abs(row["rate_ratio"] - 1) <= TOLERANCE,
        "loss": low <= share <= high,
    }
    return row


def measure_outages(name: str, profile: Profile, seed: int, seconds: float, *, short: bool) -> dict[str, Any]:
    """Lengths of silence beside the outages that the seed draws."""
    outages = profile.outages
    assert outages is not None
    if short:
        outages = msgspec.structs.replace(
            outages,
            gap_s=Figure(1.0, outages.gap_s.source),
            shortest_s=Figure(0.2, outages.gap_s.source),
            longest_s=Figure(1.0, outages.gap_s.source),
        )
    plan = LinkPlan(name, msgspec.structs.replace(profile, outages=outages), seed)
    spacing = 0.005
    with netns_link(plan) as link:
        longest = outages.longest_s.value
        probe = Probe(link, "up", 5001, "--idle", str(longest + 1), "--first", str(longest + 20))
        began = link.counters.seconds
        probe.start(SMALL, spacing, int(seconds / spacing))
        got = probe.result(seconds + longest + 60)
        ended = got["times"][-1] - got["times"][0] + began
    # Whole outages only: those at the edges are seen in part.
    drawn = [
        end - start
        for start, end in Impairment(plan, "up").outages.between(began, ended)
        if start > began + 1 and end < ended - 0.5
    ]
    gaps = [later - earlier for earlier, later in zip(got["times"], got["times"][1:], strict=False)]
    silent = [gap for gap in gaps if gap > outages.shortest_s.value / 2]
    worst = max(
        (min((abs(gap - length) for gap in silent), default=math.inf) for length in drawn), default=math.nan
    )
    return {
        "profile": name,
        "shortened": short,
        "outages": len(drawn),
        "drawn_s": drawn,
        "silent_s": silent,
        "worst_difference_ms": worst * 1e3,
        "ok": bool(drawn) and worst <= 0.05,
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all profiles, or those asked for."""
    seconds = Seconds(2.5, 0.8, 1.0, 6.0) if options.quick else Seconds(20.0, 20.0, 5.0, 240.0)
    profiles = built_in().profiles
    names = options.profile or [name for name, one in profiles.items() if len(one.states) == 1]
    rows: list[dict[str, Any]] = []
    outages: list[dict[str, Any]] = []
    for name in names:
        profile = built_in().get(name)
        if len(profile.states) > 1:
            raise UsageError(f"{name} has several states; only profiles with one are measured")
        if profile.outages is not None:
            outages.append(measure_outages(name, profile, options.seed, seconds.outages, short=options.quick))
        else:
            rows += measure(name, profile, options.seed, seconds)
    return {"links": rows, "outages": outages}


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    heads = (
        "profile",
        "way",
        "delay ms",
        "said",
        "ratio",
        "Mbit/s",
        "said",
        "ratio",
        "loss %",
        "said",
        "of",
        "late ms",
        "",
    )
    print(
        table(
            heads,
            [
                [
                    row["profile"],
                    row["way"],
                    row["delay_ms"],
                    row["delay_ms_expected"],
                    f"{row['delay_ratio']:.3f}",
                    row["rate_mbit"],
                    row["rate_mbit_expected"],
                    f"{row['rate_ratio']:.3f}",
                    row["loss_percent"],
                    row["loss_percent_expected"],
                    row["packets"],
                    row["late_ms_mean"],
                    " ".join(f"{key} off" for key, ok in row["ok"].items() if not ok) or "ok",
                ]
                for row in results["links"]
            ],
        )
    )
    for row in results["outages"]:
        print(
            f"\n{row['profile']}: {row['outages']} whole outages{' (shortened)' if row['shortened'] else ''}, "
            f"silence differs from what was drawn by {row['worst_difference_ms']:.1f} ms at most"
        )


def _main(argv: Sequence[str]) -> int:
    made = parser(__doc__ or "")
    made.add_argument("--profile", action="append", help="measure only this profile; may be repeated")
    options = made.parse_args(argv)
    began = time.monotonic()
    results = run(options)
    show(results)
    results["seconds"] = round(time.monotonic() - began, 1)
    finish("links", results, quick=options.quick)
    return 0


def main() -> None:
    """Measure and print."""
    sys.exit(run_main(_main))


if __name__ == "__main__":
    main()
