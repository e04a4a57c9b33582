"""Changed payloads read or refused: faults that were found, and processor time against a bound for each target.

The corpus beside this file holds one payload of every way in which something was read or refused, by lines of a target
and hexadecimal digits.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lab.fuzz import machines
from lab.fuzz.decoders import Bound, Decoder
from lab.fuzz.mutate import mutant

_REPEATS = 5
_MACHINE = Bound(3000.0, 5.0)
_HEAVY = 0.01
"""Share of mutants of what costs most."""
_ENOUGH = 100
"""Failures at which a run ends."""


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


def corpus() -> dict[str, list[bytes]]:
    """Payloads that are kept, by target."""
    payloads: dict[str, list[bytes]] = {}
    for line in Path(__file__).with_name("corpus.txt").read_text(encoding="ascii").splitlines():
        where, _, digits = line.rpartition(" ")
        payloads.setdefault(where, []).append(bytes.fromhex(digits))
    return payloads


class FuzzRun:
    """Payloads that targets read, and what came of it.

    Args:
        decoders: decoders to fuzz; the machines are known.
        clock: nanoseconds of processor time of this thread, which nobody else's work lengthens.

    Attributes:
        bounds: bounds by target.
        kinds: payloads by target and the kind that they were read as.
        failures: see `Failure`.
    """

    def __init__(self, decoders: Sequence[Decoder], clock: Callable[[], int] = time.thread_time_ns) -> None:
        self._decoders = decoders
        self.clock = clock
        self.bounds = {decoder.name: decoder.bound for decoder in decoders}
        self.bounds |= dict.fromkeys((machines.WORKER, machines.SESSION), _MACHINE)
        self.kinds = Counter[tuple[str, str]]()
        self.failures: list[Failure] = []

    def fuzz(self, count: int, seed: int) -> None:
        """Have each decoder read its share of so many mutants, after the corpus."""
        known = corpus()
        for decoder in self._decoders:
            rng = random.Random(f"{seed} {decoder.name}")
            seeds = [*decoder.seeds, *known.get(decoder.name, ())]
            for payload in (*seeds, *decoder.heavy):
                self.read(decoder.name, payload, decoder.read)
            for _ in range(count // len(self._decoders)):
                heavy = decoder.heavy and rng.random() < _HEAVY
                base = rng.choice(decoder.heavy if heavy else rng.choice((decoder.seeds, seeds)))
                self.read(decoder.name, mutant(rng, base, seeds, decoder.mutators), decoder.read)

    def converse(self, count: int, seed: int) -> None:
        """Run cases of both machines until so many payloads were received; a case over a bound is run again."""
        enough, case = self.kinds.total() + count, 1_000_000 * seed
        while self.kinds.total() < enough and len(self.failures) < _ENOUGH:
            try:
                received = machines.run(case, self.clock)
                over = any(self._over(where, payload, us) for where, _, payload, us in received)
                for _ in range(3 if over else 0):
                    again = machines.run(case, self.clock)
                    received = [
                        (*one[:3], min(one[3], other[3])) for one, other in zip(received, again, strict=True)
                    ]
            except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
                self.failures.append(Failure("machines", f"case {case}: {error!r}", b""))
                received = []
            for where, how, payload, us in received:
                self._note(where, how, payload, us)
            case += 1

    def read(self, where: str, payload: bytes, read: Callable[[bytes], str]) -> None:
        """Read a payload and note what it cost; one that seems to cost too much is read again, for its least cost.

        Args:
            where: target.
            payload: bytes to read.
            read: gives how it was read or refused; what it raises is a failure.
        """
        began = self.clock()
        try:
            how = read(payload)
            took = self.clock() - began
            if self._over(where, payload, took / 1000):
                for _ in range(_REPEATS):
                    began = self.clock()
                    read(payload)
                    took = min(took, self.clock() - began)
        except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
            self.failures.append(Failure(where, f"crash: {error!r}", payload))
            return
        self._note(where, how, payload, took / 1000)

    def _over(self, where: str, payload: bytes, us: float) -> bool:
        return us > self.bounds[where].limit(len(payload))

    def _note(self, where: str, how: str, payload: bytes, us: float) -> None:
        self.kinds[where, how.partition(":")[0]] += 1
        if self._over(where, payload, us):
            limit = self.bounds[where].limit(len(payload))
            what = f"{us:.0f} us for {len(payload)} bytes, more than {limit:.0f}"
            self.failures.append(Failure(where, what, payload))
