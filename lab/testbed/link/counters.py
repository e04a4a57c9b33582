"""Counters of a link, per way."""

import msgspec


class WayCounters(msgspec.Struct):
    """Counters of one way. Packets and bytes are those of IP in a `NetnsLink`, chunks and payload in a `ProxyLink`.

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

    def went_out(self, way: WayCounters, size: int, late: float) -> None:
        """Count a packet of one of the ways, `late` seconds after it was due."""
        way.packets_out += 1
        way.bytes_out += size
        self.late_ms_mean += (1e3 * late - self.late_ms_mean) / (self.up.packets_out + self.down.packets_out)
        self.late_ms_max = max(self.late_ms_max, 1e3 * late)

    def lines(self) -> list[str]:
        """A table for people."""
        names = ("packets in", "bytes in", "packets out", "bytes out", "lost", "queue full", "in outage")
        rows = [["way", *names]]
        for title, way in (("a to b", self.up), ("b to a", self.down)):
            rows.append([title, *(f"{count:,}" for count in msgspec.structs.astuple(way))])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        late = f"{self.late_ms_mean:.2f} ms late in the mean, {self.late_ms_max:.1f} ms at most"
        return [*table, f"{self.unit} bytes over {self.seconds:.1f} s; what went out was {late}"]
