"""``flexspec-edge``: write texts from this device, with a draft here and the target behind a broker."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge_node.settings import EdgeConfig, EdgeSettings, PlanOptions, add_arguments, from_arguments
from flexspec_mq.daemon import logs
from flexspec_mq.daemon import systemd as notify
from flexspec_mq.daemon.main import run_main
from flexspec_mq.doctor import command as doctor
from flexspec_mq.doctor.command import add_doctor_command
from flexspec_mq.errors import Cancelled
from flexspec_mq.settings import add_show_command, show
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.preflight import preflight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from edge_node.api.settings import ApiSettings
    from edge_node.cli.view import SessionView
    from edge_node.completion.writing import Wish
    from edge_node.drafting.load import DraftModel
    from edge_node.node import EdgeNode
    from flexspec_mq.doctor.command import Examine
    from flexspec_mq.transport.base import LinkSettings

ONE_SHOT_PATIENCE = 15.0
"""Seconds without a connection after which a command that answers and stops gives up, unless told otherwise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    # No abbreviations: --password, which is no flag of ours, would be taken for --password-file.
    parser = argparse.ArgumentParser(prog="flexspec-edge", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    ask = commands.add_parser("ask", help="answer one prompt and stop", allow_abbrev=False)
    ask.add_argument("prompt", nargs="?", help="what to ask; read from standard input when it is left out")
    chat = commands.add_parser(
        "chat", help="talk over several turns; one line each on standard input", allow_abbrev=False
    )
    batch = commands.add_parser("batch", help="answer many prompts at once", allow_abbrev=False)
    batch.add_argument(
        "file", type=Path, help="JSON lines with `prompt`, or `turns` of which the first is used"
    )
    batch.add_argument("--at-once", type=int, default=8, help="texts written at a time (default: 8)")
    for command in (ask, chat, batch):
        _add_wishes(command)
        patience = {} if command is chat else {"give_up_after": ONE_SHOT_PATIENCE}
        add_arguments(command, api=False, **patience)
        command.add_argument("--events", action="store_true", help="print what happens as JSON lines")
        logs.add_verbose(command)
    serves = commands.add_parser(
        "serve", help="an OpenAI-compatible HTTP API for programs on this device", allow_abbrev=False
    )
    serves.add_argument(
        "--ready-json", action="store_true", help="print one JSON line on stdout when serving"
    )
    add_arguments(serves)
    logs.add_verbose(serves)
    for one in (add_show_command(commands), add_doctor_command(commands)):
        add_arguments(one)
        logs.add_verbose(one)
    return parser


def _add_wishes(command: argparse.ArgumentParser) -> None:
    text = command.add_argument_group("text")
    text.add_argument("--max-tokens", type=int, default=256, help="tokens to write at most (default: 256)")
    text.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: 0)")
    text.add_argument(
        "--top-k", type=int, default=0, help="keep the k most likely tokens; 0 is all (default: 0)"
    )
    text.add_argument(
        "--top-p", type=float, default=1.0, help="keep this mass of them; 1 is all (default: 1)"
    )
    text.add_argument("--seed", type=int, help="same seed, same text (default: drawn)")
    text.add_argument("--ignore-eos", action="store_true", help="always write up to --max-tokens")
    text.add_argument("--timeout", type=float, help="seconds for one text (default: none)")


