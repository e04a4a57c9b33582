"""What a drafted token costs beside a target's: engines, weights and LM heads of one draft, on one thread each.

All are measured in turns. The target costs what a worker's engine takes for one token of one session. Times are of
the processor, so that what else runs on the machine does not count; medians of the wall clock are in the JSON.
Memory and load time of an edge's draft are measured in fresh processes that have the export only; those of a whole
edge node, from its start to readiness and after a text, with a broker and a worker beside it.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cloud_worker.engine import target as worker_target
from cloud_worker.settings import WorkerSettings
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.compact.load import AUTO_IDS, Choice, load_compact
from flexspec_mq.models.compact.ranks import read_ranks
from flexspec_mq.models.draft.default import default_draft_path
from flexspec_mq.models.load import load_target, load_text
from flexspec_mq.models.onnx.model import load_onnx
from flexspec_mq.models.onnx.write import KINDS, OnnxChoice, write_onnx
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput
from lab.benchmarks._common import finish, interleaved, parser, percentile, table
from lab.benchmarks.parts.edge_start import edge_start
from lab.benchmarks.pricing.asked import say
from lab.benchmarks.serve.daemons import with_broker

if TYPE_CHECKING:
    from flexspec_mq.models.runner import DraftRunner

BAR = 0.15
"""Of a target's token, that a drafted one may cost."""
TARGET, SLOW_TARGET, PLAIN = "target", "target, transformers", "transformers, bfloat16"

Times = dict[str, list[tuple[float, float]]]


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--draft", default="default", help="checkpoint folder of the draft, or 'default'")
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument("--contexts", type=int, nargs="+", default=[64, 512], metavar="TOKENS")
    made.add_argument("--weights", nargs="+", default=["bf16", "int8", "mixed", "int4"], metavar="KIND")
    made.add_argument(
        "--ids",
        type=int,
        nargs="+",
        metavar="N",
        help="sizes of LM heads; all, 8192 and the default if not given",
    )
    made.add_argument("--rounds", type=int, default=40)
    made.add_argument(
        "--alone",
        action="store_true",
        help="one after the other instead of in turns, as on a device: nothing else passes through the caches",
    )
    made.add_argument("--tokens", type=int, default=96, help="of the text that each edge node writes")
    return made


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    for flag in ("rounds", *([] if options.ids is None else ["ids"]), "contexts"):
        values = getattr(options, flag)
        for value in values if isinstance(values, list) else [values]:
            if value < (0 if flag == "ids" else 1):
                raise UsageError(f"--{flag} {value} is too small")


def written(folder: Path, between: Path, options: Namespace) -> dict[str, Path]:
    """The draft for ONNX Runtime with each kind of weights that it has, by name."""
    kinds = [kind for kind in options.weights if kind in KINDS]
    return {kind: write_onnx(folder, between / kind, OnnxChoice(kind)) for kind in kinds}


def networks(folder: Path, graphs: dict[str, Path], options: Namespace) -> dict[str, DraftRunner]:
    """The target and every way to run the draft, by name."""
    text = load_text(folder)
    ranks = read_ranks(folder, text.vocab_size)
    sizes = options.ids or ([0] if ranks is None else [0, AUTO_IDS, 8192])
    made: dict[str, DraftRunner] = {
        TARGET: worker_target.load(
            WorkerSettings(target=options.target, worker="bench", threads=1), say
        ).model,
        SLOW_TARGET: PackedModel(load_target(options.target, attn_implementation=register()).model),
        PLAIN: PackedModel(load_target(folder, attn_implementation=register()).model),
    }
    for kind in options.weights:
        for size in sizes:
            name = f"compact, {kind}, {size or text.vocab_size:,} ids"
            made[name] = load_compact(folder, text, Choice(kind, size))
    for kind, place in graphs.items():
        found = load_onnx(place)
        made[f"ONNX Runtime, {kind}, {found.columns:,} ids"] = found
    return made


def measure_tokens(made: dict[str, DraftRunner], context: int, options: Namespace) -> Times:
    """Milliseconds of processor and of wall clock for one token behind a context, in turns."""

    def case(network: DraftRunner) -> Callable[[], tuple[float, float]]:
        kv = network.new_kv()
        network.forward([ModelInput(kv, [5 + place % 200 for place in range(context)])])

        def once() -> tuple[float, float]:
            network.forward([ModelInput(kv, [7])])  # what another network left in the caches is gone
            kv.roll_back(context)
            began, wall = time.thread_time(), time.perf_counter()
            network.forward([ModelInput(kv, [9])])
            took = 1e3 * (time.thread_time() - began), 1e3 * (time.perf_counter() - wall)
            kv.roll_back(context)
            return took

        return once

    cases = {name: case(network) for name, network in made.items()}
    if options.alone:
        return {name: [once() for _ in range(options.rounds)] for name, once in cases.items()}
    return interleaved(cases, options.rounds, rng=random.Random(options.seed))


