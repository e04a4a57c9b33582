"""Quotas of one device at a worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from flexspec_mq.settings import Section, Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSettings(Section):
    """Bounds of one device; `Setting.help` has the words.

    As long as nobody else wants it, a device may have all of a worker's time, and as many places and tokens as these
    allow. Where others are refused or wait, shares are equal, device by device.
    """

    device_sessions: Annotated[
        int, Setting(help="live sessions that one device may hold, however few others there are", least=1)
    ] = 64
    device_tokens: Annotated[
        int,
        Setting(help="tokens that the live sessions of one device may hold when one more is opened", least=1),
    ] = 262_144
    device_ms: Annotated[
        float,
        Setting(
            help="ms of each second that reading and answering the messages of one device may take, those left out "
            "that brought drafts which were verified",
            unit="ms",
            above=0,
            most=1000,
        ),
    ] = 25.0
    device_burst_ms: Annotated[
        float,
        Setting(help="ms that this may come to at once, after a rest", unit="ms", above=0),
    ] = 300.0
    inbound_mb: Annotated[
        int, Setting(help="memory for messages that wait to be read", unit="MB", least=1, most=2**20)
    ] = 16
