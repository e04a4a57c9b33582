"""The clocks of the machine, by which ages of requests are told without jumps where one of them is set."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


def _up() -> float:
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Clock:
    """The clocks of the machine.

    Attributes:
        wall: seconds since the Unix epoch, as far as the machine knows: somebody may set it at any time.
        up: seconds since the machine was started, those asleep included.
        boot: name of that start; empty on systems that give it none, whose starts cannot be told apart.
    """

    wall: Callable[[], float] = time.time
    up: Callable[[], float] = _up
    boot: str = field(default_factory=_boot)
