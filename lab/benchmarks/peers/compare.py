"""All engines that are installed, in turns on one core: the same texts, one thread each."""

from __future__ import annotations

import os
import random
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any

from flexspec_mq.demo.children import python
from flexspec_mq.errors import FlexSpecError
from lab.benchmarks._common import percentile, say, table
from lab.testbed.process import Process, Processes, pinned

GROWTH = 9
"""Tokens that follow a context, at most."""
MOST = 16
"""Sessions in one batch."""
PREFILL = 512
ONE, FIVE, NINE = (f"1 x {rows}" for rows in (1, 5, 9))
MANY, MANY_FIVE = f"{MOST} x 1", f"{MOST} x 5"
READ = f"prefill of {PREFILL}"
_FORWARDS = {ONE: (1, 1), FIVE: (1, 5), NINE: (1, 9), MANY: (MOST, 1), MANY_FIVE: (MOST, 5)}
CASES = (*_FORWARDS, READ)
OURS, LLAMA, TRANSFORMERS = "ours", "llama.cpp", "transformers"
_MODULES = {LLAMA: {"llama_cpp": "llama-cpp-python", "gguf": "gguf"}}
_AGREE = 256
"""Positions of a text that all engines read to see whether they find the same ids."""
_ANSWERS_WITHIN = 120.0
_ENV = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}


def chosen(dtype: str, folder: Path, files: Sequence[Path]) -> list[tuple[str, str, Path]]:
    """Kind, number format, and folder or file of each engine, ours first."""
    llama = [(LLAMA, path.stem, path) for path in files]
    return [(OURS, dtype, folder), *llama, (TRANSFORMERS, dtype, folder)]


def missing(kind: str) -> list[str]:
    """Distributions that an engine needs and that are not installed."""
    return [name for module, name in _MODULES.get(kind, {}).items() if util.find_spec(module) is None]


