"""Retained status documents: JSON-like maps, because people and dashboards read them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.messages import Name


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What a cloud worker says of itself on ``f1/w/<worker>``; its will says ``gone``.

    Attributes:
        epoch: start time of this process in ms; a late will of an older life carries an older epoch.
        at: seconds since the Unix epoch, when this was written.
        exactness: ``exact``, or ``exact up to ties`` where the proof of shape-invariance failed.
        flip_rate: measured share of tokens that differ, where not exact.
        load: sessions held now.
        capacity: sessions that it would hold.
        lease: seconds.
    """

    state: Literal["online", "draining", "gone"]
    epoch: int
    at: float
    worker: Name
    version: str = ""
    protocol: int = 1
    fingerprint: str = ""
    exactness: Literal["exact", "exact up to ties", "unknown"] = "unknown"
    flip_rate: float | None = None
    device: str = ""
    dtype: str = ""
    load: Annotated[int, Meta(ge=0)] = 0
    capacity: Annotated[int, Meta(ge=0)] = 0
    lease: int = 0


class EdgeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What an edge node says of itself on ``f1/e/<edge>``; its will says ``gone``."""

    state: Literal["online", "gone"]
    epoch: int
    at: float
    edge: Name
    draft: str = ""
    sessions: int = 0
