"""What a recording is to be of."""

from __future__ import annotations

import msgspec

from lab.simulator.recording import About


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Given to `lab.recording`.

    Attributes:
        about: what it is of.
        texts: what is asked, one question each.
        seeds: of the answers.
        rounds: how often the times of forwards are measured.
        device_core: on which devices of this machine draft; None where that is the worker's.
    """

    about: About
    texts: tuple[str, ...]
    seeds: tuple[int, ...]
    rounds: int
    device_core: int | None = None
