"""``flexspec-cloud``: load a target, prove it, serve it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cloud_worker.engine.interface import Engine, Facts
from cloud_worker.engine.load import check_libraries, load_engine
from cloud_worker.pair import add_pairs_parser
from cloud_worker.pair import add_parser as add_pair_parser
from cloud_worker.settings import CloudConfig, WorkerSettings, add_arguments, from_arguments
from cloud_worker.wire import keys_of
from flexspec_mq.daemon import logs, probes
from flexspec_mq.daemon import systemd as notify
from flexspec_mq.daemon.main import run_main, spare_what_is_loaded
from flexspec_mq.daemon.signals import on_signal
from flexspec_mq.daemon.streams import never_fails
from flexspec_mq.daemon.tasks import any_of, running
from flexspec_mq.doctor import command as doctor
from flexspec_mq.doctor.command import Examine, add_doctor_command
from flexspec_mq.errors import Cancelled
from flexspec_mq.models.pairs.prepare import with_pair
from flexspec_mq.settings import add_show_command, show
from flexspec_mq.share_groups import read_groups
from flexspec_mq.telemetry import WORKER, Telemetry, exporting
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.diagnosis import preflight

if TYPE_CHECKING:
    from cloud_worker.versions.follower import FamilyFollower
    from cloud_worker.worker import CloudWorker


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv, extras="models,serve")


def build_parser() -> argparse.ArgumentParser:
    """The parser of a worker's flags, of ``config show``, ``doctor`` and ``pair``."""
    # No abbreviations: --password, which is no flag of ours, would be taken for --password-file.
    parser = argparse.ArgumentParser(prog="flexspec-cloud", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="command")
    for one in (parser, add_show_command(commands), add_doctor_command(commands)):
        add_arguments(one, inner=one is not parser)
        logs.add_verbose(one)
    add_pair_parser(commands)
    add_pairs_parser(commands)
    parser.add_argument(
        "--ready-json", action="store_true", help="print one JSON line on stdout when serving"
    )
    return parser


def _main(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.command == "doctor":
        return _doctor(args)
    if args.command == "pair":
        from cloud_worker.pair.command import run

        return run(args)
    if args.command == "pairs":
        from cloud_worker.pair.command import try_pair

        return try_pair(args)
    loaded = from_arguments(args)
    if args.command == "config":
        show(loaded, json=args.json)
        return 0
    settings = loaded.settings.worker
    logs.configure(loaded.settings.log, worker=settings.worker)
    link = link_settings(loaded.settings.link, f"w-{settings.worker}")
    groups = read_groups(settings.share_groups)
    if loaded.settings.family.family is None:
        groups.group_of(settings.version)
    keys_of(settings)  # before a target is loaded, if there is something to complain about
    check_libraries(settings)
    never_fails("stdout")
    preflight(link, logs.tell, daemon=True)
    if loaded.settings.family.family is not None:
        from cloud_worker.versions.family import remembered

        remembered(loaded.settings.family)
    with exporting(loaded.settings.telemetry, WORKER, settings.worker) as telemetry:
        with logs.logged_stages() as tell:
            # Before the event loop, so that Ctrl-C ends it.
            settings = with_pair(settings, "target", tell)
            engine = load_engine(settings, tell)
        logs.tell(engine.facts.proof)
        if engine.facts.draft:
            logs.tell(f"drafts for sessions that ask for it: {engine.facts.draft}")
        config = replace(loaded.settings, worker=settings)
        asyncio.run(_serve(config, link, engine, telemetry, ready_json=args.ready_json))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    def prepare() -> Examine:
        config = from_arguments(args).settings
        from cloud_worker.doctor import WorkerDoctor

        return WorkerDoctor(config).examine

    return doctor.run(args, prepare)


async def _serve(
    config: CloudConfig, base: LinkSettings, engine: Engine, telemetry: Telemetry | None, *, ready_json: bool
) -> None:
    from flexspec_mq.transport.mqtt import mqtt_link

    family = None
    if config.family.family is not None:
        from cloud_worker.versions.family import family_follower

        with logs.logged_stages() as tell:
            family = await asyncio.to_thread(family_follower, config.family, config.worker, engine, tell)
    async with _worker(config, engine, family, telemetry) as worker:
        spare_what_is_loaded()
        async with (
            running(worker.run(mqtt_link, base), "worker") as run,
            running(worker.ready.wait(), "ready") as up,
        ):
            with draining(worker, run):
                await any_of(run, up)
                if not run.done():
                    _tell_ready(config.worker, base, engine.facts, as_json=ready_json)
                await run


@contextlib.asynccontextmanager
async def _worker(
    config: CloudConfig, engine: Engine, family: FamilyFollower | None, telemetry: Telemetry | None
) -> AsyncIterator[CloudWorker]:
    """The worker, with its figures served if that is wanted."""
    from cloud_worker.worker import CloudWorker

    where = config.metrics
    if where.metrics_port is None:
        yield CloudWorker(config.worker, engine, family, config.quotas, telemetry)
        return
    from cloud_worker.metrics import WorkerMetrics

    worker = CloudWorker(config.worker, engine, family, config.quotas, telemetry)
    pages = WorkerMetrics(worker).pages()
    async with probes.serving(
        pages, host=where.metrics_host, port=where.metrics_port, anywhere=where.metrics_anywhere
    ) as port:
        logs.tell(f"figures and probes at http://{where.metrics_host}:{port}{', '.join(pages)}")
        yield worker


@contextlib.contextmanager
def draining(worker: CloudWorker, run: asyncio.Task[None]) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C drains the worker, the second one ends it at once; then the exit code is 130.

    Raises:
        Cancelled: it was ended before its sessions had.
    """
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            logs.tell("draining; once more ends it at once")
            notify.stopping("draining")
            worker.stop()
        else:
            run.cancel()

    with on_signal(stop):
        try:
            yield
        except asyncio.CancelledError:
            if signals > 1:
                raise Cancelled("stopped before its sessions had ended") from None
            raise


def _tell_ready(settings: WorkerSettings, base: LinkSettings, facts: Facts, *, as_json: bool) -> None:
    if as_json:
        ready = {
            "ready": True,
            "worker": settings.worker,
            "version": settings.version,
            "target": facts.target,
            "exactness": facts.exactness,
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
    serves = f"worker {settings.worker} serves version {settings.version} at {base.address}"
    logs.tell(serves)
    notify.ready(serves)


if __name__ == "__main__":
    sys.exit(main())
