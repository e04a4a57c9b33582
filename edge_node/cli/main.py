"""The flags of ``flexspec-edge``, and from them to a node that runs, and the exit code."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_node.api.settings import ApiSettings
from edge_node.config import EdgeConfig, add_arguments, from_arguments
from edge_node.energy import energy_meter
from edge_node.settings import EdgeSettings
from edge_node.text.spec import TextSpec
from flexspec_mq import waiting
from flexspec_mq.controller.plan import Policy
from flexspec_mq.daemon import logs
from flexspec_mq.daemon import systemd as notify
from flexspec_mq.daemon.files import state_folder
from flexspec_mq.daemon.main import run_main, spare_what_is_loaded
from flexspec_mq.daemon.signals import stoppable
from flexspec_mq.daemon.streams import never_fails
from flexspec_mq.daemon.tasks import running
from flexspec_mq.doctor import command as doctor
from flexspec_mq.doctor.command import Examine, add_doctor_command
from flexspec_mq.errors import Cancelled, LinkDown, ModelError
from flexspec_mq.models.cache import cache_folder
from flexspec_mq.settings import add_show_command, show
from flexspec_mq.telemetry import EDGE, context_of_environment, exporting
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.diagnosis import preflight
from flexspec_mq.transport.link import Link
from schemas.openai import LOCAL_ONLY

if TYPE_CHECKING:
    from edge_node.api.serving import Api
    from edge_node.fleet.fetched_draft import FetchedDraft
    from edge_node.node import EdgeNode
    from edge_node.outbox.journal import Journal
    from edge_node.text.texts import Texts
    from flexspec_mq.daemon.retry import Waiting
    from flexspec_mq.drafting.load import DraftModel
    from flexspec_mq.drafting.memory import AnswerMemory
    from flexspec_mq.models.load import LoadedText


_FETCHED = "fetched-draft"
"""Folder of the cache with a draft that was fetched."""
OUTBOX_ACTIONS = "list", "show", "send", "drop"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    # No abbreviations: --password, which is no flag of ours, would be taken for --password-file.
    parser = argparse.ArgumentParser(
        prog="flexspec-edge",
        description="Write texts from this device, with a draft here and the target behind a broker.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    ask = commands.add_parser("ask", help="answer one prompt and stop", allow_abbrev=False)
    ask.add_argument("prompt", nargs="?", help="what to ask; read from standard input when it is left out")
    ask.add_argument("--events", action="store_true", help="print what happens as JSON lines")
    _add_options(ask)
    add_arguments(ask, api=False)
    logs.add_verbose(ask)
    serves = commands.add_parser(
        "serve", help="an OpenAI-compatible HTTP API for programs on this device", allow_abbrev=False
    )
    serves.add_argument(
        "--ready-json", action="store_true", help="print one JSON line on stdout when serving"
    )
    remembered = commands.add_parser(
        "memory", help="answers that this device remembers to draft from", allow_abbrev=False
    )
    remembered.add_argument("action", choices=("show", "forget"), help="what to do with them")
    remembered.add_argument(
        "of", nargs="?", metavar="VERSION", help="one version, whose texts are shown (default: all)"
    )
    add_arguments(remembered, api=False)
    kept = commands.add_parser(
        "outbox", help="requests that wait, and answers that are kept", allow_abbrev=False
    )
    kept.add_argument(
        "action", nargs="?", default="list", choices=OUTBOX_ACTIONS, help="what to do (default: list)"
    )
    kept.add_argument("id", nargs="?", metavar="ID", help="id of a request, or how it begins")
    kept.add_argument("--json", action="store_true", help="print JSON")
    for command in (serves, kept, add_show_command(commands), add_doctor_command(commands)):
        add_arguments(command)
        logs.add_verbose(command)
    return parser


def _add_options(command: argparse.ArgumentParser) -> None:
    """Add how texts are written. Whoever scripts wants the same text each time: greedy unless told otherwise."""
    text = command.add_argument_group("text")
    for name, kind, default, about in (
        ("max-tokens", int, 256, "tokens to write at most; -1 is what the context leaves"),
        ("temperature", float, 0.0, "0 is greedy"),
        ("top-k", int, 0, "keep the k most likely tokens; 0 is all"),
        ("top-p", float, 1.0, "keep this mass of them; 1 is all"),
        ("min-p", float, 0.0, "keep those so likely beside the likeliest; 0 is all"),
    ):
        text.add_argument(f"--{name}", type=kind, default=default, help=f"{about} (default: {default:g})")
    text.add_argument("--seed", type=int, help="same seed, same text (default: drawn)")
    text.add_argument(
        "--offline",
        choices=("hold", "provisional", LOCAL_ONLY),
        default="hold",
        help="while nobody can be reached wait, or have a model here write on, marked as unverified; "
        f"or have --local write all of it, so that nothing leaves this device ({LOCAL_ONLY}; default: hold)",
    )
    text.add_argument("--ignore-eos", action="store_true", help="always write up to --max-tokens")
    text.add_argument("--timeout", type=float, help="seconds for one text (default: none)")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv, extras="edge,draft")


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
    if args.command == "memory":
        from edge_node.cli.memory import run_memory

        run_memory(args, _answers_folder(config), config.node, logs.tell)
        return 0
    if args.command == "outbox":
        from edge_node.cli.outbox import run_outbox

        run_outbox(args, config.api, _outbox_file(config))
        return 0
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
    data = config.limits.data(_state(config, "data"), "-" if config.node.ephemeral else config.node.edge)
    run = _runner(args, config)
    if getattr(args, "offline", None) != LOCAL_ONLY:
        preflight(link, logs.tell, daemon=args.command == "serve")
    with exporting(config.telemetry, EDGE, config.node.edge) as telemetry:
        with logs.logged_stages() as tell:
            asked, config = config.node, replace(config, node=_possible(config.node, tell))
            fetched = _wanted_draft(asked, config.node)
            draft = _load(config.node, tell)
            local = _local(config.node, draft, tell)
        from edge_node.fleet.target_texts import TargetTexts
        from edge_node.node import EdgeNode

        node = EdgeNode(
            config.node,
            draft.drafter,
            b"" if draft.loaded is None else draft.loaded.fingerprint,
            () if draft.loaded is None else draft.loaded.eos,
            family=family,
            energy=energy,
            battery=battery,
            data=data,
            memory=_memory(config, link),
            local=local,
            texts=TargetTexts(draft, config.node.edge, partial(cache_folder, "tokenizers"), fetched),
            telemetry=telemetry,
        )
        spare_what_is_loaded()
        asyncio.run(run(node, draft.loaded, partial(config.plan.new_policy, limits), link))
    return 0


_Run = Callable[
    ["EdgeNode", "LoadedText | None", Callable[[], Policy], LinkSettings], Coroutine[Any, Any, None]
]
"""Has a node do what a command is for."""


def _runner(args: argparse.Namespace, config: EdgeConfig) -> _Run:
    """The part of the command that is run with the node, after all that can be complained about before."""
    if args.command == "serve":
        never_fails("stdout")
        asks = None
        if config.asks.mqtt_ask:
            from edge_node.asking.asks import Asks
            from flexspec_mq.transport.mqtt import mqtt_link

            told = config.asks.link(config.node.edge, config.link, ephemeral=config.node.ephemeral)
            ephemeral = config.node.ephemeral

            def asks(api: Api) -> AbstractAsyncContextManager[asyncio.Task[None]]:
                return Asks(api, config.asks, mqtt_link, told, ephemeral=ephemeral).running()

        return partial(_serve, config.api.for_serving(), asks, _journal(config), ready_json=args.ready_json)
    return partial(_write, _spec(args), as_json=args.events)


def _answers_folder(config: EdgeConfig) -> Path:
    stated = config.family.state_dir
    return cache_folder("answers") if stated is None else stated / "answers"


def _journal(config: EdgeConfig) -> Journal:
    """The outbox; in memory where nobody wants it on disk, or would find it there: its name is the node's.

    Raises:
        OutboxError: it cannot be used.
    """
    from edge_node.outbox.journal import Journal

    named = not config.node.ephemeral
    path = _outbox_file(config) if config.api.outbox and named else None
    if config.api.outbox and path is None:
        why = "this user has no home: --state-dir FOLDER" if named else "this node has no name: --edge NAME"
        logs.tell(f"the outbox is kept in memory, and a restart forgets it: {why}")
    return Journal(path, config.api.bounds)


def _outbox_file(config: EdgeConfig) -> Path | None:
    """The file of the outbox; None for a user without a home."""
    folder = _state(config, "outbox")
    return folder and folder / f"{config.node.edge}.sqlite"


def _state(config: EdgeConfig, name: str) -> Path | None:
    """A folder of what outlives the node; None for a user without a home."""
    stated = config.family.state_dir
    return state_folder(name) if stated is None else stated / name


def _memory(config: EdgeConfig, link: LinkSettings) -> AnswerMemory | None:
    if not (config.node.remember and config.node.lookup):
        return None
    from flexspec_mq.drafting.memory import AnswerMemory

    try:
        folder = _answers_folder(config)
    except ModelError as error:  # there is neither a folder nor a home, which a node can do without
        logs.tell(f"no answers are remembered: {error.message}; --state-dir names a folder")
        return None
    return AnswerMemory(folder, f"{link.address} {config.family.family or ''}".strip())


def _doctor(args: argparse.Namespace) -> int:
    def prepare() -> Examine:
        config = from_arguments(args).settings
        from edge_node.doctor.examine import EdgeDoctor

        return EdgeDoctor(config, _load).examine

    return doctor.run(args, prepare)


def _possible(settings: EdgeSettings, tell: Callable[[str], None] | None) -> EdgeSettings:
    """The settings with the draft of their pair, or without the default draft where that is not installed.

    Args:
        settings: settings as the user gave them.
        tell: told what takes long; None fetches nothing.
    """
    from edge_node.fleet.fetched_draft import fetched_draft
    from flexspec_mq.drafting.load import has_default_draft
    from flexspec_mq.models.pairs.prepare import with_pair

    settings = with_pair(settings, "draft", tell)
    if settings.draft != "default" or has_default_draft():
        return settings
    if settings.fetch_draft and (fetched := fetched_draft(cache_folder(_FETCHED))) is not None:
        return replace(settings, draft=str(fetched))
    logs.tell(
        "no draft is installed here, so the target writes alone; --draft FOLDER names one, --fetch-draft has a "
        "worker give one"
    )
    return replace(settings, draft="none")


def _wanted_draft(asked: EdgeSettings, possible: EdgeSettings) -> FetchedDraft | None:
    """Fetches a draft where one is wanted, and there is none.

    Raises:
        ModelError: what drafts with it is not installed.
    """
    from edge_node.fleet.fetched_draft import FetchedDraft
    from flexspec_mq.models.checkpoint import need_libraries

    if not asked.fetch_draft or (asked.draft, possible.draft) != ("default", "none"):
        return None
    need_libraries("a draft that is fetched", "edge,draft,export", ("onnxruntime", "onnx"))
    return FetchedDraft(asked.edge, cache_folder(_FETCHED))


def _load(settings: EdgeSettings, tell: Callable[[str], None]) -> DraftModel:
    """Load the draft; call it outside of the event loop, where Ctrl-C ends it.

    It imports much: only when nothing is left to complain about, and on the thread that waits for it.
    """
    from flexspec_mq.drafting.load import load

    return load(_possible(settings, None), tell)


def _local(settings: EdgeSettings, draft: DraftModel, tell: Callable[[str], None]) -> DraftModel | None:
    """The model of the device's own, which may be the draft; None without one."""
    if settings.local is None or settings.local_is_draft:
        return None if settings.local is None else draft
    from flexspec_mq.drafting.load import load

    return load(replace(settings, draft=settings.local, tokenizer=None, lookup=False), tell)


