"""A cloud worker with a null model, as a process: the real daemon, and nothing to compute.

    python -m lab.benchmarks.scale_parts.worker --port 1883 --worker w1 --step-ms 20

It prints one JSON line with its metrics port when it serves. SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from cloud_worker.__main__ import draining
from cloud_worker.engine.interface import Facts
from cloud_worker.engine.simulated import Cost, SimulatedEngine
from cloud_worker.metrics import Metrics
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from flexspec_mq.daemon import probes
from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.tasks import any_of, running
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from lab.benchmarks.scale_parts import null
from lab.benchmarks.scale_parts.orders import Ready, say


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--port", type=int, required=True, help="of the broker on this machine")
    made.add_argument("--worker", required=True, help="name on topics")
    made.add_argument("--version", default="base", help="that it serves")
    made.add_argument("--capacity", type=int, default=256, help="live sessions")
    made.add_argument("--batch", type=int, default=64, help="sessions in one step")
    made.add_argument("--step-ms", type=float, default=0.0, help="that a step takes in any case")
    made.add_argument("--token-ms", type=float, default=0.0, help="that each token adds")
    return made


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal."""
    settings = WorkerSettings(
        worker=options.worker,
        version=options.version,
        capacity=options.capacity,
        batch=options.batch,
        drain=0.0,
    )
    facts = Facts(null.FINGERPRINT, null.CONTEXT, null.VOCABULARY, "exact", None, "none", "none")
    engine = SimulatedEngine(facts, null.decide, Cost(options.step_ms / 1000, options.token_ms / 1000))
    worker = CloudWorker(settings, engine)
    base = LinkSettings(port=options.port, client_id=f"w-{options.worker}", give_up_after=30.0)
    async with (
        probes.serving(Metrics(worker).pages()) as port,
        running(worker.run(mqtt_link, base), "worker") as run,
        running(worker.ready.wait(), "ready") as ready,
    ):
        with draining(worker, run):
            await any_of(run, ready)
            if ready.done():
                say(Ready(port))
            await run


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: asyncio.run(serve(build_parser().parse_args(arguments))), argv)


if __name__ == "__main__":
    sys.exit(main())
