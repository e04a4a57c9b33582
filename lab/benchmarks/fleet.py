"""The chart's workers without a cluster: a rolling update under load, and what scaling reads and would do.

Broker with TLS and keys, edge nodes and workers as processes, with the default model. Workers run what Helm renders:
the commands, settings, probes and grace period of their pods. ``rolling`` replaces one after the other, as a
StatefulSet does, while devices ask without a pause; texts are compared with what transformers writes alone. ``scaling``
has a Prometheus read the queries of the ScaledObject at rising loads, computes the replicas that KEDA and the
autoscaler of Kubernetes would want, and starts them.
"""

import argparse
import asyncio
import math
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from broker.settings import Role
from flexspec_mq.errors import FlexSpecError
from lab.bench.client import StreamedAnswer, ask, unbounded
from lab.bench.questions import OWN, read_questions, spread
from lab.benchmarks import _common
from lab.benchmarks.evolution import steady_load
from lab.benchmarks.exact.texts import Asked, Tokens, references
from lab.dashboards import SELECTOR, Prometheus, start_prometheus
from lab.testbed.chart import Manifest, Replicas, named, render
from lab.testbed.secured import VERSION, WORKER, SecuredDeployment, secured_deployment

DEVICES = ("d1", "d2")
MOST = 4
"""Identities, and most workers."""
TOLERANCE = 0.1
"""Distance of a ratio from 1 within which the autoscaler changes nothing."""
GROWTH = 2
"""Most by which the chart lets replicas grow at once."""
_SHORT, _LONG = 48, 400
_SETTLE = 15.0


@dataclass(frozen=True, slots=True)
class Part:
    """Texts that were written in steady times, or while a worker was replaced.

    Attributes:
        texts, failed, inexact: how many; an inexact one differs from what the target writes alone.
        silence_p50, silence_most: seconds of the longest wait for a piece of a text.
        seconds_p50, seconds_most: seconds of a text.
    """

    texts: int
    failed: int
    inexact: int
    silence_p50: float
    silence_most: float
    seconds_p50: float
    seconds_most: float


@asynccontextmanager
async def fleet(*values: str) -> AsyncIterator[tuple[SecuredDeployment, Replicas, Sequence[Manifest]]]:
    """A deployment without workers yet, the chart's replicas of it, and all manifests with these values.

    Raises:
        FlexSpecError: a daemon did not start.
        UsageError: no Helm, or values that it refuses.
    """
    manifests = render("--set", f"image.registry=example,worker.most={MOST}", *values)
    names = [f"w{number}" for number in range(MOST)]
    workers = [(name, VERSION) for name in names if name != WORKER]
    _common.say("a deployment with TLS and keys is made")
    async with secured_deployment((), worker_flags=None, more_devices=DEVICES, more_workers=workers) as here:
        secrets = {f"flexspec-{name}": here.bundle(Role.WORKER, name) for name in names}
        # Several on one machine: each has a core's share of the memory for the KV cache.
        more = {"FLEXSPEC_CLOUD_KV_MB": "256"}
        yield (
            here,
            Replicas(named(manifests, "StatefulSet"), secrets, here.folder.parent, here.processes, more),
            manifests,
        )


