"""From counted things to joules. Pure: `presets.py` has the powers."""

from __future__ import annotations

from dataclasses import dataclass

from flexspec_mq.energy.radio import RadioPower


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePower:
    """A device without its radio, in watts.

    Attributes:
        idle_w: power with nothing to do.
        core_w: power that one busy core adds.
    """

    idle_w: float
    core_w: float


def joules(
    device: DevicePower,
    radio: RadioPower,
    awake: float,
    *,
    seconds: float,
    core_s: float,
    bytes_up: float,
    bytes_down: float,
) -> float:
    """Energy of counted things, linear in each of them, so that texts add up.

    Args:
        device: powers of the device.
        radio: powers of the radio.
        awake: joules of the radio for being awake, in whole.
        seconds: time that a text took, in which device and sleeping radio draw in any case.
        core_s: seconds of a core that drafting kept busy; two cores for a second are two.
        bytes_up: bytes of IP.
        bytes_down: likewise.
    """
    idle = (device.idle_w + radio.idle_w) * seconds
    carried = radio.up_j * bytes_up + radio.down_j * bytes_down
    return idle + device.core_w * core_s + awake + carried


def per_hundred(spent: float, tokens: int) -> float | None:
    """Joules per 100 tokens; None without a token."""
    return 100 * spent / tokens if tokens else None


def in_words(spent: float, per_100: float | None, source: str) -> str:
    """Energy of a text, in a few words."""
    each = "" if per_100 is None else f", {per_100:.1f} J for 100 tokens"
    return f"{spent:.1f} J{each} ({source})"
