"""All engines that are installed, in turns on one core: the same texts, one thread each."""

from __future__ import annotations

import json
import os
import random
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexspec_mq.errors import FlexSpecError
from lab.benchmarks._common import percentile, table
from lab.benchmarks.peers.figures import (
    CASES,
    FIVE,
    HEADERS,
    MANY,
    MANY_FIVE,
    MOST,
    NINE,
    ONE,
    PREFILL,
    READ,
    Measured,
    agreement,
    bar_table,
    bars,
    facts,
    ratio_rows,
    rows,
)
from lab.benchmarks.peers.interface import CannotDoError
from lab.benchmarks.peers.specs import LLAMA, OPENVINO, OURS, Spec, how_to_install
from lab.testbed.site.process import Process, Processes, pinned, python

CLOCKS = {"wall": "ms", "cpu": "cpu_ms"}
"""What counts: the time that passes, or the processor's, where others use the machine."""
GROWTH = 9
"""Tokens that follow a context, at most."""
_AGREE = 256
"""Positions of a text that all engines read to see whether they find the same ids."""
_ANSWERS_WITHIN = 120.0
_FORWARDS = {ONE: (1, 1), FIVE: (1, 5), NINE: (1, 9), MANY: (MOST, 1), MANY_FIVE: (MOST, 5)}
_ENV = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True, slots=True)
class Texts:
    """What all engines read.

    Attributes:
        sessions: `MOST` texts of equal length, the context and `GROWTH` more tokens.
        context: how many of these are read before.
        prompt: `PREFILL` tokens.
    """

    sessions: list[list[int]]
    context: int
    prompt: list[int]

    @classmethod
    def cut(cls, stream: Sequence[int], context: int, seed: int) -> Texts:
        """Take windows of a long text at random."""
        length = context + GROWTH
        longest = max(length, PREFILL)
        long = list(stream) * (1 + longest // len(stream))
        rng = random.Random(seed)

        def window(size: int) -> list[int]:
            start = rng.randrange(len(long) - size + 1)
            return long[start : start + size]

        return cls([window(length) for _ in range(MOST)], context, window(PREFILL))


@dataclass(frozen=True, slots=True)
class Setting:
    """Where things are.

    Attributes:
        folder: the target's checkpoint.
        cache: what is converted from it.
        draft: as ``flexspec-edge`` takes it.
    """

    folder: Path
    cache: Path
    draft: str = "default"

    def child(self, name: str, kind: str, form: str = "") -> dict[str, str]:
        """What a process of `lab.benchmarks.peers.child` is started with."""
        return {
            "name": name,
            "kind": kind,
            "form": form,
            "folder": str(self.folder),
            "cache": str(self.cache),
            "draft": self.draft,
        }


class Peer:
    """An engine in a process of its own."""

    def __init__(self, process: Process, weight_bytes: int, clock: str) -> None:
        self._process = process
        self._clock = clock
        self.measured = Measured(weight_bytes)
        self.cases: list[str] = []

    @classmethod
    async def start(cls, processes: Processes, spec: dict[str, str], clock: str = "ms") -> Peer:
        """Start it and wait until it has loaded.

        Args:
            processes: that it is ended with.
            spec: see `Setting.child`.
            clock: which time of an `Answer` counts.

        Raises:
            FlexSpecError: it could not.
        """
        command = pinned(bench_core(), python("lab.benchmarks.peers.child", json.dumps(spec)))
        process = await processes.start(spec["name"], command, env=_ENV)
        loaded = await process.event()
        return cls(process, loaded["weight_bytes"], clock)

    async def ask(self, what: str, within: float = _ANSWERS_WITHIN, **given: Any) -> Any:
        """Have it do something; its answer.

        Raises:
            CannotDoError: it says that it cannot.
            FlexSpecError: it ended, or said nothing for too long.
        """
        await self._process.send({"do": what, "with": given})
        answer = await self._process.event(within=within)
        if "cannot" in answer:
            raise CannotDoError(answer["cannot"])
        return answer["is"]

    async def prepare(self, texts: Texts) -> list[int]:
        """Give it the texts and try all cases, which also warms it up; the ids that it finds in a text.

        Raises:
            FlexSpecError: it ended.
        """
        await self.ask("hold", texts=texts.sessions, length=texts.context)
        for case in CASES:
            try:
                await self.case(case, texts)
            except CannotDoError as error:
                self.measured.said.append(f"{case}: {error}")
            else:
                self.cases.append(case)
        self.measured.times.clear()
        ids = texts.prompt[:_AGREE]
        best: list[int] = (await self.ask("read", ids=ids, rows=len(ids)))["best"]
        return best

    async def case(self, name: str, texts: Texts) -> None:
        """Measure one case. Caches are full of others' weights, so the first of two forwards does not count."""
        if name == READ:
            spent = await self.ask("read", ids=texts.prompt, rows=1)
        else:
            sessions, count = _FORWARDS[name]
            await self.ask("forward", sessions=sessions, rows=count)
            spent = await self.ask("forward", sessions=sessions, rows=count)
        self.measured.times.setdefault(name, []).append(spent[self._clock])


def bench_core() -> int:
    """The core that all engines run on, one after the other: the last that we may use."""
    return max(os.sched_getaffinity(0))


async def compare(
    specs: Sequence[Spec], setting: Setting, texts: Texts, options: Namespace
) -> dict[str, Any]:
    """Measure and print; the results."""
    clock = CLOCKS[options.clock]
    found: dict[str, Measured] = {}
    peers: dict[str, Peer] = {}
    best: dict[str, list[int]] = {}
    async with Processes() as processes:
        for spec in specs:
            found[spec.name] = Measured(said=[how_to_install(spec.missing)] if spec.missing else [])
            if spec.missing:
                continue
            say(f"loading {spec.name}")
            try:
                peer = await Peer.start(processes, setting.child(spec.name, spec.kind, spec.form), clock)
                best[spec.name] = await peer.prepare(texts)
            except FlexSpecError as error:
                if spec.kind == OURS:
                    raise
                found[spec.name].said.append(_why(error))
                continue
            peers[spec.name], found[spec.name] = peer, peer.measured
        memory = await Peer.start(processes, setting.child("memory", "memory"))
        speeds = await _in_turns(peers, memory, texts, options.turns, options.seed)
    ours = specs[0].name
    for name, ids in best.items():
        found[name].agreement = agreement(best[ours], ids)
    return _report(found, ours, speeds, options.clock)


async def _in_turns(peers: dict[str, Peer], memory: Peer, texts: Texts, turns: int, seed: int) -> list[float]:
    """Every case of every engine once a turn, in a new random order each turn; the memory's speed of each turn.

    An engine that ends leaves `peers`; what it was measured at before stays.
    """
    rng, speeds, ours = random.Random(seed), [], next(iter(peers))
    for turn in range(turns):
        say(f"turn {turn + 1} of {turns}")
        order = [(name, case) for name, peer in peers.items() for case in peer.cases]
        rng.shuffle(order)
        for name, case in order:
            if name not in peers:
                continue
            try:
                await peers[name].case(case, texts)
            except FlexSpecError as error:
                if name == ours:
                    raise
                peers.pop(name).measured.said.append(_why(error))
        speeds.append(await memory.ask("speed"))
    return speeds


def _why(error: FlexSpecError) -> str:
    """In one line: what happened, and the last that the process said."""
    last = (error.hint or "").strip().splitlines()[-1:]
    return ": ".join([error.message, *(line.strip() for line in last)])


def say(text: str) -> None:
    """Tell people how far things are."""
    print(text, file=sys.stderr, flush=True)


def _report(found: dict[str, Measured], ours: str, speeds: Sequence[float], clock: str) -> dict[str, Any]:
    speed = percentile(speeds, 0.5)
    of = {"wall": "", "cpu": ", processor time"}[clock]
    print(f"one thread{of}; memory is read at {speed:.1f} GB/s (best turn {max(speeds):.1f})\n")
    print(table(HEADERS, rows(found, speed)))
    for name, one in found.items():
        for why in one.said:
            print(f"{name}: {why}")
    print("\nours over theirs, in time")
    print(table(("engine", *CASES), ratio_rows(found, ours)))
    judged = bars(found[ours], found.get(LLAMA, Measured()), found.get(OPENVINO, Measured()))
    print()
    print(bar_table(judged))
    return {
        "clock": clock,
        "memory_gb_per_second": {"median": speed, "most": max(speeds)},
        "engines": {name: facts(one, speed) for name, one in found.items()},
        "bars": {bar.name: bar.facts() for bar in judged},
    }
