"""Processor time of processes and of the machine, from /proc, and what it says about where the limit is."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FULL = 0.9
"""Share of a core, or of all cores, from which on it counts as full."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Processor seconds so far.

    Attributes:
        at: seconds on the monotonic clock.
        processes: by name; user and system time of all threads.
        busy: of the whole machine, all cores together.
        stolen: time that the host gave to others, of the whole machine.
    """

    at: float
    processes: dict[str, float]
    busy: float
    stolen: float


@dataclass(frozen=True, slots=True)
class Use:
    """What was used between two samples.

    Attributes:
        seconds: between them.
        processes: by name, shares of one core.
        busy, stolen: of the whole machine, in cores.
        cores: that it has.
    """

    seconds: float
    processes: dict[str, float]
    busy: float
    stolen: float
    cores: int

    @property
    def others(self) -> float:
        """Cores that were busy with what is not named in `processes`: this process, the kernel, strangers."""
        return max(0.0, self.busy - sum(self.processes.values()))

    def limit(self) -> str:
        """Which process or what else was full, in words."""
        full = [
            f"{name} fills a core ({share:.2f})" for name, share in self.processes.items() if share >= FULL
        ]
        if self.busy + self.stolen >= FULL * self.cores:
            ours = sum(self.processes.values())
            others = f"{self.others:.2f} others', {self.stolen:.2f} taken by the host"
            full.append(f"all {self.cores} cores are full: {ours:.2f} ours, {others}")
        return "; ".join(full) or "no process and no core is full"


def take(pids: Mapping[str, int]) -> Sample:
    """Sample now.

    Raises:
        OSError: a process is gone.
    """
    tick = os.sysconf("SC_CLK_TCK")
    processes = {
        name: process_ticks(Path(f"/proc/{pid}/stat").read_text("ascii", "replace")) / tick
        for name, pid in pids.items()
    }
    busy, stolen = machine_ticks(Path("/proc/stat").read_text("ascii"))
    return Sample(time.monotonic(), processes, busy / tick, stolen / tick)


def between(before: Sample, after: Sample) -> Use:
    """What was used from one sample to another."""
    seconds = after.at - before.at
    return Use(
        seconds,
        {name: (spent - before.processes[name]) / seconds for name, spent in after.processes.items()},
        (after.busy - before.busy) / seconds,
        (after.stolen - before.stolen) / seconds,
        len(os.sched_getaffinity(0)),
    )


def process_ticks(stat: str) -> int:
    """User and system time in a line of /proc/PID/stat. The command's name in it may hold spaces and brackets."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def machine_ticks(stat: str) -> tuple[int, int]:
    """Busy and stolen time in /proc/stat, all cores together."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split("\n", 1)[0].split()[1:9])
    return user + nice + system + irq + softirq, steal