async def rolling(
    tokens: Tokens, asked: Sequence[Asked], sessions: int, rounds: int, values: Sequence[str], server: str
) -> dict[str, Any]:
    """Replace all workers so many times under a load of so many sessions, with values of the chart.

    Texts are compared with those of a server by itself, or of transformers where none is named.

    Returns:
        The texts of steady times and of times in which a worker was replaced, seconds of the steps, and replicas that
        outlasted their grace period.
    """
    async with fleet(*values) as (here, replicas, _):
        first = [await replicas.start(number) for number in range(replicas.manifest["spec"]["replicas"])]
        for name in DEVICES:
            await here.start_edge(name)
        steps: list[tuple[int, float, float, float]] = []
        spans: list[tuple[float, float]] = []
        async with steady_load([edge.url for edge in here.edges], asked, sessions, VERSION) as load:
            while len(load) < 2 * sessions:  # noqa: ASYNC110  clients append to it
                await asyncio.sleep(0.1)
            await asyncio.sleep(_SETTLE)
            for _ in range(rounds):
                for number in reversed(range(len(first))):
                    began = time.perf_counter()
                    drained = await replicas.end(number)
                    started = await replicas.start(number)
                    spans.append((began, time.perf_counter()))
                    steps.append((number, drained, started, time.perf_counter() - began))
                    _common.say(f"worker {number}: gone after {drained:.1f} s, ready {started:.1f} s later")
                await asyncio.sleep(_SETTLE)
    _common.say(f"{server or 'transformers'} writes {len(set(asked))} texts alone")
    own = await (_written_by(server, asked) if server else references(tokens, asked, 1))
    touched = [any(answer.began < end and answer.ended > begin for begin, end in spans) for _, answer in load]
    parts = {
        name: asdict(_part([one for one, met in zip(load, touched, strict=True) if met is wanted], own))
        for name, wanted in (("steady", False), ("while replaced", True))
    }
    errors = [answer.error for _, answer in load if answer.error][:5]
    return {
        "server": server,
        "parts": parts,
        "steps": steps,
        "killed": replicas.killed,
        "errors": errors,
        "grace": replicas.grace,
    }


async def _written_by(server: str, asked: Sequence[Asked]) -> dict[Asked, str]:
    async with unbounded() as http:
        model = (await http.get(f"{server}/v1/models")).json()["data"][0]["id"]
        return {one: (await ask(http, server, {**one.body(), "model": model})).text for one in set(asked)}


def _part(load: Sequence[tuple[Asked, StreamedAnswer]], own: Mapping[Asked, str]) -> Part:
    good = [(one, answer) for one, answer in load if not answer.error]
    silences = [
        max(
            after - before
            for before, after in zip(
                (answer.began, *answer.times), (*answer.times, answer.ended), strict=True
            )
        )
        for _, answer in good
    ]
    inexact = sum(answer.text != own[one] for one, answer in good)
    seconds = [answer.seconds for _, answer in good]
    waits = [_common.percentile(times, share) for times in (silences, seconds) for share in (0.5, 1.0)]
    return Part(len(load), len(load) - len(good), inexact, *waits)


def wanted(kind: str, value: float, threshold: float, replicas: int) -> int:
    """Replicas that the autoscaler of Kubernetes wants for a metric, before bounds and its damping.

    Args:
        kind: ``AverageValue``, where a replica's share counts, or ``Value``, where the value itself does.
        value: value of the metric.
        threshold: threshold of the trigger.
        replicas: ready ones.
    """
    ratio = value / threshold / (replicas if kind == "AverageValue" else 1)
    return replicas if abs(ratio - 1.0) <= TOLERANCE else math.ceil(round(ratio * replicas, 9))


async def scaling(
    asked: Sequence[Asked], loads: Sequence[int], seconds: float, values: Sequence[str]
) -> list[dict[str, Any]]:
    """Readings of the triggers and wishes of the autoscaler, by sessions, and again with the replicas wished for.

    Args:
        asked: texts that the load asks for.
        loads: sessions.
        seconds: time of each load before the triggers are read.
        values: flags of Helm, for the chart's values.
    """
    found = []
    async with fleet(
        "--set", "autoscaling.enabled=true", "--set-string", f"autoscaling.selector={SELECTOR}", *values
    ) as (here, replicas, manifests):
        scaled = named(manifests, "ScaledObject")["spec"]
        running = int(scaled["minReplicaCount"])
        for number in range(running):
            await replicas.start(number)
        for name in DEVICES:
            await here.start_edge(name)
        ports = [replicas.reserve(number) for number in range(MOST)]
        prometheus = await start_prometheus(
            here.processes, here.folder.parent, {"flexspec-worker": ports}, running
        )
        for sessions in loads:
            async with steady_load([edge.url for edge in here.edges], asked, sessions, VERSION) as load:
                while True:
                    done = len(load)
                    await asyncio.sleep(seconds)
                    row: dict[str, Any] = {"load": sessions, "replicas": running, "texts": len(load) - done}
                    row |= await _read(prometheus, scaled["triggers"], running)
                    row["errors"] = [answer.error for _, answer in load if answer.error]
                    found.append(row)
                    _common.say(str(row))
                    most = min(MOST, GROWTH * running, row["wanted"])
                    if most <= running:
                        break
                    for number in range(running, most):
                        _common.say(f"worker {number}: ready after {await replicas.start(number):.1f} s")
                    running = most
        await prometheus.http.aclose()
    return found


