"""Fixed plans that the best one in hindsight is chosen from."""

from __future__ import annotations

from dataclasses import replace

from flexspec_mq.controller.plan import Plan

BASE = Plan(4, 1, 1, 8, 0.0, 8)
"""What an edge node starts from, at QoS 1."""
STREAMING = "nobody drafts"
_AHEAD = 64


def fixed_plans() -> dict[str, Plan]:
    """By a name for people."""

    def one(length: int, window: int, ahead: int, worker: int = 0) -> Plan:
        return replace(BASE, draft_length=length, in_flight=window, ahead=ahead, worker_draft=worker)

    return {
        STREAMING: one(0, 1, _AHEAD),
        "worker drafts": one(0, 1, _AHEAD, BASE.worker_draft),
        **{f"K {length}, waiting": one(length, 1, 0) for length in (2, 4, 8)},
        **{f"K {length}, W {window}": one(length, window, _AHEAD)
           for length, window in ((4, 1), (2, 2), (4, 2), (8, 2), (4, 3))},
        **{f"K 4, W {window}, and worker": one(4, window, _AHEAD, BASE.worker_draft) for window in (1, 2, 3)},
    }  # fmt: skip
