"""Many sessions at once: our engine with drafts of four and without, beside llama.cpp's server with as many slots."""

from __future__ import annotations

import random
import shutil
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib import util
from typing import Any

from lab.benchmarks._common import percentile, table
from lab.benchmarks.peers.child import gguf
from lab.benchmarks.peers.compare import Peer, Setting, bench_core, say
from lab.benchmarks.peers.figures import MOST
from lab.benchmarks.peers.llama_server import LlamaServer, serving
from lab.testbed.site.process import Processes

K = 4
_WITHIN = 300.0
OURS_K, OURS_PLAIN = f"ours, K = {K}", "ours, one token a step"
SERVER = "llama-server, BF16"
LIBRARY = "llama.cpp's library, BF16, one batch"
_SPARE = 16


@dataclass(slots=True)
class Found:
    """One way of serving all sessions.

    Attributes:
        rates: tokens per second, one a turn.
        tokens_per_round: committed for one session by one step; 1 without drafts.
        exact: as our worker has proved it; None for a server that promises nothing of the kind.
        texts: what each prompt became.
    """

    rates: list[float] = field(default_factory=list)
    tokens_per_round: float = 1.0
    exact: bool | None = None
    texts: list[list[int]] = field(default_factory=list)


async def crowd(
    setting: Setting, dtype: str, prompts: Sequence[Sequence[int]], options: Namespace
) -> dict[str, Any]:
    """Measure and print; the results."""
    found: dict[str, Found] = {}
    rng, tokens = random.Random(options.seed), options.crowd_tokens
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(Processes())
        say(f"loading our worker's engine and the draft for {len(prompts)} sessions")
        ours = await Peer.start(processes, setting.child("rounds", "rounds", dtype))
        server = await _server(stack, setting, prompts, options)
        names = [OURS_K, OURS_PLAIN, *([SERVER] if server else [])]
        for turn in range(options.crowd_turns):
            say(f"{len(prompts)} sessions, turn {turn + 1} of {options.crowd_turns}")
            for name in rng.sample(names, len(names)):
                one = found.setdefault(name, Found())
                if name == SERVER and server is not None:
                    seconds, one.texts = await server.run(prompts, tokens)
                    one.rates.append(len(prompts) * tokens / seconds)
                    continue
                k = K if name == OURS_K else 0
                written = await ours.ask("write", _WITHIN, prompts=prompts, tokens=tokens, k=k)
                one.rates.append(written["tokens"] / written["seconds"])
                one.tokens_per_round, one.exact = written["tokens_per_round"], written["exact"]
                one.texts = written["texts"]
    return {name: facts(found[name], found) for name in (OURS_K, OURS_PLAIN, SERVER) if name in found}


async def _server(
    stack: AsyncExitStack, setting: Setting, prompts: Sequence[Sequence[int]], options: Namespace
) -> LlamaServer | None:
    """llama.cpp's server, where there is one."""
    path = shutil.which(options.llama_server)
    if path is None or util.find_spec("gguf") is None:
        return None
    model = gguf(setting.folder, setting.cache, "BF16")
    room = max(map(len, prompts)) + options.crowd_tokens + _SPARE
    return await stack.enter_async_context(
        serving(path, model, slots=len(prompts), room=room, core=bench_core())
    )


def facts(one: Found, found: Mapping[str, Found]) -> dict[str, Any]:
    """For the JSON object."""
    texts = found[OURS_PLAIN].texts if OURS_PLAIN in found else []
    return {
        "tokens_per_second": {"median": percentile(one.rates, 0.5), "most": max(one.rates)},
        "tokens_per_round": one.tokens_per_round,
        "exact": one.exact,
        "agreement": agreement_of_texts(texts, one.texts) if texts else None,
    }


def agreement_of_texts(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    """Share of the tokens that come before the two first differ; behind that they write about different things."""
    same = sum(
        next((place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))
        for one, other in zip(ours, theirs, strict=True)
    )
    return same / sum(map(len, ours))


def show(results: Mapping[str, dict[str, Any]], many_ms: float | None) -> dict[str, Any]:
    """Print, with the library's batch in place of a server that is not there; ours over theirs, in tokens per second.

    Args:
        results: of `crowd`.
        many_ms: llama.cpp's time for one token of each session in one batch, if it was measured.
    """
    lines = [
        [name, one["tokens_per_second"]["median"], one["tokens_per_round"], one["agreement"]]
        for name, one in results.items()
    ]
    other = results[SERVER]["tokens_per_second"]["median"] if SERVER in results else None
    beside = SERVER
    if other is None and many_ms is not None:
        other, beside = 1e3 * MOST / many_ms, LIBRARY
        lines.append([LIBRARY, other, 1.0, None])
    print()
    print(
        table(
            (f"{MOST} sessions at once", "tokens/s", "tokens a round", "as ours before the first difference"),
            lines,
        )
    )
    if not results[OURS_K]["exact"]:
        print("here our worker's texts may depend on what shares a forward, where two tokens nearly tie")
    if other is None:
        print("llama.cpp's server was not found (--llama-server), and its library is not installed")
        return {"beside": None, "ratio": None}
    ratio = results[OURS_K]["tokens_per_second"]["median"] / other
    print(f"ours with K = {K} over {beside}: {ratio:.2f}")
    return {"beside": beside, "ratio": ratio}
