"""Presets of devices and radios: figures, each with its source. They are data: `presets.toml` beside this module."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from flexspec_mq.energy.model import DevicePower
from flexspec_mq.energy.radio import RadioPower
from flexspec_mq.errors import UsageError

T = TypeVar("T")
DEVICES = ("raspberry-pi-5", "raspberry-pi-4", "phone-4g", "phone-5g", "jetson-orin-nano")
"""Names of the devices that come with the package, so that settings can offer them without reading the file."""
RADIOS = ("ethernet", "wifi", "4g", "5g-nsa")
"""Names of its radios."""
_BYTE_AT_A_MBIT = 8e-9
"""Joules of a byte for each mW per Mbit/s: 1e-3 W, during 8 bits at 1e6 bits a second."""


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number and the key of its source."""

    value: Annotated[float, msgspec.Meta(ge=0)]
    source: str


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device; see `DevicePower`.

    Attributes:
        radio: name of the radio that it has if nobody says otherwise.
    """

    about: str
    radio: str
    idle_w: Figure
    core_w: Figure

    @property
    def power(self) -> DevicePower:
        """Without the sources."""
        return DevicePower(idle_w=self.idle_w.value, core_w=self.core_w.value)


class Radio(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of radio; see `RadioPower`."""

    about: str
    idle_w: Figure
    promotion_s: Figure
    promotion_w: Figure
    hold_s: Figure
    active_w: Figure
    tail_s: Figure
    tail_w: Figure
    up_mw_per_mbit: Figure
    down_mw_per_mbit: Figure

    @property
    def power(self) -> RadioPower:
        """Without the sources."""
        return RadioPower(
            idle_w=self.idle_w.value,
            promotion_s=self.promotion_s.value,
            promotion_w=self.promotion_w.value,
            hold_s=self.hold_s.value,
            active_w=self.active_w.value,
            tail_s=self.tail_s.value,
            tail_w=self.tail_w.value,
            up_j=self.up_mw_per_mbit.value * _BYTE_AT_A_MBIT,
            down_j=self.down_mw_per_mbit.value * _BYTE_AT_A_MBIT,
        )


class Presets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of devices and radios, and the sources that their figures name."""

    sources: dict[str, str]
    radios: dict[str, Radio]
    devices: dict[str, Device]

    def device(self, name: str) -> Device:
        """The device of that name.

        Raises:
            UsageError: there is none.
        """
        return _named(self.devices, name, "device")

    def radio(self, name: str) -> Radio:
        """The radio of that name.

        Raises:
            UsageError: there is none.
        """
        return _named(self.radios, name, "radio")


def figures_of(one: msgspec.Struct) -> dict[str, Figure]:
    """The figures of a device or radio by their names."""
    found = {name: getattr(one, name) for name in one.__struct_fields__}
    return {name: value for name, value in found.items() if isinstance(value, Figure)}


def load_presets(path: Path) -> Presets:
    """Read and check a file of presets.

    Raises:
        UsageError: it cannot be read, or does not hold what it should.
    """
    hint = "docs/energy.md shows what a preset has"
    try:
        made = msgspec.toml.decode(path.read_bytes(), type=Presets)
    except OSError as error:
        raise UsageError(f"the presets in {path} cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} does not hold presets: {error}", hint=hint) from None
    for name, one in [*made.radios.items(), *made.devices.items()]:
        if unknown := sorted({figure.source for figure in figures_of(one).values()} - set(made.sources)):
            raise UsageError(f"preset {name!r}: no source is given for {', '.join(unknown)}", hint=hint)
        if isinstance(one, Device) and one.radio not in made.radios:
            raise UsageError(f"preset {name!r}: there is no radio {one.radio!r}", hint=hint)
    return made


@cache
def built_in() -> Presets:
    """The presets that come with the package."""
    return load_presets(Path(__file__).with_name("presets.toml"))


def _named(among: dict[str, T], name: str, what: str) -> T:
    try:
        return among[name]
    except KeyError:
        raise UsageError(
            f"there is no {what} {name!r} among the energy presets", hint=f"known are {', '.join(among)}"
        ) from None
