"""All engines that are installed, in turns on one core: the same texts, one thread each."""

from __future__ import annotations

import os
import random
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
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
_ANSWERS_WITHIN = 120.0
_ENV = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}


def chosen(dtype: str, target: Path, files: Sequence[Path]) -> list[tuple[str, str, Path]]:
    """Kind, number format, and folder or file of each engine, ours first; a target in a file runs in few bits."""
    llama = [(LLAMA, path.stem, path) for path in files]
    if target.is_file():
        return [(OURS, "int8", target), (LLAMA, target.stem, target), *llama]
    return [(OURS, dtype, target), *llama, (TRANSFORMERS, dtype, target)]


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


class Peer:
    """An engine in a process of its own.

    Args:
        process: runs `lab.benchmarks.peers.engines`.

    Attributes:
        times: milliseconds by case, one a turn.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.times: dict[str, list[float]] = {}

    async def prepare(self, texts: PeerTexts) -> None:
        """Give it the texts and try all cases, which also warms it up.

        Raises:
            FlexSpecError: it ended.
        """
        await self._ask("hold", texts=texts.sessions, length=texts.context)
        for case in CASES:
            await self.case(case, texts)
        self.times.clear()

    async def case(self, name: str, texts: PeerTexts) -> None:
        """Measure one case. Caches are full of others' weights, so the first of two forwards does not count."""
        if name == READ:
            spent = await self._ask("read", ids=texts.prompt, rows=1)
        else:
            sessions, count = _FORWARDS[name]
            await self._ask("forward", sessions=sessions, rows=count)
            spent = await self._ask("forward", sessions=sessions, rows=count)
        self.times.setdefault(name, []).append(spent)

    async def _ask(self, what: str, **given: Any) -> Any:
        await self._process.send({"do": what, "with": given})
        return (await self._process.event(within=_ANSWERS_WITHIN))["ms"]


def bench_core() -> int:
    """The core that all engines run on, one after the other: the last that we may use."""
    return max(os.sched_getaffinity(0))


async def compare(
    engines: Sequence[tuple[str, str, Path]], texts: PeerTexts, options: Namespace
) -> dict[str, Any]:
    """Measure and print; milliseconds of each turn, and why engines were left out.

    Args:
        engines: kind, number format, and folder or file of each, ours first.
        texts: texts that all of them read.
        options: options of the command.
    """
    peers: dict[str, Peer] = {}
    left_out: dict[str, str] = {}
    async with Processes() as processes:
        for kind, form, path in engines:
            name = f"{kind}, {form}"
            say(f"loading {name}")
            command = pinned(bench_core(), python("lab.benchmarks.peers.engines", kind, form, str(path)))
            peer = Peer(await processes.start(name, command, env=_ENV))
            try:
                await peer.prepare(texts)
            except FlexSpecError as error:
                if kind == OURS:
                    raise
                left_out[name] = _why(error)
                continue
            peers[name] = peer
        await _in_turns(peers, texts, options.turns, options.seed)
    medians = {
        name: {case: percentile(ms, 0.5) for case, ms in peer.times.items()} for name, peer in peers.items()
    }
    print("one thread; medians in milliseconds\n")
    print(table(("engine", *CASES), [[name, *map(ms.get, CASES)] for name, ms in medians.items()]))
    for name, why in left_out.items():
        print(f"{name}: {why}")
    return {"ms": {name: peer.times for name, peer in peers.items()}, "left_out": left_out}


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
