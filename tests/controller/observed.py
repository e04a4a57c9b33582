"""Observations that tests plan from, and a short way to change some of their values."""

from __future__ import annotations

from typing import Any

import msgspec

from flexspec_mq.controller.observation import DeviceReading, Observation, WorkerDraftsView

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
