"""``flexspec-cloud``: load a target, prove it, serve it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from typing import TYPE_CHECKING

from cloud_worker.settings import WorkerSettings, add_arguments, from_arguments
from cloud_worker.wire import keys_of
from flexspec_mq.daemon import logs, probes
from flexspec_mq.daemon import systemd as notify
from flexspec_mq.daemon.main import run_main, spare_what_is_loaded
from flexspec_mq.daemon.signals import on_signal
from flexspec_mq.daemon.streams import never_fails
from flexspec_mq.daemon.tasks import any_of, running
from flexspec_mq.doctor import command as doctor
from flexspec_mq.doctor.command import add_doctor_command
from flexspec_mq.errors import Cancelled, UsageError, how_to_install
from flexspec_mq.models.checkpoint import need_libraries
from flexspec_mq.settings import add_show_command, show
from flexspec_mq.share_groups import read_groups
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.diagnosis.preflight import preflight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from cloud_worker.engine.engine import ModelEngine
    from cloud_worker.engine.target import Target
    from cloud_worker.engine.timing import Timings
    from cloud_worker.settings import CloudConfig
    from cloud_worker.versions.follower import FamilyFollower
    from cloud_worker.worker import CloudWorker
    from flexspec_mq.doctor.command import Examine
    from flexspec_mq.scheduling.colocated import ColocatedDrafts
    from flexspec_mq.transport.base import LinkSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv, extras="models")


def build_parser() -> argparse.ArgumentParser:
    """The parser of a worker's flags, of ``config show`` and of ``doctor``."""
    # No abbreviations: --password, which is no flag of ours, would be taken for --password-file.
    parser = argparse.ArgumentParser(prog="flexspec-cloud", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="command")
    for one in (parser, add_show_command(commands), add_doctor_command(commands)):
        add_arguments(one, inner=one is not parser)
        logs.add_verbose(one)
    parser.add_argument(
        "--ready-json", action="store_true", help="print one JSON line on stdout when serving"
    )
    return parser


def _main(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.command == "doctor":
        return _doctor(args)
    loaded = from_arguments(args)
    if args.command == "config":
        show(loaded, json=args.json)
        return 0
    settings = loaded.settings.worker
    logs.configure(loaded.settings.log, worker=settings.worker)
    link = link_settings(loaded.settings.link, f"w-{settings.worker}")
    groups = read_groups(settings.share_groups)
    if loaded.settings.family.family is None:
        groups.of(settings.version)
    keys_of(settings)  # before a target is loaded, if there is something to complain about
    need_libraries("running a target")
    never_fails("stdout")
    preflight(link, logs.tell, daemon=True)
    # These import torch: only now that what needs none has been complained about.
    from cloud_worker.engine import draft
    from cloud_worker.engine.target import load
    from cloud_worker.engine.timing import timed
    from cloud_worker.versions.family import remembered

    remembered(loaded.settings.family)
    with logs.logged_stages() as tell:
        draft.check(settings, tell)
        target = load(settings, tell)  # before the event loop, so that Ctrl-C ends it
        drafts = draft.load(settings, target.loaded, tell)
        timings = timed(target.model, None if drafts is None else drafts.drafter)
    logs.tell(f"{target.proof}{'; proved at an earlier start' if target.remembered else ''}")
    if drafts is not None:
        logs.tell(f"drafts for sessions that ask for it: {drafts.name}")
    asyncio.run(_serve(loaded.settings, link, target, drafts, timings, ready_json=args.ready_json))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    def prepare() -> Examine:
        config = from_arguments(args).settings
        from cloud_worker.doctor import examine

        return lambda tell, timeout: examine(config, tell, timeout)

    return doctor.run("cloud", args, prepare)


async def _serve(
    config: CloudConfig,
    base: LinkSettings,
    target: Target,
    drafts: ColocatedDrafts | None,
    timings: Timings,
    *,
    ready_json: bool,
) -> None:
    from cloud_worker.engine.engine import ModelEngine

    settings = config.worker
    kv_bytes = None if settings.kv_mb is None else 1_000_000 * settings.kv_mb
    engine = ModelEngine(
        target, settings, kv_bytes=kv_bytes, step_ms=settings.step_ms, drafts=drafts, timings=timings
    )
    with logs.logged_stages() as tell:
        family = await asyncio.to_thread(_family, config, target, engine, tell)
    async with _worker(config, engine, family) as worker:
        spare_what_is_loaded()
        await _run(worker, settings, base, target, ready_json=ready_json)


def _family(
    config: CloudConfig, target: Target, engine: ModelEngine, tell: Callable[[str], None]
) -> FamilyFollower | None:
    if config.family.family is None:
        return None
    from cloud_worker.versions.family import family_follower

    return family_follower(config.family, config.worker, target, engine, tell)


@contextlib.asynccontextmanager
async def _worker(
    config: CloudConfig, engine: ModelEngine, family: FamilyFollower | None
) -> AsyncIterator[CloudWorker]:
    """The worker, with its figures served if that is wanted."""
    from cloud_worker.worker import CloudWorker

    where = config.metrics
    if where.metrics_port is None:
        yield CloudWorker(config.worker, engine, family, config.quotas)
        return
    try:
        from cloud_worker.metrics import Metrics
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--metrics-port needs {error.name}", hint=f"install it, {how_to_install('serve')}"
        ) from error
    worker = CloudWorker(config.worker, engine, family, config.quotas)
    pages = Metrics(worker).pages()
    async with probes.serving(
        pages, host=where.metrics_host, port=where.metrics_port, anywhere=where.metrics_anywhere
    ) as port:
        logs.tell(f"figures and probes at http://{where.metrics_host}:{port}{', '.join(pages)}")
        yield worker


async def _run(
    worker: CloudWorker, settings: WorkerSettings, base: LinkSettings, target: Target, *, ready_json: bool
) -> None:
    from flexspec_mq.transport.mqtt import mqtt_link

    async with (
        running(worker.run(mqtt_link, base), "worker") as run,
        running(worker.ready.wait(), "ready") as up,
    ):
        with draining(worker, run):
            await any_of(run, up)
            if not run.done():
                _tell_ready(settings, base, target, as_json=ready_json)
            await run


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


def _tell_ready(settings: WorkerSettings, base: LinkSettings, target: Target, *, as_json: bool) -> None:
    if as_json:
        facts = {
            "ready": True,
            "worker": settings.worker,
            "version": settings.version,
            "target": target.loaded.name,
            "exactness": target.proof.word,
        }
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()
    serves = f"worker {settings.worker} serves version {settings.version} at {base.address}"
    logs.tell(serves)
    notify.ready(serves)


if __name__ == "__main__":
    sys.exit(main())
