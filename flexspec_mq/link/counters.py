"""What a link counts, per way."""

from __future__ import annotations

from typing import Any

import msgspec


class WayCounters(msgspec.Struct):
    """One way of a link. Packets and bytes are those of IP in a `NetnsLink`, chunks and payload in a `ProxyLink`.

    Attributes:
        packets_in, bytes_in: that came to the link.
        packets_out, bytes_out: that it delivered.
        lost: packets lost at random; a proxy delays them instead.
        overflowed: packets that the full queue refused.
        in_outage: packets that met an outage; a proxy stalls them instead.
    """

    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    lost: int = 0
    overflowed: int = 0
    in_outage: int = 0


class LinkCounters(msgspec.Struct):
    """Both ways, and how punctual the emulator was.

    Attributes:
        seconds: since the link is up.
        late_ms_mean, late_ms_max: how much later than planned packets went out. A busy machine shows here.
        unit: ``IP`` or ``payload``.
    """

    up: WayCounters
    down: WayCounters
    seconds: float = 0.0
    late_ms_mean: float = 0.0
    late_ms_max: float = 0.0
    unit: str = "IP"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made

    def lines(self) -> list[str]:
        """A table for people."""
        names = ("packets_in", "bytes_in", "packets_out", "bytes_out", "lost", "overflowed", "in_outage")
        heads = [
            "way",
            "packets in",
            "bytes in",
            "packets out",
            "bytes out",
            "lost",
            "queue full",
            "in outage",
        ]
        rows = [
            [title, *(f"{getattr(way, name):,}" for name in names)]
            for title, way in (("a to b", self.up), ("b to a", self.down))
        ]
        widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
        table = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in [heads, *rows]
        ]
        late = f"{self.late_ms_mean:.2f} ms late in the mean, {self.late_ms_max:.1f} ms at most"
        return [*table, f"{self.unit} bytes over {self.seconds:.1f} s; what went out was {late}"]
