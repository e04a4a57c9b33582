"""From the flags of ``flexspec-edge`` to a node that runs, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from edge_node.cli.parser import build_parser
from edge_node.config import from_arguments
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
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

    from edge_node.api.settings import ApiSettings
    from edge_node.cli.texts import Command
    from edge_node.completion.options import CompletionOptions
    from edge_node.node import EdgeNode
    from edge_node.settings import EdgeSettings
    from flexspec_mq.controller.plan import Policy
    from flexspec_mq.daemon.retry import Waiting
    from flexspec_mq.doctor.command import Examine
    from flexspec_mq.drafting.load import DraftModel
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.transport.base import LinkSettings
    from flexspec_mq.transport.link import Link

PATIENCE = 3.0
"""Seconds that `ask` and `batch` try to reach the broker, unless told otherwise; the API says so as soon."""
_RECONNECTS = 10.0
"""Seconds that a text of `ask` or `batch` waits for the link when it is lost."""


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
    family = None
    if config.family.family is not None:
        from edge_node.fleet.catalogue import family_catalogue

        family = family_catalogue(config.family)
    energy = energy_meter(config.node)
    limits = config.limits.limits(config.plan, energy)
    battery = config.limits.gauge()
    run: Callable[[EdgeNode, LoadedText, Callable[[], Policy], LinkSettings], Coroutine[Any, Any, None]]
    if args.command == "serve":
        never_fails("stdout")
        run = partial(_serve, config.api.for_serving(), ready_json=args.ready_json)
    else:
        options = _options(args)
        from edge_node.cli.texts import prepare

        run = partial(_write, prepare(args), options)
        if config.link.give_up_after is None:
            link = replace(link, give_up_after=max(PATIENCE, options.wait))
    preflight(link, logs.tell, daemon=args.command == "serve")
    with logs.logged_stages() as tell:
        draft = _load(config.node, tell)
    from edge_node.node import EdgeNode

    node = EdgeNode(
        config.node,
        draft.drafter,
        draft.loaded.fingerprint,
        draft.loaded.eos,
        family=family,
        energy=energy,
        battery=battery,
        tokenizer=draft.loaded.tokenizer_status,
    )
    spare_what_is_loaded()
    asyncio.run(run(node, draft.loaded, partial(config.plan.new_policy, limits), link))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    def prepare() -> Examine:
        config = from_arguments(args).settings
        from edge_node.doctor.examine import EdgeDoctor

        return EdgeDoctor(config, _load).examine

    return doctor.run(args, prepare)


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


async def _serve(
    api: ApiSettings,
    node: EdgeNode,
    text: LoadedText,
    policy: Callable[[], Policy],
    link: LinkSettings,
    *,
    ready_json: bool,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C, which is how a daemon ends well."""
    from edge_node.api.server import serve_node
    from flexspec_mq.transport.mqtt import mqtt_link

    def started(port: int) -> None:
        if ready_json:
            sys.stdout.write(json.dumps({"ready": True, "host": api.api_host, "port": port}) + "\n")
            sys.stdout.flush()
        serves = f"edge {node.name} serves http://{api.api_host}:{port}/v1; the broker is {link.address}"
        logs.tell(serves)
        notify.ready(serves)

    def ending() -> None:
        notify.stopping("ending its streams")

    with contextlib.suppress(Cancelled):
        async with stoppable(ending):
            await serve_node(node, text, mqtt_link, link, policy=policy, settings=api, started=started)


async def _write(
    command: Command,
    options: CompletionOptions,
    node: EdgeNode,
    text: LoadedText,
    policy: Callable[[], Policy],
    link: LinkSettings,
) -> None:
    from edge_node.completion.generator import CompletionGenerator
    from flexspec_mq.transport.mqtt import mqtt_link

    def waiting(waits: Waiting) -> None:
        if waits.attempt == 1:
            reason = str(waits.error).partition("\n")[0]
            logs.tell(f"{waits.what}: {reason}")

    def connect(settings: LinkSettings) -> AbstractAsyncContextManager[Link]:
        return mqtt_link(settings, on_wait=waiting)

    with contextlib.closing(CompletionGenerator(node, text, policy, lambda: _RECONNECTS)) as generator:
        async with stoppable(), node.running(connect, link):
            await command(generator, options)
