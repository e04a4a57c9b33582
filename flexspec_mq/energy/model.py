"""From counted things to joules. Pure: what the powers are, `presets.py` says."""

from __future__ import annotations

from dataclasses import dataclass, field

from flexspec_mq.energy.radio import RadioActivity, RadioPower


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePower:
    """A device without its radio, in watts.

    Attributes:
        idle_w: when it has nothing to do.
        core_w: power that a busy core adds.
    """

    idle_w: float
    core_w: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of one or more texts.

    Attributes:
        seconds: time that they took.
        drafting_s: seconds of a core that drafting kept busy; two cores for a second are two.
        radio: activity of the radio for the packets.
        bytes_up, bytes_down: IP bytes.
    """

    seconds: float = 0.0
    drafting_s: float = 0.0
    radio: RadioActivity = field(default_factory=RadioActivity)
    bytes_up: int = 0
    bytes_down: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            seconds=self.seconds + other.seconds,
            drafting_s=self.drafting_s + other.drafting_s,
            radio=self.radio + other.radio,
            bytes_up=self.bytes_up + other.bytes_up,
            bytes_down=self.bytes_down + other.bytes_down,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules, by part.

    Attributes:
        idle_j: draw of the device and a sleeping radio in any case, for as long as the text took.
        compute_j: drafting.
        radio_active_j: waking, listening and carrying bytes.
        radio_tail_j: the connection that is kept open after packets.
    """

    idle_j: float = 0.0
    compute_j: float = 0.0
    radio_active_j: float = 0.0
    radio_tail_j: float = 0.0

    def __add__(self, other: Energy) -> Energy:
        return Energy(
            idle_j=self.idle_j + other.idle_j,
            compute_j=self.compute_j + other.compute_j,
            radio_active_j=self.radio_active_j + other.radio_active_j,
            radio_tail_j=self.radio_tail_j + other.radio_tail_j,
        )

    @property
    def total_j(self) -> float:
        """Joules of all parts."""
        return self.idle_j + self.compute_j + self.radio_active_j + self.radio_tail_j


def energy(device: DevicePower, radio: RadioPower, counts: Counts) -> Energy:
    """Energy of counted things: linear in each count."""
    did = counts.radio
    carried = radio.up_j * counts.bytes_up + radio.down_j * counts.bytes_down
    return Energy(
        idle_j=(device.idle_w + radio.idle_w) * counts.seconds,
        compute_j=device.core_w * counts.drafting_s,
        radio_active_j=radio.promotion_w * did.promotion_s + radio.active_w * did.active_s + carried,
        radio_tail_j=radio.tail_w * did.tail_s,
    )


def round_energy(
    device: DevicePower,
    radio: RadioPower,
    *,
    seconds: float,
    drafting_s: float,
    bytes_up: int,
    bytes_down: int,
    packets: int = 2,
) -> Energy:
    """Energy of one more round of a plan while a text is being written, for choosing among plans.

    The tail after the last packet of the text is no part of it: every plan leaves one.

    Args:
        device: powers of the drafting device.
        radio: powers of the radio that carries the round.
        seconds: the round's time.
        drafting_s: seconds of a core that it drafts.
        bytes_up: IP bytes.
        bytes_down: IP bytes.
        packets: number of those that pass in it, at even distances; at least one.
    """
    gap = radio.between_packets(seconds / packets)
    counts = Counts(
        seconds=seconds,
        drafting_s=drafting_s,
        radio=RadioActivity(
            wake_ups=packets * gap.wake_ups,
            promotion_s=packets * gap.promotion_s,
            active_s=packets * gap.active_s,
            tail_s=packets * gap.tail_s,
        ),
        bytes_up=bytes_up,
        bytes_down=bytes_down,
    )
    return energy(device, radio, counts)


def per_hundred(joules: float, tokens: int) -> float | None:
    """Joules per 100 tokens; None without a token."""
    return 100 * joules / tokens if tokens else None


def in_words(joules: float, per_100: float | None, source: str) -> str:
    """Energy of a text in a few words."""
    each = "" if per_100 is None else f", {per_100:.1f} J for 100 tokens"
    return f"{joules:.1f} J{each} ({source})"
