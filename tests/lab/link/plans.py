"""Profiles for tests, written as numbers."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lab.testbed.link.profiles import Figure, LinkPlan, Outages, Profile, State, WayFigures


def figure(value: float) -> Figure:
    return Figure(value, "test")


def figures(
    delay: float = 10.0, jitter: float = 0.0, rate: float = 8.0, loss: float = 0.0, queue: float = 1000.0
) -> WayFigures:
    return WayFigures(figure(delay), figure(jitter), figure(rate), figure(loss), figure(queue))


def state(both: WayFigures, name: str = "steady", dwell: float | None = None) -> State:
    return State(name, both, both, None if dwell is None else figure(dwell))


def plan(
    both: WayFigures | None = None, *states: State, outages: Outages | None = None, seed: int = 0, **more: Any
) -> LinkPlan:
    """A plan of one state with such figures both ways, or of these states; `more` are fields of the plan."""
    return LinkPlan("test", Profile("a test", states or (state(both or figures()),), outages), seed, **more)


OUTAGES = Outages(figure(0.5), figure(0.05), figure(0.4))


def _why_no_namespaces() -> str:
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "there is no `ip` command"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    return ""


needs_namespaces = pytest.mark.skipif(
    bool(_why_no_namespaces()), reason=_why_no_namespaces() or "all is there"
)