async def _runs(node: AbstractAsyncContextManager[EdgeNode]) -> None:
    async with node:
        await asyncio.Event().wait()


def _spec(args: argparse.Namespace) -> TextSpec:
    from edge_node.cli.texts import prompt_of
    from edge_node.text.spec import TextSpec
    from schemas.messages import PartialSampling

    return TextSpec(
        prompt=prompt_of(args.prompt),
        sampling=PartialSampling(**{name: getattr(args, name) for name in PartialSampling.__struct_fields__}),
        seed=args.seed,
        limit=args.max_tokens,
        ignore_eos=args.ignore_eos,
        timeout=args.timeout,
        offline=args.offline,
        trace_context=context_of_environment(),
    )


async def _serve(
    api: ApiSettings,
    asks: Callable[[Api], AbstractAsyncContextManager[asyncio.Task[None]]] | None,
    journal: Journal,
    node: EdgeNode,
    text: LoadedText | None,
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
        page = f"http://{api.api_host}:{port}"
        serves = f"edge {node.name} serves {page}/v1; its page is {page}; the broker is {link.address}"
        logs.tell(serves)
        notify.ready(serves)

    def ending() -> None:
        notify.stopping("ending its streams")

    with contextlib.suppress(Cancelled):
        async with stoppable(ending):
            await serve_node(
                node,
                text,
                mqtt_link,
                link,
                policy=policy,
                settings=api,
                started=started,
                beside=asks,
                journal=journal,
            )


async def _write(
    spec: TextSpec,
    node: EdgeNode,
    text: LoadedText | None,
    policy: Callable[[], Policy],
    link: LinkSettings,
    *,
    as_json: bool,
) -> None:
    from edge_node.cli.texts import ask, ask_offline
    from edge_node.text.generator import CompletionGenerator
    from flexspec_mq.transport.mqtt import mqtt_link

    if spec.offline != "hold":
        from edge_node.api.app import create_app

        texts: Texts = create_app(node, text, policy=policy, settings=ApiSettings()).state.api.texts
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(stoppable())
            if spec.offline != LOCAL_ONLY:
                await stack.enter_async_context(running(_runs(node.running(mqtt_link, link)), "edge node"))
            stack.push_async_callback(texts.close)
            await ask_offline(texts, spec, as_json=as_json)
        return

    failed: BaseException | None = None
    began = False
    within = None if link.give_up_after else node.settings.wait or waiting.UNLINKED

    def told(waits: Waiting) -> None:
        nonlocal failed
        failed = waits.error
        if waits.attempt == 1:
            reason = str(waits.error).partition("\n")[0]
            logs.tell(f"{waits.what}: {reason}")

    def connect(settings: LinkSettings) -> AbstractAsyncContextManager[Link]:
        return mqtt_link(settings, on_wait=told)

    try:
        with contextlib.closing(CompletionGenerator(node, text, policy)) as generator:
            async with stoppable(), node.running(connect, link, within):
                began = True
                await ask(generator, spec, as_json=as_json)
    except LinkDown as error:
        if began or not isinstance(failed, LinkDown):
            raise
        raise LinkDown(f"gave up after {within:g} s: {failed.message}", hint=failed.hint) from error
