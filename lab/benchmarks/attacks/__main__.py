"""Loss of three honest devices to a malicious one: each way to take more than a share, one after the other.

    python -m lab.benchmarks.attacks --quick
    python -m lab.benchmarks.attacks --attacks polls prompts

A deployment as `flexspec-broker init` makes it, with TLS, keys and seals; a worker with the default model, three
devices that have texts streamed to them, for which the worker drafts, and a device of its own identity that does its
worst, just below what a broker puts a client out for: 1,900 packets and 1.9 MB a second (`--messages`, `--rate`). The
worker has one core; broker and devices have the other one, and the attacker what these leave of it
(SCHED_IDLE), so that it costs them nothing but what it has them do; how many packets it came to is told. Each figure is
a ratio to the same streams without attack, before and after it.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from broker.settings import Role
from flexspec_mq.demo.children import python
from flexspec_mq.models.default import default_model_path
from lab.bench.client import unbounded
from lab.benchmarks import _common
from lab.benchmarks._common import say
from lab.benchmarks.attacks.attacker import AttackOrder, AttackReport
from lab.benchmarks.attacks.honest import Streams, streams
from lab.benchmarks.attacks.ways import WAYS
from lab.testbed.metrics import live_sessions
from lab.testbed.process import Process, pinned
from lab.testbed.secured import VERSION, WORKER, SecuredDeployment, secured_deployment
from schemas.messages import MAX_AHEAD

SPEED, FIRST = 0.8, 2.0
"""Least share of their speed that honest streams keep, and how much later their first token is at most."""
HONEST = ("honest-1", "honest-2", "honest-3")
_STREAMING = (
    *("--policy", "fixed", "--draft-length", "0", "--draft", "none", "--no-lookup"),
    *("--ahead", str(MAX_AHEAD), "--worker-draft", "4"),
)
"""The worker drafts, as it does by default where it has time; what costs others their drafts shows."""
_DEVELOPS = 1.5
"""Seconds from the beginning of an attack to the first measured text."""
_BASELINE = 6.0
"""Seconds for which streams without attack are measured, before it and after it."""


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    made = _common.parser(__doc__.partition("\n")[0])
    made.add_argument("--attacks", nargs="+", choices=list(WAYS), default=list(WAYS), help="in this order")
    made.add_argument("--rate", type=float, default=1.9e6, help="bytes a second of the attacker")
    made.add_argument("--messages", type=float, default=1900.0, help="a second, where the broker counts them")
    made.add_argument("--patience", type=float, default=12.0, help="seconds that a text is waited for")
    made.add_argument("--worker-flags", nargs=argparse.REMAINDER, default=[], help="of flexspec-cloud")
    return made


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All attacks, one after the other; each with the streams before and after it."""
    tokens, scale = (32, 0.5) if options.quick else (64, 1.0)
    found: dict[str, Any] = {}
    began = time.monotonic()
    say("a deployment with TLS, keys and seals is made, and the worker loads its model")
    ways = {way: WAYS[way].worker for way in options.attacks}
    async with (
        secured_deployment(
            HONEST,
            worker_flags=("--status-every", "1", *options.worker_flags),
            edge_flags=("--tokenizer", str(default_model_path(lambda _line: None)), *_STREAMING),
            more_devices=[_name(way) for way, version in ways.items() if version is None],
            more_workers=[(_name(way), version) for way, version in ways.items() if version is not None],
        ) as deployed,
        unbounded(kept=0) as http,
    ):

        async def ask(seconds: float = _BASELINE) -> Streams:
            patience = options.patience
            return await streams(
                http, deployed.edges, tokens=tokens, seconds=scale * seconds, patience=patience
            )

        await ask()
        before = await ask()
        for number, way in enumerate(options.attacks, 1):
            attacker = await _attack(deployed, way, options)
            await asyncio.sleep(_DEVELOPS)
            beside = await ask(WAYS[way].seconds)
            await attacker.send(b"")
            report = msgspec.json.decode(await attacker.line(60.0), type=AttackReport)
            await _rest(deployed)
            after = await ask()
            row = found[way] = _row(before + after, beside, report)
            say(
                f"{time.monotonic() - began:4.0f} s, {number} of {len(options.attacks)}, {way}: "
                f"speed {row['speed']:.2f}, first token {row['first']:.2f}, failed {row['failed']}, "
                f"{row['messages_per_s']:.0f} packets a second"
            )
            before = after
    return found


async def _attack(deployed: SecuredDeployment, way: str, options: argparse.Namespace) -> Process:
    """Start an attack; it has begun."""
    role = Role.EDGE if WAYS[way].worker is None else Role.WORKER
    order = AttackOrder(
        way=way,
        port=deployed.port,
        folder=str(deployed.bundle(role, _name(way))),
        worker=WORKER,
        version=VERSION,
        victim=HONEST[0],
        rate=options.rate,
        messages=options.messages,
        seed=options.seed,
    )
    command = python("lab.benchmarks.attacks.attacker", msgspec.json.encode(order).decode())
    attacker = await deployed.processes.start(_name(way), pinned(deployed.cores.device, command))
    await attacker.line(30.0)
    return attacker


def _name(way: str) -> str:
    return f"evil-{way}"


def _row(without: Streams, beside: Streams, report: AttackReport) -> dict[str, Any]:
    return {
        "speed": beside.speed / without.speed,
        "first": beside.first / without.first,
        "tokens_per_s": without.speed,
        "first_s": without.first,
        "failed": beside.failed,
        "why": beside.why,
        "texts": len(beside.speeds),
        "sent_per_s": report.sent / max(1e-9, report.seconds),
        "messages_per_s": report.messages / max(1e-9, report.seconds),
        "told": report.told,
        "hung_up": report.hung_up,
        "kept": beside.speed >= SPEED * without.speed and beside.first <= FIRST * without.first,
    }


async def _rest(deployed: SecuredDeployment, patience: float = 90.0) -> None:
    """Wait until the worker is rid of what the attacker left."""
    ends = time.monotonic() + patience
    while time.monotonic() < ends:
        try:
            if not live_sessions(await deployed.worker.figures()):
                return
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(0.2)
    say("the worker still has sessions")


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    rows = [
        [
            way,
            row["speed"],
            row["first"],
            row["failed"],
            row["sent_per_s"] / 1e3,
            row["messages_per_s"],
            ", ".join(f"{count} {kind}" for kind, count in row["told"].items()) or "nothing",
            row["hung_up"],
        ]
        for way, row in found.items()
    ]
    heads = ["attack", "speed", "first token", "failed", "kB/s", "messages/s", "told", "hung up on"]
    print(_common.table(heads, rows))
    for way in found:
        print(f"{way}: {WAYS[way].says}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 if an honest stream lost more than it may."""
    options = build_parser().parse_args(argv)
    found = asyncio.run(measure(options))
    show(found)
    _common.finish("attacks", found, quick=options.quick)
    return int(not all(row["kept"] for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
