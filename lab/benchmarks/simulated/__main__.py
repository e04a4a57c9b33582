"""The simulator beside real daemons: answers of a kept run of `lab.benchmarks.answers`, simulated on the same channels.

Each side of each case is simulated with the flags of its edge node, the questions' recorded texts, the seconds of the
channel at which they began, and as many other sessions. The recording must be of the questions that were asked: it is
made if its file is missing, and so are the times of the worker's steps and the draft's tokens. Both need the models.

The seconds of an answer are those of the run's own machine: measure the times there, alone. How much slower daemons
compute, and what a request takes an edge, is fitted to the medians of streaming over loopback, if a run has that.

``--crowds`` does the same for closed loops of a kept run of `lab.benchmarks.capacity` at a real worker, with
the recording that it replayed and times as they were fitted before.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError
from lab.benchmarks._common import finish, parser, table
from lab.benchmarks.pricing.asked import say
from lab.benchmarks.pricing.compared import STREAMING
from lab.benchmarks.pricing.others import plan_of
from lab.benchmarks.replay.record import recording as recorded
from lab.benchmarks.simulated import crowds
from lab.benchmarks.simulated.fit import fitted
from lab.benchmarks.simulated.side import answers_of, compared
from lab.simulator.cost import Measured, keep_times, read_times
from lab.simulator.recording import Recording, read_recording
from lab.testbed.link.recordings import link_plan
from lab.testbed.site.topology import LOOPBACK

WITHIN = 0.1
"""How far simulated seconds may be from measured ones."""


_COLUMNS = {
    "mean, s": "mean_s",
    "median, s": "median_s",
    "first, s": "median_first_s",
    "tokens/round": "tokens_per_round",
    "IP B up": "ip_up",
    "down": "ip_down",
    "drafted": "proposed",
    "own rows wasted": "wasted_own",
}


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--runs", nargs="+", type=Path, metavar="FILE", help="outputs of lab.benchmarks.answers"
    )
    what.add_argument(
        "--crowds",
        type=Path,
        metavar="FILE",
        help="output of lab.benchmarks.capacity --sections cpu instead; recording and times must be there",
    )
    made.add_argument("--recording", type=Path, required=True, metavar="FILE")
    made.add_argument("--times", type=Path, required=True, metavar="FILE")
    made.add_argument(
        "--fitted",
        type=Path,
        metavar="FILE",
        help="keep the times there as fitted, for simulations of your own",
    )
    made.add_argument("--recorded", type=Path, metavar="FOLDER", help="recordings of channels; docs/links.md")
    made.add_argument("--target", default="default")
    made.add_argument("--draft", default="default")
    made.add_argument("--rounds", type=int, default=20, help="of measuring times")
    return made


def read_run(path: Path) -> dict[str, Any]:
    """The results of a kept run.

    Raises:
        UsageError: it has none.
    """
    try:
        found = msgspec.json.decode(path.read_text("utf-8").splitlines()[-1])
        results: dict[str, Any] = found["results"]
        _ = results["cases"], results["edges"], results["questions"]
    except (OSError, IndexError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise UsageError(
            f"{path} does not end with the results of lab.benchmarks.answers: {error}",
            hint="keep all that it prints on standard output",
        ) from error
    return results


def models_of(options: Namespace, run: Mapping[str, Any]) -> tuple[Recording, Measured]:
    """Texts and times, from their files or made now.

    Raises:
        FlexSpecError: they cannot be read or made, or are of something else.
    """
    wanted = Namespace(
        prompts=options.prompts,
        questions=run["questions"],
        target=options.target,
        draft=options.draft,
        tokens=run["tokens"],
        temperatures=[run["temperature"]],
        seed=options.seed,
        recording=options.recording,
    )
    texts = recorded(wanted)
    if not options.times.exists():
        keep_times(options.times, _times(options))
    return texts, read_times(options.times)


def _times(options: Namespace) -> Measured:
    import torch

    from cloud_worker.engine import target as cloud_target
    from cloud_worker.settings import WorkerSettings
    from edge_node.settings import EdgeSettings
    from flexspec_mq.drafting import load as draft_model
    from lab.recording.times import measure

    torch.set_num_threads(1)
    target = cloud_target.load(WorkerSettings(target=options.target, worker="bench", threads=1), say)
    draft = draft_model.load(EdgeSettings(edge="bench", draft=options.draft), say)
    if draft.model is None:
        raise UsageError("there are no times of a draft without one", hint="name it with --draft")
    return measure(target, draft.model, rounds=options.rounds, seed=options.seed)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print measured and simulated figures side by side."""
    lines = []
    for row in rows:
        measured, simulated = row["measured"], row["simulated"]
        pairs = [f"{_short(measured[name])} {_short(simulated[name])}" for name in _COLUMNS.values()]
        lines.append([f"{row['link']}, {row['side']}", row["ratio"], *pairs])
    print(table(["channel, side", "simulated / measured", *_COLUMNS], lines))
    print("\neach other column: measured, simulated")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def measure(options: Namespace) -> int:
    """Simulate and print; only the first run with ``--quick``.

    Raises:
        FlexSpecError: a run, a recording or times cannot be read or made.
    """
    if options.crowds is not None:
        return _crowds(options)
    runs = [read_run(path) for path in options.runs[: 1 if options.quick else None]]
    texts, times = models_of(options, runs[0])
    fit = next((run for run in runs if STREAMING in run["edges"] and LOOPBACK in _links(run)), None)
    if fit is not None:
        alone, times = times, fitted(times, texts, fit, STREAMING, LOOPBACK)
        slower, request = times.read(0) / alone.read(0), times.request
        print(
            f"fitted to {STREAMING} over {LOOPBACK}: {slower:.2f} times as slow, {request:.0f} ms a request\n"
        )
        if options.fitted is not None:
            keep_times(options.fitted, times)
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    for run in runs:
        if run["questions"] != len(texts.texts) or run["tokens"] != texts.about.tokens:
            raise UsageError(
                "the runs asked other questions, or for other lengths", hint="compare one by one"
            )
        for case, (side, flags) in product(run["cases"], run["edges"].items()):
            link = case["link"]
            plan = None if link == LOOPBACK else link_plan(link, options.seed, options.recorded)
            answers = answers_of(
                case,
                flags,
                plan,
                texts,
                times,
                others=run["others"],
                statuses=_statuses(run),
                seed=options.seed,
            )
            found = compared(case["categories"]["all"][side], answers)
            rows.append({"link": link, "delay_ms": case["delay_ms"], "side": side, **found})
    per_s = len(rows) * len(texts.texts) / (time.perf_counter() - began)
    show(rows)
    near = sum(abs(row["ratio"] - 1.0) <= WITHIN for row in rows)
    print(f"\n{near} of {len(rows)} within {WITHIN:.0%}; {per_s:.0f} answers a second")
    results = {"rows": rows, "times": msgspec.to_builtins(times), "within": near, "answers_per_s": per_s}
    finish("simulated", results, quick=options.quick)
    return 0


def _crowds(options: Namespace) -> int:
    run = crowds.read_crowds(options.crowds)
    texts, times = read_recording(options.recording), read_times(options.times)
    rows = crowds.simulated(run, texts, times, options.seed)
    crowds.show(rows)
    near = sum(abs(row["ratio"] - 1.0) <= WITHIN for row in rows)
    print(f"\n{near} of {len(rows)} within {WITHIN:.0%}")
    finish("simulated", {"crowds": rows, "within": near}, quick=options.quick)
    return 0


def _statuses(run: Mapping[str, Any]) -> int:
    """How many statuses of workers the link carries: each edge node hears each worker."""
    edges = run["edges"].values()
    return len(edges) * len({plan_of(flags).version for flags in edges})


def _links(run: Mapping[str, Any]) -> list[str]:
    return [case["link"] for case in run["cases"]]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
