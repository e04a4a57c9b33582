"""Cost of reading: processor time of each payload, against a bound for its kind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

_REPEATS = 5


class Bound(NamedTuple):
    """Microseconds of processor time that a payload may take: some in any case, and some for each of its bytes."""

    fixed: float
    byte: float

    def limit(self, size: int) -> float:
        """For a payload of so many bytes."""
        return self.fixed + self.byte * size


class Failure(NamedTuple):
    """A fault that was found.

    Attributes:
        where: target.
        what: description of the fault.
        payload: bytes that did it.
    """

    where: str
    what: str
    payload: bytes


@dataclass(slots=True)
class KindCosts:
    """A kind of payload, as it was read.

    Attributes:
        count: payloads.
        total_us: processor time of all.
        worst_us: microseconds of the worst, and `worst_size` its bytes.
        excess: the largest share of its bound that any has taken.
    """

    count: int = 0
    total_us: float = 0.0
    worst_us: float = 0.0
    worst_size: int = 0
    excess: float = 0.0


@dataclass(slots=True)
class FuzzCosts:
    """All that was measured.

    Args:
        bounds: bounds by target.
        clock: nanoseconds of processor time of this thread, which nobody else's work lengthens.

    Attributes:
        lines: lines by target and kind.
        failures: see `Failure`.
    """

    bounds: dict[str, Bound]
    clock: Callable[[], int] = time.thread_time_ns
    lines: dict[tuple[str, str], KindCosts] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Payloads so far."""
        return sum(line.count for line in self.lines.values())

    def read(self, where: str, payload: bytes, read: Callable[[bytes], str]) -> None:
        """Read a payload and note what it cost; one that seems to cost too much is read again, for its least cost.

        Args:
            where: target.
            payload: bytes to read.
            read: gives how it was read or refused; what it raises is a failure.
        """
        began = self.clock()
        try:
            signature = read(payload)
            took = self.clock() - began
            if took > 1000 * self.bounds[where].limit(len(payload)):
                for _ in range(_REPEATS):
                    began = self.clock()
                    read(payload)
                    took = min(took, self.clock() - began)
        except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
            self.failures.append(Failure(where, f"crash: {error!r}", payload))
            return
        self.took(where, signature, payload, took / 1000)

    def took(self, where: str, signature: str, payload: bytes, us: float) -> None:
        """Note what reading a payload cost, in microseconds."""
        kind, _, _ = signature.partition(":")
        line = self.lines.setdefault((where, kind), KindCosts())
        line.count += 1
        line.total_us += us
        bound = self.bounds[where].limit(len(payload))
        if us > line.worst_us:
            line.worst_us, line.worst_size = us, len(payload)
        line.excess = max(line.excess, us / bound)
        if us > bound:
            what = f"{us:.0f} us for {len(payload)} bytes, more than {bound:.0f}"
            self.failures.append(Failure(where, what, payload))
