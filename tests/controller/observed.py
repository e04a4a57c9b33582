"""Observations that tests plan from, by hand and drawn, and a short way to change some of their values."""

from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from flexspec_mq.controller.observation import DeviceReading, Observation, WorkerDraftsView
from flexspec_mq.controller.plan import Plan

_PARTS = {"worker": WorkerDraftsView, "device": DeviceReading}
_OF = {f"{part}_{name}": part for part, kind in _PARTS.items() for name in kind.__struct_fields__}


def but(seen: Observation, **changes: Any) -> Observation:
    """The observation with other values; ``worker_granted`` is `granted` of its `worker`."""
    parts: dict[str, dict[str, Any]] = {}
    for name in [name for name in changes if name in _OF]:
        part = _OF[name]
        parts.setdefault(part, {})[name.removeprefix(f"{part}_")] = changes.pop(name)
    for part, values in parts.items():
        changes[part] = msgspec.structs.replace(getattr(seen, part), **values)
    return msgspec.structs.replace(seen, **changes)


def observed(**values: Any) -> Observation:
    """An observation of which only this is known; a draft time counts as measured."""
    timed = values.get("draft_time") is not None
    return but(Observation(), **{"draft_timed": timed, **values})


NEAR = observed(
    rtt=0.02,
    rtt_deviation=0.002,
    forward=0.04,
    draft_time=0.0045,
    acceptance=(0.5, 0.58, 0.62, 0.75),
    judged=20.0,
    row_cost=0.001,
    prompt=100,
    remaining=100,
    worker_verdicts=9,
)
"""A target close by, and a draft that is right half of the time."""

BASE = Plan(draft_length=4, ahead=8, worker_draft=8)
BASES = st.builds(
    Plan,
    draft_length=st.sampled_from((0, 1, 4)),
    ahead=st.sampled_from((0, 8)),
    worker_draft=st.sampled_from((0, 8)),
)


def seconds(most: float) -> SearchStrategy[float]:
    """Times from a millisecond on, and none."""
    return st.just(0.0) | st.floats(0.001, most)


def observations(**fields: SearchStrategy[Any]) -> SearchStrategy[Observation]:
    """Observations of which anything may be known; `fields` are drawn otherwise."""
    anything: dict[str, SearchStrategy[Any]] = {
        "rtt": st.none() | seconds(2.0),
        "rtt_deviation": seconds(1.0),
        "forward": seconds(0.5),
        "forward_deviation": seconds(0.5),
        "draft_time": st.none() | seconds(0.5),
        "row_cost": st.none() | seconds(0.01),
        "queue": seconds(0.5),
        "queueing_delay": seconds(0.5),
        "rate": st.none() | st.floats(0.1, 500.0),
        "judged": st.floats(0.0, 20.0),
        "drafted": st.integers(0, 30),
        "committed": st.integers(0, 64),
        "remaining": st.integers(0, 2**20),
        "prompt": st.integers(0, 4096),
        "acceptance": st.lists(st.floats(0.0, 1.0), min_size=1, max_size=16).map(tuple),
        "worker": st.builds(
            WorkerDraftsView,
            verdicts=st.integers(0, 20),
            per_verdict=st.floats(0.0, 8.0),
            has_read=st.booleans(),
            granted=st.none() | st.integers(1, 8),
        ),
    }
    return st.builds(observed, **{**anything, **fields})
