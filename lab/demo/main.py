"""An answer over a mobile network that is cut in the middle, without drafts and with them, side by side."""

from __future__ import annotations

import argparse
import asyncio
import math
import secrets
import signal
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.signals import on_signal
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.models.checkpoint import need_libraries
from lab.demo.recording import CUT_S, Recording, record
from lab.demo.screen import TITLES, Screen
from lab.testbed.deployment import NO_FILE, local_deployment
from lab.testbed.link.plans import link_plan
from lab.testbed.link.profiles import Figure, LinkPlan, Profile, State, WayFigures
from lab.testbed.link.proxy import proxy_link
from lab.testbed.process import python
from schemas.messages import MAX_AHEAD

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from lab.testbed.deployment import Daemon, LocalDeployment
    from lab.testbed.link.proxy import ProxyLink

PROMPT = "What are the main causes of tides?"
"""A question in the middle of the 40 of ``flexspec bench`` by tokens a round."""
LINK, NO_LINK = "4g", "none"
_SAYS = ("--log-format", "human")
_STREAMING = (
    *("--draft=none", "--no-lookup", "--draft-length=0", f"--ahead={MAX_AHEAD}"),
    "--worker-draft=0",
)
_WHY = {
    LINK: ("Drafts win here: an answer over 4g takes 0.75 of the time of streaming (docs/performance.md).",),
    NO_LINK: (
        "Nothing is to be won by a draft on the device: no round trip can be saved, and it takes the cores",
        "that the target needs. What drafts win on loopback, the worker's own draft wins.",
    ),
}
"""Expectation of a link."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run, argv, extras="models,serve")


def build_parser() -> argparse.ArgumentParser:
    """The demo's flags."""
    parser = argparse.ArgumentParser(prog="flexspec demo", description=__doc__)
    parser.add_argument("--prompt", help=f"what to ask (default: {PROMPT})", default=PROMPT)
    parser.add_argument("--chat", action="store_true", help="talk over several turns, as flexspec chat does")
    network = f"network, as `flexspec link profiles` lists them, or none (default: {LINK})"
    parser.add_argument("--link", default=LINK, help=network)
    parser.add_argument("--target", default="default", help="model folder or hub name (default: SmolLM2)")
    parser.add_argument("--draft", default="default", help="draft checkpoint folder, 'default' or 'none'")
    parser.add_argument("--max-tokens", type=int, default=200, help="tokens to write at most (default: 200)")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: as the target's makers say)")
    parser.add_argument("--seed", type=int, help="same seed, same text (default: drawn)")
    return parser


def run(argv: Sequence[str], screen: Screen | None = None) -> int:
    """Run the demo with these flags on a screen, standard output by default; returns the exit code."""
    args = build_parser().parse_args(argv)
    if not args.prompt.strip():
        raise UsageError("the prompt is empty", hint='make demo PROMPT="What is a broker?"')
    plan = _plan(args.link, args.seed or 0)
    need_libraries("the demo")
    return asyncio.run(_run(args, plan, screen or Screen()))


def _plan(link: str, seed: int) -> LinkPlan:
    """The network by its name; loopback impairs nothing, and can be cut as well.

    Raises:
        UsageError: there is no such network.
    """
    if link != NO_LINK:
        try:
            return link_plan(link, seed, None)
        except UsageError as error:
            raise UsageError(error.message, hint=f"{error.hint}, or {NO_LINK!r} for loopback") from None
    none, endless = Figure(0.0, NO_LINK), Figure(1e6, NO_LINK)
    way = WayFigures(none, none, endless, none, endless)
    return LinkPlan("loopback", Profile("no delay, no limit", (State("steady", way, way),)))