def measure_loading(folder: Path, engine: str) -> dict[str, Any]:
    """Load the draft in a fresh process; see `parts.loading`.

    Raises:
        ModelError: it failed there.
    """
    command = (sys.executable, "-m", "lab.benchmarks.parts.loading", str(folder), engine)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "".join(done.stderr.splitlines()[-1:])
        raise ModelError(f"a fresh process could not load the draft: {last}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


async def measure_edges(places: dict[str, Path], options: Namespace) -> dict[str, dict[str, Any]]:
    """Start an edge node with each engine beside a worker of the target; see `edge_start`."""
    async with with_broker() as here:
        await here.worker("worker", "--target", options.target)
        return {
            engine: await edge_start(here, engine, folder, "base", options.tokens)
            for engine, folder in places.items()
        }


def megabytes(folder: Path) -> float:
    """Of all files of a folder."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def show_edges(edges: dict[str, dict[str, Any]], files: dict[str, float]) -> None:
    """Print what edge nodes took."""
    headers = (
        "edge node, draft by",
        "ready, s",
        "CPU s",
        "resident MB",
        "after a text",
        "at its peak",
        "files MB",
    )
    rows = [
        [engine, one["ready_s"], one["ready_cpu_s"], one["ready_mb"].get("VmRSS"), one["after_mb"].get("VmRSS"),
         one["after_mb"].get("VmHWM"), files[engine]]
        for engine, one in edges.items()
    ]  # fmt: skip
    print()
    print(table(headers, rows))


def figures(times: Times) -> dict[str, dict[str, float]]:
    """Medians by name, and the ratio of processor times to the target's."""
    middle = {
        name: [percentile(each, 0.5) for each in zip(*both, strict=True)] for name, both in times.items()
    }
    return {
        name: {"cpu_ms": cpu, "wall_ms": wall, "ratio": cpu / middle[TARGET][0]}
        for name, (cpu, wall) in middle.items()
    }


def show(contexts: dict[int, dict[str, dict[str, float]]], loading: dict[str, dict[str, Any]]) -> None:
    """Print both tables."""
    headers = [
        "",
        *(f"ms, {context} tokens" for context in contexts),
        *(f"ratio, {context}" for context in contexts),
    ]
    names = next(iter(contexts.values()))
    rows: list[list[Any]] = []
    for name in names:
        found = [by_name[name] for by_name in contexts.values()]
        rows.append([name, *(one["cpu_ms"] for one in found), *(one["ratio"] for one in found)])
    print(table(headers, rows))
    print()
    columns = ("VmHWM", "VmRSS", "RssAnon")
    print(table(
        ("loaded by", "CPU s, imports too", "CPU s", "peak MB", "resident MB", "of no file MB"),
        [[name, one["cpu_s"], one["load_cpu_s"], *(one["mb"].get(each) for each in columns)]
         for name, one in loading.items()],
    ))  # fmt: skip


def measure(options: Namespace) -> int:
    """Measure and print."""
    check(options)
    if options.quick:
        options.rounds, options.contexts = min(options.rounds, 6), options.contexts[:1]
        options.weights, options.ids = ["int8", "mixed"], options.ids or [AUTO_IDS]
    torch.set_num_threads(1)
    folder = default_draft_path() if options.draft == "default" else Path(options.draft)
    with tempfile.TemporaryDirectory(prefix="flexspec-bench-") as between:
        graphs = written(folder, Path(between), options)
        places = dict.fromkeys(("none", "compact", "transformers"), folder)
        if graphs:
            places = {"none": folder, "onnx": graphs.get("mixed", next(iter(graphs.values()))), **places}
        loading = {engine: measure_loading(place, engine) for engine, place in places.items()}
        del places["none"]
        edges = asyncio.run(measure_edges(places, options))
        files = {engine: megabytes(place) for engine, place in places.items()}
        made = networks(folder, graphs, options)
        contexts = {context: figures(measure_tokens(made, context, options)) for context in options.contexts}
    show(contexts, loading)
    show_edges(edges, files)
    best = min(
        (max(by_name[name]["ratio"] for by_name in contexts.values()), name)
        for name in made
        if name not in {TARGET, SLOW_TARGET}
    )
    print(f"\ncheapest: {best[1]}, at most {best[0]:.3f} of the target's token")
    layers = load_text(folder).config["num_hidden_layers"]
    results = {
        "draft_layers": layers,
        "tokens": {str(context): by_name for context, by_name in contexts.items()},
        "loading": loading,
        "edges": edges,
        "files_mb": files,
        "bar": {"ratio": best[0], "most": BAR, "met": best[0] <= BAR},
    }
    finish("draft_cost", results, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
