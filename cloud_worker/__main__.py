"""``flexspec-cloud``: load a target, prove it, serve it."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from typing import TYPE_CHECKING

from cloud_worker.settings import WorkerSettings, add_arguments, from_arguments
from flexspec_mq.cli_common import run_main
from flexspec_mq.transport.arguments import add_link_arguments, link_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.transport.base import LinkSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="flexspec-cloud", description=__doc__)
    add_arguments(parser)
    add_link_arguments(parser)
    parser.add_argument(
        "--ready-json", action="store_true", help="print one JSON line on stdout when serving"
    )
    parser.add_argument("--verbose", action="store_true", help="log more")
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    settings = from_arguments(args)
    link = link_settings(args, f"w-{settings.worker}")
    asyncio.run(_serve(settings, link, ready_json=args.ready_json))
    return 0


async def _serve(settings: WorkerSettings, base: LinkSettings, *, ready_json: bool) -> None:
    from cloud_worker.model_verifier import ModelVerifier
    from cloud_worker.target import load
    from cloud_worker.worker import CloudWorker
    from flexspec_mq.transport.mqtt import mqtt_link

    target = load(settings, _say)
    worker = CloudWorker(settings, ModelVerifier(target, settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    run = asyncio.create_task(worker.run(mqtt_link, base))
    ready = asyncio.create_task(worker.ready.wait())
    await asyncio.wait([run, ready], return_when=asyncio.FIRST_COMPLETED)
    if worker.ready.is_set():
        if ready_json:
            facts = {
                "ready": True,
                "worker": settings.worker,
                "version": settings.version,
                "target": target.loaded.name,
            }
            sys.stdout.write(json.dumps({**facts, "exactness": target.proof.word}) + "\n")
            sys.stdout.flush()
        _say(f"worker {settings.worker} serves version {settings.version} at {base.address}")
    ready.cancel()
    await run


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