def _main(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.command == "doctor":
        return _doctor(args)
    loaded = from_arguments(args)
    config = loaded.settings
    if args.command == "config":
        show(loaded, json=args.json)
        return 0
    logs.configure(config.log, edge=config.node.edge)
    link = link_settings(config.link, f"e-{config.node.edge}")
    preflight(link, logs.tell, daemon=args.command == "serve")
    if args.command == "serve":
        api = config.api.settings(config.node.version)
        with logs.logged_stages() as tell:
            draft = _loading()(config.node, tell)
        asyncio.run(_serve(config, link, draft, api, ready_json=args.ready_json))
        return 0
    wish = _wish(args, config.plan)
    from edge_node.cli import commands

    command = commands.prepare(args)
    with logs.logged_stages() as tell:
        draft = _loading()(config.node, tell)
    asyncio.run(_run(config.node, link, draft, lambda node: command(_view(node, draft, wish, args.events))))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    def prepare() -> Examine:
        config = from_arguments(args).settings
        from edge_node.doctor.examine import examine

        return lambda tell, timeout: examine(config, tell, timeout, load=_load_late)

    return doctor.run("edge", args, prepare)


def _load_late(settings: EdgeSettings, tell: Callable[[str], None]) -> DraftModel:
    """Load the draft; import what that needs only now, on the thread that waits for it."""
    return _loading()(settings, tell)


def _loading() -> Callable[[EdgeSettings, Callable[[str], None]], DraftModel]:
    """The function that loads the draft; call it outside of the event loop, where Ctrl-C ends it.

    It imports torch: only when nothing is left to complain about.
    """
    from edge_node.drafting.load import load

    return load


async def _serve(
    config: EdgeConfig, base: LinkSettings, draft: DraftModel, api: ApiSettings, *, ready_json: bool
) -> None:
    """Serve the API until SIGTERM or Ctrl-C, which is how a daemon ends well."""
    from edge_node.api.daemon import serve_node
    from edge_node.node import EdgeNode
    from flexspec_mq.transport.mqtt import mqtt_link

    node = EdgeNode(
        config.node, draft.drafter, draft.loaded.fingerprint, draft.loaded.eos, reuse=config.node.reuse
    )

    def started(port: int) -> None:
        if ready_json:
            sys.stdout.write(json.dumps({"ready": True, "host": api.host, "port": port}) + "\n")
            sys.stdout.flush()
        serves = f"edge {config.node.edge} serves http://{api.host}:{port}/v1; the broker is {base.address}"
        logs.tell(serves)
        notify.ready(serves)

    def ending() -> None:
        notify.stopping("ending its streams")

    with contextlib.suppress(Cancelled):
        async with stoppable(ending):
            await serve_node(
                node,
                draft.loaded,
                mqtt_link,
                base,
                policy=config.plan.new_policy,
                settings=api,
                started=started,
            )


def _wish(args: argparse.Namespace, plan: PlanOptions) -> Wish:
    from edge_node.completion.writing import Wish
    from flexspec_mq.controller.policies import POLICIES

    return Wish(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        limit=args.max_tokens,
        plan=plan.plan(),
        policy=POLICIES[plan.policy],
        ignore_eos=args.ignore_eos,
        timeout=args.timeout,
    )


def _view(node: EdgeNode, draft: DraftModel, wish: Wish, events: bool) -> SessionView:
    from edge_node.cli.view import SessionView

    return SessionView(node, draft.loaded, wish, events)


async def _run(
    settings: EdgeSettings,
    base: LinkSettings,
    draft: DraftModel,
    use: Callable[[EdgeNode], Awaitable[None]],
) -> None:
    from edge_node.node import EdgeNode
    from flexspec_mq.transport.mqtt import mqtt_link

    node = EdgeNode(settings, draft.drafter, draft.loaded.fingerprint, draft.loaded.eos, reuse=settings.reuse)
    async with stoppable(), node.running(mqtt_link, base):
        await use(node)


@contextlib.asynccontextmanager
async def stoppable(ending: Callable[[], None] | None = None) -> AsyncIterator[None]:
    """SIGTERM and Ctrl-C cancel what runs inside, so that workers are told; the exit code is 130.

    Args:
        ending: told that one of them came, before anything ends.

    Raises:
        Cancelled: one of them came.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine always runs in a task
    loop = asyncio.get_running_loop()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        if ending is not None:
            ending()
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    except asyncio.CancelledError:
        if stopped:
            raise Cancelled("stopped by the user") from None
        raise
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


if __name__ == "__main__":
    sys.exit(main())