@dataclass(frozen=True, slots=True)
class PeerTexts:
    """Texts that all engines read.

    Attributes:
        sessions: `MOST` texts of equal length, the context and `GROWTH` more tokens.
        context: how many of these are read before.
        prompt: `PREFILL` tokens.
    """

    sessions: list[list[int]]
    context: int
    prompt: list[int]

    @classmethod
    def cut(cls, stream: Sequence[int], context: int, seed: int) -> PeerTexts:
        """Take windows of a long text at random."""
        length = context + GROWTH
        longest = max(length, PREFILL)
        long = list(stream) * (1 + longest // len(stream))
        rng = random.Random(seed)

        def window(size: int) -> list[int]:
            start = rng.randrange(len(long) - size + 1)
            return long[start : start + size]

        return cls([window(length) for _ in range(MOST)], context, window(PREFILL))


@dataclass(slots=True)
class Measured:
    """Measurements of an engine.

    Attributes:
        weight_bytes: bytes of the matrices that one token needs.
        agreement: share of a text's positions at which it finds the same id most likely as ours does.
        times: milliseconds by case, one a turn; a case that it cannot do is absent.
        said: why it was not measured.
    """

    weight_bytes: int = 0
    agreement: float | None = None
    times: dict[str, list[float]] = field(default_factory=dict)
    said: str = ""

    def ms(self, case: str) -> float | None:
        """Median."""
        return percentile(self.times[case], 0.5) if self.times.get(case) else None


class Peer:
    """An engine in a process of its own.

    Args:
        process: runs `lab.benchmarks.peers.child`.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.measured = Measured()

    async def prepare(self, texts: PeerTexts) -> list[int]:
        """Give it the texts and try all cases, which also warms it up; the ids that it finds in a text.

        Raises:
            FlexSpecError: it ended.
        """
        self.measured.weight_bytes = (await self._process.event())["weight_bytes"]
        await self._ask("hold", texts=texts.sessions, length=texts.context)
        for case in CASES:
            await self.case(case, texts)
        self.measured.times.clear()
        ids = texts.prompt[:_AGREE]
        best: list[int] = (await self._ask("read", ids=ids, rows=len(ids)))["best"]
        return best

    async def case(self, name: str, texts: PeerTexts) -> None:
        """Measure one case. Caches are full of others' weights, so the first of two forwards does not count."""
        if name == READ:
            spent = await self._ask("read", ids=texts.prompt, rows=1)
        else:
            sessions, count = _FORWARDS[name]
            await self._ask("forward", sessions=sessions, rows=count)
            spent = await self._ask("forward", sessions=sessions, rows=count)
        self.measured.times.setdefault(name, []).append(spent["ms"])

    async def _ask(self, what: str, **given: Any) -> Any:
        await self._process.send({"do": what, "with": given})
        return (await self._process.event(within=_ANSWERS_WITHIN))["is"]


def bench_core() -> int:
    """The core that all engines run on, one after the other: the last that we may use."""
    return max(os.sched_getaffinity(0))


async def compare(
    engines: Sequence[tuple[str, str, Path]], texts: PeerTexts, options: Namespace
) -> dict[str, Any]:
    """Measure and print; the results.

    Args:
        engines: kind, number format, and folder or file of each, ours first.
        texts: texts that all of them read.
        options: options of the command.
    """
    found: dict[str, Measured] = {}
    peers: dict[str, Peer] = {}
    best: dict[str, list[int]] = {}
    async with Processes() as processes:
        for kind, form, path in engines:
            name = f"{kind}, {form}"
            if absent := missing(kind):
                found[name] = Measured(said=f"not installed: {', '.join(absent)}")
                continue
            say(f"loading {name}")
            command = pinned(bench_core(), python("lab.benchmarks.peers.child", kind, form, str(path)))
            peer = Peer(await processes.start(name, command, env=_ENV))
            found[name] = peer.measured
            try:
                best[name] = await peer.prepare(texts)
            except FlexSpecError as error:
                if kind == OURS:
                    raise
                found[name] = Measured(said=_why(error))
                continue
            peers[name] = peer
        await _in_turns(peers, texts, options.turns, options.seed)
    ours = next(iter(found))
    for name, ids in best.items():
        found[name].agreement = agreement(best[ours], ids)
    return _report(found, ours)


async def _in_turns(peers: dict[str, Peer], texts: PeerTexts, turns: int, seed: int) -> None:
    """Every case of every engine once a turn, in a new random order each turn."""
    rng = random.Random(seed)
    for turn in range(turns):
        say(f"turn {turn + 1} of {turns}")
        order = [(name, case) for name in peers for case in CASES]
        for name, case in rng.sample(order, len(order)):
            await peers[name].case(case, texts)


def _why(error: FlexSpecError) -> str:
    """In one line: what happened, and the last that the process said."""
    last = (error.hint or "").strip().splitlines()[-1:]
    return ": ".join([error.message, *(line.strip() for line in last)])


def agreement(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Share of positions with the same id."""
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def ratios(found: Mapping[str, Measured], ours: str) -> dict[str, dict[str, float | None]]:
    """Our time over each other's by case; below 1 is faster."""
    mine = found[ours]

    def over(one: Measured, case: str) -> float | None:
        times = mine.ms(case), one.ms(case)
        return None if None in times else times[0] / times[1]  # type: ignore[operator]

    return {
        name: {case: over(one, case) for case in CASES}
        for name, one in found.items()
        if one.times and name != ours
    }


def _report(found: Mapping[str, Measured], ours: str) -> dict[str, Any]:
    print("one thread; milliseconds\n")
    rows = [
        [name, *map(one.ms, CASES), one.weight_bytes / 1e6, one.agreement]
        for name, one in found.items()
        if one.times
    ]
    print(table(("engine", *CASES, "MB", "agrees"), rows))
    for name, one in found.items():
        if one.said:
            print(f"{name}: {one.said}")
    shares = ratios(found, ours)
    print("\nours over theirs, in time")
    print(table(("engine", *CASES), [[name, *by_case.values()] for name, by_case in shares.items()]))
    return {
        "engines": {
            name: {
                "weight_bytes": one.weight_bytes,
                "ms": {
                    case: {"median": percentile(ms, 0.5), "least": min(ms), "p95": percentile(ms, 0.95)}
                    for case, ms in one.times.items()
                },
                "agreement": one.agreement,
                "not_measured": one.said,
            }
            for name, one in found.items()
        },
        "ratios": shares,
    }
