"""Networks by name, for forecasts and the demo: steady, without loss. `lab/testbed/link/profiles.toml` has sources."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """A link between device and broker.

    Attributes:
        trip: mean milliseconds of a round trip.
        up, down: Mbit/s.
    """

    trip: float
    up: float
    down: float

    def seconds(self, up: float, down: float) -> float:
        """Seconds of a round trip with so many bytes each way."""
        return self.trip / 1e3 + up / self.up / 125e3 + down / self.down / 125e3


LINKS: Mapping[str, LinkProfile] = {
    "loopback": LinkProfile(0.0, 1e4, 1e4),
    "wifi": LinkProfile(3.2, 50.0, 50.0),
    "4g": LinkProfile(21.0, 7.6, 29.5),
    "satellite": LinkProfile(44.0, 13.54, 87.25),
}