async def _run(args: argparse.Namespace, plan: LinkPlan, screen: Screen) -> int:
    """Run the demo; returns the exit code."""
    # Proxies end after the nodes, which say goodbye through them.
    async with AsyncExitStack() as proxies, local_deployment(with_us=signal.SIGTERM) as place:
        with screen.bars("broker", "worker", "edge", "streaming") as tell:
            tell("starting", "broker")
            await place.start_broker()
            tell("ready: 100 %", "broker")
            tokenizer = () if args.target == "default" else (f"--tokenizer={args.target}",)
            sides = {} if args.chat else {"streaming": [*_STREAMING, *tokenizer]}
            sides["edge"] = [f"--draft={args.draft}"]
            # A proxy for each node, so that each is counted and cut on its own.
            at = (place.host, place.port)
            links = [await proxies.enter_async_context(proxy_link(plan, at)) for _ in sides]
            say = {name: partial(tell, task=name) for name in ("worker", *sides)}
            worker, *nodes = await together(
                place.worker("worker", *_SAYS, f"--target={args.target}", say=say["worker"]),
                *(
                    place.edge(name, *_SAYS, *flags, f"--broker={link.host}:{link.port}", say=say[name])
                    for (name, flags), link in zip(sides.items(), links, strict=True)
                ),
            )
        screen.say(f"target   {worker.ready['target']}, verification {worker.ready['exactness']}")
        how = "a proxy in user space, where a lost packet is a pause"
        screen.say(f"network  {plan.name}: {plan.profile.about}; {how}")
        for line in _WHY.get(args.link, ()):
            screen.say(f"         {line}")
        if args.chat:
            return await _chat(place, args, nodes[0])
        await _compare(args, screen, list(zip(nodes, links, strict=True)))
    return 0


async def together(*starts: Coroutine[Any, Any, Daemon]) -> list[Daemon]:
    """All of them, or the first error."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(start) for start in starts]
    except* FlexSpecError as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _chat(place: LocalDeployment, args: argparse.Namespace, edge: Daemon) -> int:
    """Run ``flexspec chat`` in this terminal; returns its exit code, without that of a refused line."""
    flags = [f"--url={edge.url}", "--history=none", f"--max-tokens={args.max_tokens}"]
    given = {"temperature": args.temperature, "seed": args.seed}
    flags += [f"--{name}={value}" for name, value in given.items() if value is not None]
    command = python("flexspec_mq.cli", "chat", *flags, *NO_FILE)
    with on_signal(lambda: None, signal.SIGINT):  # Ctrl-C is the chat's: it ends an answer
        code = await (await place.start("chat", "device", command, terminal=True)).wait(math.inf)
    return 0 if code == UsageError.exit_code else code


async def _compare(
    args: argparse.Namespace, screen: Screen, nodes: Sequence[tuple[Daemon, ProxyLink]]
) -> None:
    """Record the answer of each node, undisturbed and cut, and play the cut ones side by side.

    Raises:
        FlexSpecError: two of the texts differ.
    """
    body = {
        "messages": [{"role": "user", "content": args.prompt}],
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "seed": secrets.randbits(32) if args.seed is None else args.seed,
    }
    screen.question(args.prompt)
    runs: list[Recording] = []
    with screen.bars(*TITLES) as tell:
        for how in ("undisturbed", "cut"):
            for title, (node, link) in zip(TITLES, nodes, strict=True):
                tell(f"recorded in turns, {how}", title)
                half = len(runs[0].text) // 2 if how == "cut" else None
                runs.append(await record(node.url, body, link=link, cut_behind=half))
                if runs[-1].text != runs[0].text:
                    raise FlexSpecError(
                        f"{title}, {how}: another text than the target alone wrote",
                        hint="this is a bug: please report it",
                    )
    screen.say("Both share this machine, so they were recorded in turns; they are played at their true pace.")
    cut = f"the network is cut for {CUT_S:g} s; what is missing then comes late, or again"
    screen.say(f"When half of the text has come, {cut}.\n")
    screen.legend()
    await screen.play(runs[2:])
    screen.figures(runs[:2], runs[2:])
