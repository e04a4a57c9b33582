"""From the flags of ``flexspec-edge`` to a node that runs, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from functools import partial
from typing import TYPE_CHECKING

from edge_node.cli.parser import build_parser
from edge_node.config import EdgeConfig, from_arguments
from edge_node.energy import energy_meter
from flexspec_mq.daemon import logs
from flexspec_mq.daemon import systemd as notify
from flexspec_mq.daemon.main import run_main, spare_what_is_loaded
from flexspec_mq.daemon.signals import stoppable
from flexspec_mq.daemon.streams import never_fails
from flexspec_mq.doctor import command as doctor
from flexspec_mq.errors import Cancelled
from flexspec_mq.settings import show
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.diagnosis.preflight import preflight

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from edge_node.api.settings import ApiSettings
    from edge_node.cli.commands import Command
    from edge_node.completion.generator import CompletionGenerator
    from edge_node.completion.options import CompletionOptions
    from edge_node.energy import EnergyMeter
    from edge_node.fleet.catalogue import FamilyCatalogue
    from edge_node.limits import BatteryGauge
    from edge_node.node import EdgeNode
    from edge_node.settings import EdgeSettings
    from flexspec_mq.catalogue.options import FamilyOptions
    from flexspec_mq.controller.plan import Policy
    from flexspec_mq.doctor.command import Examine
    from flexspec_mq.drafting.load import DraftModel
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.transport.base import LinkSettings

_PATIENCE = 10.0
"""Seconds that a text of `ask`, `batch` or `chat` waits for the link when it is lost."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv, extras="edge,serve")


def _main(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.command == "doctor":
        return _doctor(args)
    loaded = from_arguments(args)
    config = loaded.settings
    if args.command == "config":
        show(loaded, json=args.json)
        return 0
    if args.command == "plan":
        from edge_node.cli.plan import show_plans

        show_plans(config.api, as_json=args.json)
        return 0
    logs.configure(config.log, edge=config.node.edge)
    link = link_settings(config.link, f"e-{config.node.edge}")
    if config.node.keys is not None:
        from edge_node.wire import wire_of

        wire_of(config.node)  # before a draft is loaded, if there is something to complain about
    family = _family(config.family)
    energy = energy_meter(config.node)
    limits = config.limits.limits(config.plan, energy)
    battery = config.limits.gauge()
    policy = partial(config.plan.new_policy, limits)
    if args.command == "serve":
        never_fails("stdout")
        api = config.api.for_serving()
        preflight(link, logs.tell, daemon=True)
        with logs.logged_stages() as tell:
            draft = _load(config.node, tell)
        node = _node(config, draft, family, energy, battery)
        spare_what_is_loaded()
        asyncio.run(_serve(config, link, node, draft.loaded, api, policy, ready_json=args.ready_json))
        return 0
    options = _options(args)
    from edge_node.cli import commands

    command = commands.prepare(args)
    preflight(link, logs.tell, daemon=False)
    with logs.logged_stages() as tell:
        draft = _load(config.node, tell)
    from edge_node.completion.generator import CompletionGenerator

    node = _node(config, draft, family, energy, battery)
    with contextlib.closing(CompletionGenerator(node, draft.loaded, policy, lambda: _PATIENCE)) as generator:
        asyncio.run(_run(generator, link, command, options, events=args.events))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    def prepare() -> Examine:
        config = from_arguments(args).settings
        from edge_node.doctor.examine import examine

        return lambda tell, timeout: examine(config, tell, timeout, load=_load)

    return doctor.run("edge", args, prepare)


def _load(settings: EdgeSettings, tell: Callable[[str], None]) -> DraftModel:
    """Load the draft; call it outside of the event loop, where Ctrl-C ends it.

    It imports torch: only when nothing is left to complain about, and on the thread that waits for it.
    """
    from flexspec_mq.drafting.load import load

    return load(settings, tell)


def _options(args: argparse.Namespace) -> CompletionOptions:
    from edge_node.completion.options import CompletionOptions

    return CompletionOptions(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        limit=args.max_tokens,
        ignore_eos=args.ignore_eos,
        timeout=args.timeout,
        wait=args.wait,
    )


def _node(
    config: EdgeConfig,
    draft: DraftModel,
    family: FamilyCatalogue | None,
    energy: EnergyMeter | None,
    battery: BatteryGauge | None,
) -> EdgeNode:
    from edge_node.node import EdgeNode

    loaded = draft.loaded
    return EdgeNode(
        config.node,
        draft.drafter,
        loaded.fingerprint,
        loaded.eos,
        family=family,
        energy=energy,
        battery=battery,
        tokenizer=loaded.tokenizer_status,
    )


def _family(settings: FamilyOptions) -> FamilyCatalogue | None:
    """What was kept of the family that the settings name; reading signatures is imported only where there is one."""
    if settings.family is None:
        return None
    from edge_node.fleet.catalogue import family_catalogue

    return family_catalogue(settings)


async def _serve(
    config: EdgeConfig,
    base: LinkSettings,
    node: EdgeNode,
    loaded: LoadedText,
    api: ApiSettings,
    policy: Callable[[], Policy],
    *,
    ready_json: bool,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C, which is how a daemon ends well."""
    from edge_node.api.daemon import serve_node
    from flexspec_mq.transport.mqtt import mqtt_link

    def started(port: int) -> None:
        if ready_json:
            sys.stdout.write(json.dumps({"ready": True, "host": api.api_host, "port": port}) + "\n")
            sys.stdout.flush()
        serves = (
            f"edge {config.node.edge} serves http://{api.api_host}:{port}/v1; the broker is {base.address}"
        )
        logs.tell(serves)
        notify.ready(serves)

    def ending() -> None:
        notify.stopping("ending its streams")

    with contextlib.suppress(Cancelled):
        async with stoppable(ending):
            await serve_node(
                node,
                loaded,
                mqtt_link,
                base,
                policy=policy,
                settings=api,
                started=started,
            )


async def _run(
    generator: CompletionGenerator,
    base: LinkSettings,
    command: Command,
    options: CompletionOptions,
    *,
    events: bool,
) -> None:
    """Run one command over a node of its own."""
    from edge_node.cli.view import SessionView
    from flexspec_mq.transport.mqtt import mqtt_link

    async with stoppable(), generator.node.running(mqtt_link, base, everyone=True):
        await command(SessionView(generator, options, events))
