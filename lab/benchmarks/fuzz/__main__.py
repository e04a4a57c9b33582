"""Hostile bytes for every decoder of ours and for both machines of the protocol: no crash, no hang, and a price.

::

    python -m lab.benchmarks.fuzz --mutants 1000000        # some minutes
    python -m lab.benchmarks.fuzz --quick                  # 20,000 of them
    python -m lab.benchmarks.fuzz --only "message at a worker" --seed 7

Payloads are changed blindly, by structure (fields of session messages, words of documents), and by pieces of each
other. The corpus beside this file holds one payload of every way in which something was read or refused. It is
replayed first. Reading costs processor time of this thread, bounded by
microseconds for a payload and for each of its bytes. A payload over its bound is read again and counts with its least
cost; with machines the whole case is run again. Failures are printed in hexadecimal, and the exit code is 1.
"""

from __future__ import annotations

import faulthandler
import gc
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from lab.benchmarks import _common
from lab.benchmarks.fuzz import corpus, machines
from lab.benchmarks.fuzz.cost import Bound, Failure, FuzzCosts
from lab.benchmarks.fuzz.decoders import Decoder, decoders
from lab.benchmarks.fuzz.mutate import mutant

MUTANTS, QUICK = 1_000_000, 20_000
_MACHINES = {machines.WORKER: Bound(3000.0, 5.0), machines.SESSION: Bound(3000.0, 5.0)}
_OF_MACHINES = 0.2
"""Share of the mutants that the machines get."""
_HEAVY = 0.01
"""Share of mutants of what costs most."""
_CHUNK = 2000
_ENOUGH = 100
"""Failures."""
_HANG = 60
"""Seconds after which a chunk counts as hanging: tracebacks are printed, and the process ends."""


def main(arguments: list[str] | None = None) -> int:
    """Run; 1 if anything failed."""
    parser = _common.parser(__doc__.partition("\n")[0])
    parser.add_argument("--mutants", type=int, default=MUTANTS, help="payloads to read")
    parser.add_argument("--only", metavar="TARGET", help="one decoder, or 'machines'")
    options = parser.parse_args(arguments)
    wanted = QUICK if options.quick else options.mutants
    found = [one for one in decoders() if options.only in (None, one.name)]
    if not found and options.only != "machines":
        names = ", ".join([*(one.name for one in decoders()), "machines"])
        parser.error(f"there is no target {options.only!r}; there are {names}")
    costs = FuzzCosts({one.name: one.bound for one in found} | _MACHINES)
    began = time.monotonic()
    known = corpus.load()
    gc.disable()  # its pauses are of whoever made the garbage
    try:
        replay(found, known, costs)
        count = wanted if options.only else round((1 - _OF_MACHINES) * wanted)
        fuzz(found, count, options.seed, costs, _alive)
        if options.only in (None, "machines"):
            conversations(wanted - costs.count, options.seed, costs, _alive)
    finally:
        faulthandler.cancel_dump_traceback_later()
        gc.enable()
    report(costs, time.monotonic() - began, quick=options.quick)
    return 1 if costs.failures else 0


def replay(found: list[Decoder], known: corpus.Corpus, costs: FuzzCosts) -> None:
    """Read what the corpus holds."""
    for one in found:
        for payload in known.get(one.name, ()):
            costs.read(one.name, payload, one.read)


def fuzz(
    found: list[Decoder], count: int, seed: int, costs: FuzzCosts, alive: Callable[[], None] = lambda: None
) -> None:
    """So many mutants, spread evenly over decoders; `alive` is called now and then."""
    for number, one in enumerate(found):
        rng = random.Random(f"{seed} {one.name}")
        seeds = [*one.seeds, *corpus.load().get(one.name, ())]
        for place in range(count // len(found) + (number < count % len(found))):
            if place % _CHUNK == 0:
                alive()
            heavy = one.heavy and rng.random() < _HEAVY
            base = rng.choice(one.heavy if heavy else rng.choice((one.seeds, seeds)))
            costs.read(one.name, mutant(rng, base, seeds, one.mutators), one.read)
        for payload in one.heavy:
            costs.read(one.name, payload, one.read)


def conversations(count: int, seed: int, costs: FuzzCosts, alive: Callable[[], None] = lambda: None) -> None:
    """Cases of both machines, until so many payloads were received; `alive` is called before each."""
    enough, number = costs.count + count, 0
    while costs.count < enough and len(costs.failures) < _ENOUGH:
        alive()
        this, number = 1_000_000 * seed + number, number + 1
        try:
            received = machines.run(this, costs)
            over = any(us > costs.bounds[where].limit(len(payload)) for where, _, payload, us in received)
            for _ in range(3 if over else 0):
                again = machines.run(this, costs)
                received = [
                    (*one[:3], min(one[3], other[3])) for one, other in zip(received, again, strict=True)
                ]
        except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
            costs.failures.append(Failure("machines", f"case {this}: {error!r}", b""))
            continue
        for where, how, payload, us in received:
            costs.took(where, how, payload, us)


def report(costs: FuzzCosts, seconds: float, *, quick: bool) -> None:
    """A table, what failed, and the line for programs."""
    lines = sorted(costs.lines.items())
    rows = [
        [*who, line.count, line.total_us / line.count, line.worst_us, line.worst_size, line.excess]
        for who, line in lines
    ]
    headers = ["target", "kind", "count", "mean us", "worst us", "of bytes", "of its bound"]
    counts = {
        "payloads": costs.count,
        "failures": len(costs.failures),
        "seconds": round(seconds),
    }
    sys.stdout.write(_common.table(headers, rows) + "\n")
    sys.stdout.write(", ".join(f"{count} {what}" for what, count in counts.items()) + "\n")
    for failure in costs.failures[:20]:
        sys.stdout.write(f"FAIL {failure.where}: {failure.what}\n     {failure.payload[:400].hex()}\n")
    bounds = {where: bound._asdict() for where, bound in costs.bounds.items()}
    found = [{"target": where, "kind": kind, **asdict(line)} for (where, kind), line in lines]
    _common.finish("fuzz", {**counts, "bounds_us": bounds, "lines": found}, quick=quick)


def _alive() -> None:
    gc.collect(0)
    faulthandler.dump_traceback_later(_HANG, exit=True, file=sys.__stderr__ or sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