async def _read(prometheus: Prometheus, triggers: Sequence[Manifest], replicas: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    wants = []
    for trigger in triggers:
        of = trigger["metadata"]
        row[trigger["name"]] = value = await prometheus.value(of["query"])
        wants.append(wanted(trigger["metricType"], value, float(of["threshold"]), replicas))
    return {**row, "wants": "/".join(map(str, wants)), "wanted": max(wants)}


def build_parser() -> argparse.ArgumentParser:
    """The benchmark's flags."""
    made = _common.parser(__doc__ or "")
    made.add_argument("what", nargs="?", choices=("rolling", "scaling"), default="rolling")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for the chart")
    made.add_argument(
        "--server", default="", metavar="URL", help="engine of the workers; texts are then greedy"
    )
    made.add_argument("--sessions", type=int, default=6, help="of the load, all the time; rolling")
    made.add_argument("--rounds", type=int, default=2, help="times that all workers are replaced; rolling")
    made.add_argument("--loads", type=int, nargs="+", default=[0, 1, 6, 24], help="sessions; scaling")
    made.add_argument("--seconds", type=float, default=75.0, help="of each load; scaling")
    return made


@_common.program()
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    args = build_parser().parse_args(argv)
    values = [word for value in args.set for word in ("--set", value)]
    tokens = Tokens()
    questions = [question.text for question in spread(read_questions(args.prompts or OWN), 24)]
    short, long = (6, 2) if args.quick else (24, 4)
    asked = [*tokens.questions(questions[:short], _SHORT), *tokens.questions(questions[-long:], _LONG)]
    if args.server:
        values += ["--set", f"worker.engine=vllm,worker.engineUrl={args.server}"]
        values += ["--set", f"worker.settings.target={tokens.folder}"]
        asked = [replace(one, temperature=0.0, top_p=1.0, constraint=None) for one in asked]
    if args.what == "rolling":
        found = asyncio.run(
            rolling(tokens, asked, args.sessions, 1 if args.quick else args.rounds, values, args.server)
        )
        _show_rolling(found, quick=args.quick)
    else:
        loads, seconds = ([1], 10.0) if args.quick else (args.loads, args.seconds)
        _show_scaling(asyncio.run(scaling(asked[:short], loads, seconds, values)), quick=args.quick)
    return 0


def _show_rolling(found: Mapping[str, Any], *, quick: bool) -> None:
    print(_common.table(("worker", "gone after s", "ready s later", "in all"), found["steps"]))
    parts = [[name, *part.values()] for name, part in found["parts"].items()]
    print(
        _common.table(
            ("texts", "number", "failed", "inexact", "silence p50 s", "most", "text p50 s", "most"), parts
        )
    )
    _common.finish("fleet", {"rolling": found}, quick=quick)
    # A server writes other texts by itself where it is asked several at a time, so those are only counted.
    kinds = ["failed"] if found["server"] else ["failed", "inexact"]
    bad = sum(part[kind] for part in found["parts"].values() for kind in kinds)
    if bad or found["killed"]:
        raise FlexSpecError(
            f"{bad} texts failed or differ; killed: {found['killed']}", hint=str(found["errors"])
        )


def _show_scaling(rows: Sequence[Mapping[str, Any]], *, quick: bool) -> None:
    columns = [name for name in rows[0] if name != "errors"]
    print(_common.table(columns, [[row[name] for name in columns] for row in rows]))
    _common.finish("fleet", {"scaling": rows}, quick=quick)
    if errors := [error for row in rows for error in row["errors"]]:
        raise FlexSpecError(f"{len(errors)} texts failed", hint=errors[0])


if __name__ == "__main__":
    sys.exit(main())
