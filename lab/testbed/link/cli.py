"""``flexspec link``: try programs over an emulated link."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from flexspec_mq.daemon.main import run_subcommand
from flexspec_mq.daemon.progress import answer
from flexspec_mq.daemon.signals import on_signal
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.flags import positive
from flexspec_mq.settings.values import address
from lab.testbed.link.counters import LinkCounters
from lab.testbed.link.namespace_owner import terminated
from lab.testbed.link.netns import NetnsLink, netns_link
from lab.testbed.link.profiles import BUILT_IN, Catalogue, LinkPlan, built_in, load_catalogue
from lab.testbed.link.proxy import proxy_link

_LOOK = 0.05
_HOUR = 3600.0


def main(argv: Sequence[str]) -> int:
    """``flexspec link``: returns the exit code."""
    return run_subcommand(add_parser, "link", argv, extras="")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``link`` to the subcommands of ``flexspec``."""
    link = commands.add_parser(
        "link", help="run programs over an emulated network: 4G, satellite, tunnel and others"
    )
    actions = link.add_subparsers(dest="action", metavar="action", required=True)
    run = actions.add_parser(
        "run",
        help="join two network namespaces (root, Linux); real IP packets",
        description="Run COMMAND on side a, the device, and that of --b on side b, the cloud, over an emulated link. "
        "In the commands {a} and {b} stand for the addresses of the sides. Ends with side a's command; the "
        "other one is ended then. Without any command the link is held open. Prints statistics, JSON last.",
    )
    _add_plan(run)
    run.add_argument("--b", metavar="CMD", help="command of side b as one word; started first")
    run.add_argument("command", nargs="*", metavar="COMMAND", help="after --: command of side a")
    run.set_defaults(func=_run)
    proxy = actions.add_parser(
        "proxy",
        help="carry TCP connections to one address; no root",
        description="A TCP proxy with a profile's delay, jitter and rate. Loss becomes a pause of one retransmission "
        "timeout, outages stall. Counts payload, not IP bytes. Ends on Ctrl-C, SIGTERM or --for.",
    )
    _add_plan(proxy)
    proxy.add_argument(
        "--listen", required=True, metavar="HOST:PORT", help="loopback; port 0 takes a free one"
    )
    proxy.add_argument("--to", required=True, metavar="HOST:PORT", help="where connections go")
    proxy.add_argument("--insecure-anywhere", action="store_true", help="allow --listen beyond loopback")
    proxy.set_defaults(func=_proxy)
    profiles = actions.add_parser(
        "profiles", help="print the profiles with their figures and sources, as TOML"
    )
    _add_file(profiles)
    profiles.set_defaults(func=_profiles)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profiles-file", type=Path, metavar="TOML", help="profiles of your own")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="4g", metavar="NAME", help="see `link profiles` (default: 4g)")
    _add_file(parser)
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn at random (default: 0)")
    parser.add_argument(
        "--at",
        type=positive,
        default=0.0,
        metavar="S",
        help="second of the channel at which the link comes up (default: 0)",
    )
    parser.add_argument(
        "--for",
        dest="duration",
        type=positive,
        default=_HOUR,
        metavar="S",
        help="seconds at most (default: 3600)",
    )


def _plan(args: argparse.Namespace) -> LinkPlan:
    return LinkPlan(args.profile, _catalogue(args).get(args.profile), args.seed, begins_s=args.at)


def _catalogue(args: argparse.Namespace) -> Catalogue:
    return built_in() if args.profiles_file is None else load_catalogue(args.profiles_file)


def _run(args: argparse.Namespace) -> int:
    try:
        commands = (shlex.split(args.b or ""), list(args.command))
    except ValueError as error:
        raise UsageError(f"{args.b!r} is no command: {error}") from None
    plan = _plan(args)
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        with netns_link(plan) as link:
            code = _run_inside(link, commands, time.monotonic() + args.duration)
    finally:
        signal.signal(signal.SIGTERM, before)
    _report(plan, link.counters, {"exit_code": code})
    return code


def _run_inside(link: NetnsLink, commands: tuple[list[str], list[str]], ends: float) -> int:
    environment = {**os.environ, "FLEXSPEC_LINK_A": link.address_a, "FLEXSPEC_LINK_B": link.address_b}
    running: list[subprocess.Popen[Any]] = []
    for start, words in zip((link.run_b, link.run_a), commands, strict=True):
        if words:
            filled = [word.replace("{a}", link.address_a).replace("{b}", link.address_b) for word in words]
            running.append(start(filled, env=environment))
    if not running:
        answer(f"side a: ip netns exec {link.name_a} sh    address {link.address_a}")
        answer(f"side b: ip netns exec {link.name_b} sh    address {link.address_b}")
        answer(f"The link ends with Ctrl-C, SIGTERM, or after {max(0.0, ends - time.monotonic()):.0f} s.")
    while not running or running[-1].poll() is None:
        if time.monotonic() >= ends:
            return 124 if running else 0  # as timeout(1) does
        try:
            time.sleep(_LOOK)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT if running else 0
    code = running[-1].returncode
    return int(code if code >= 0 else 128 - code)


def _proxy(args: argparse.Namespace) -> int:
    plan = _plan(args)
    listen, target = address(args.listen, least_port=0), address(args.to)

    async def serve() -> None:
        stop = asyncio.Event()
        carried = proxy_link(plan, target, listen=listen, insecure_anywhere=args.insecure_anywhere)
        with on_signal(stop.set):
            async with carried as proxy:
                answer(f"{plan.name} from {proxy.host}:{proxy.port} to {target[0]}:{target[1]}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(args.duration):
                        await stop.wait()
        _report(plan, proxy.counters, {"connections": proxy.connections})

    asyncio.run(serve())
    return 0


def _profiles(args: argparse.Namespace) -> int:
    file = args.profiles_file or BUILT_IN
    load_catalogue(file)  # whatever is wrong with it is told
    answer(file.read_text("utf-8"))
    return 0


def _report(plan: LinkPlan, counters: LinkCounters, more: dict[str, Any]) -> None:
    for line in counters.lines():
        answer(line)
    answer(
        json.dumps(
            {"profile": plan.name, "seed": plan.seed, **more, "counters": msgspec.to_builtins(counters)}
        )
    )
