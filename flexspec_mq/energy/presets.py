"""Presets of devices and radios: figures, each with its source. They are data: `presets.toml` beside this module."""

from functools import cache
from pathlib import Path
from typing import Annotated

import msgspec

from flexspec_mq.energy.model import DevicePower, RadioPower

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
        powers = {name: figure.value for name, figure in figures_of(self).items()}
        up_j, down_j = (_BYTE_AT_A_MBIT * powers.pop(f"{way}_mw_per_mbit") for way in ("up", "down"))
        return RadioPower(**powers, up_j=up_j, down_j=down_j)


class Presets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of devices and radios, and the sources that their figures name."""

    sources: dict[str, str]
    radios: dict[str, Radio]
    devices: dict[str, Device]


def figures_of(preset: Device | Radio) -> dict[str, Figure]:
    """The figures of a device or radio by their names."""
    fields = {name: getattr(preset, name) for name in preset.__struct_fields__}
    return {name: value for name, value in fields.items() if isinstance(value, Figure)}


@cache
def built_in() -> Presets:
    """The presets that come with the package."""
    path = Path(__file__).with_name("presets.toml")
    return msgspec.toml.decode(path.read_bytes(), type=Presets)
