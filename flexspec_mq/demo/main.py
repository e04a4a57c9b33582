"""An answer over a mobile network that is cut in the middle, without drafts and with them, side by side.

While it is cut, the device's draft writes on alone, unverified, until the target confirms or replaces that.
"""

import argparse
import asyncio
import math
import secrets
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

from flexspec_mq import waiting
from flexspec_mq.chat.answer import AnswerView
from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.progress import stages
from flexspec_mq.daemon.signals import on_signal
from flexspec_mq.demo.children import NO_FILE, Children, python
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.demo.recording import OUTAGE_S, Recording, record, until_ready
from flexspec_mq.demo.screen import TITLES, Screen
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.links import LINKS
from flexspec_mq.models.checkpoint import need_libraries
from flexspec_mq.models.pairs.prepare import best_here, half_of
from flexspec_mq.models.pairs.table import DEFAULT, check_source, usable
from schemas.messages import MAX_AHEAD

T = TypeVar("T")

PROMPT = "What are the main causes of tides?"
"""A question in the middle of the 40 of ``flexspec bench`` by tokens a round."""
LINK, NO_LINK = "4g", "loopback"
LONGEST_OUTAGE = 600.0
"""Seconds."""
_SAYS = ("--ready-json", "--log-format=human", *NO_FILE)
_STREAMING = (
    *("--draft=none", "--no-lookup", "--draft-length=0", f"--ahead={MAX_AHEAD}"),
    "--worker-draft=0",
)
_WHY = {
    LINK: ("Drafts win here: the default pair takes 0.75 of the time of streaming (docs/performance.md).",),
    NO_LINK: (
        "Nothing is to be won by a draft on the device: no round trip can be saved, and it takes the cores",
        "that the target needs. What drafts win on loopback, the worker's own draft wins.",
    ),
}
"""Expectation of a link."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run, argv, extras="demo")


def build_parser() -> argparse.ArgumentParser:
    """The demo's flags."""
    parser = argparse.ArgumentParser(prog="flexspec demo", description=__doc__)
    parser.add_argument("--prompt", help=f"what to ask (default: {PROMPT})", default=PROMPT)
    parser.add_argument("--chat", action="store_true", help="talk over several turns, as flexspec chat does")
    parser.add_argument("--link", choices=LINKS, default=LINK, help=f"network (default: {LINK})")
    parser.add_argument(
        "--pair", help="named pair of models, fetched once (default: the largest one that is on this machine)"
    )
    parser.add_argument(
        "--pair-source", metavar="PLACE", help="a mirror of the hub, or a folder with its files"
    )
    parser.add_argument("--target", help="model folder, GGUF file or hub name, in place of the pair's")
    parser.add_argument(
        "--draft", help="draft checkpoint folder, 'default' or 'none', in place of the pair's"
    )
    parser.add_argument("--max-tokens", type=int, default=200, help="tokens to write at most (default: 200)")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: as the target's makers say)")
    parser.add_argument(
        "--outage", type=float, default=OUTAGE_S, help="seconds for which the network is cut (default: 3)"
    )
    parser.add_argument("--seed", type=int, help="same seed, same text (default: drawn)")
    return parser


def run(argv: Sequence[str], screen: Screen | None = None) -> int:
    """Run the demo with these flags on a screen, standard output by default; returns the exit code."""
    args = build_parser().parse_args(argv)
    if not args.prompt.strip():
        raise UsageError("the prompt is empty", hint='make demo PROMPT="What is a broker?"')
    if not 0 < args.outage <= LONGEST_OUTAGE:
        raise UsageError(f"--outage is more than 0 and at most {LONGEST_OUTAGE:g} seconds")
    need_libraries("the demo", "demo")
    screen = screen or Screen()
    _take_pair(args, screen)
    return asyncio.run(_run(args, screen))


def _take_pair(args: argparse.Namespace, screen: Screen) -> None:
    """Put both halves of a pair into the flags, unless they name models; fetch them before anything waits for them.

    Raises:
        ModelError: one cannot be fetched, or used here.
        UsageError: there is no such pair or source, or models are named beside it.
    """
    named = args.target or args.draft
    if named and args.pair:
        raise UsageError(f"--pair {args.pair} and {named} are both named", hint="leave one out")
    if not named:
        if args.pair_source is not None:
            check_source(args.pair_source)
        pair = usable(args.pair) if args.pair else best_here()
        if pair.name == DEFAULT:
            screen.say(f"pair     {DEFAULT}: shows how it works, not what it is worth, as it knows little")
            screen.say("         --pair NAME, or make demo PAIR=NAME, fetches another: see flexspec pairs")
        else:
            screen.say(f"pair     {pair.name}, {pair.round} tokens a round of 4 drafted ones")
        with stages() as tell:
            args.target, args.draft = (
                half_of(pair, half, args.pair_source, tell) for half in ("target", "draft")
            )
    args.target, args.draft = args.target or DEFAULT, args.draft or DEFAULT


async def _run(args: argparse.Namespace, screen: Screen) -> int:
    """Run the demo; returns the exit code."""
    # Proxies end after the nodes, which say goodbye through them.
    async with AsyncExitStack() as proxies, Children() as children:
        with screen.bars("broker", "worker", "edge", "streaming") as tell:
            tell("starting", "broker")
            port = await _broker(children)
            tell("ready: 100 %", "broker")
            sides = {} if args.chat else {"streaming": [*_STREAMING]}
            sides["edge"] = [f"--draft={args.draft}"]
            # A proxy for each node, so that each is counted and cut on its own.
            proxy, target = partial(Proxy.steady, LINKS[args.link]), ("127.0.0.1", port)
            links = [await proxies.enter_async_context(proxy(target).listening()) for _ in sides]
            say = {name: partial(tell, task=name) for name in ("worker", *sides)}
            worker, *nodes = await together(
                _worker(children, port, f"--target={args.target}", say=say["worker"]),
                *(
                    _edge(children, name, link.port, *flags, say=say[name])
                    for (name, flags), link in zip(sides.items(), links, strict=True)
                ),
            )
        screen.say(f"target   {worker['target']}, verification {worker['exactness']}")
        link = LINKS[args.link]
        figures = f"{link.trip:g} ms a round trip, {link.up:g} Mbit/s up, {link.down:g} down"
        screen.say(f"network  {args.link}: {figures}; a proxy in user space, which loses no packet")
        for line in _WHY.get(args.link, ()):
            screen.say(f"         {line}")
        urls = [f"http://127.0.0.1:{node['port']}" for node in nodes]
        if args.chat:
            screen.say(f"page     {urls[0]}/?who=1")
            return await _chat(children, args, urls[0])
        await _compare(args, screen, list(zip(urls, links, strict=True)))
    return 0


async def _broker(children: Children) -> int:
    """Start a broker; its port."""
    command = python("broker", "run", "--ready-json", *NO_FILE)
    broker = await children.start("broker", command, with_us=signal.SIGTERM)
    found: int = (await broker.event(lambda event: "port" in event, waiting.STARTS))["port"]
    return found


async def _worker(children: Children, port: int, *flags: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Start a worker; what it says when it serves."""
    command = python("cloud_worker", f"--broker=127.0.0.1:{port}", "--worker=worker", *_SAYS, *flags)
    worker = await children.start("worker", command, with_us=signal.SIGTERM, say=say)
    return await worker.event(lambda event: "ready" in event)


async def _edge(
    children: Children, name: str, port: int, *flags: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Start an edge node and wait until it knows a worker; what it said when its API answered."""
    own = (f"--broker=127.0.0.1:{port}", f"--edge={name}", "--api-port=0", "--no-outbox", *_SAYS)
    command = python("edge_node", "serve", *own, *flags)
    edge = await children.start(name, command, with_us=signal.SIGTERM, say=say)
    ready = await edge.event(lambda event: "port" in event)
    await until_ready(name, f"http://127.0.0.1:{ready['port']}")
    return ready


async def together(*starts: Coroutine[Any, Any, T]) -> list[T]:
    """All of them, or the first error."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(start) for start in starts]
    except* FlexSpecError as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _chat(children: Children, args: argparse.Namespace, url: str) -> int:
    """Run ``flexspec chat`` in this terminal; returns its exit code, without that of a refused line."""
    flags = [f"--url={url}", "--history=none", f"--max-tokens={args.max_tokens}"]
    given = {"temperature": args.temperature, "seed": args.seed}
    flags += [f"--{name}={value}" for name, value in given.items() if value is not None]
    command = python("flexspec_mq.cli", "chat", *flags, *NO_FILE)
    with on_signal(lambda: None, signal.SIGINT):  # Ctrl-C is the chat's: it ends an answer
        chat = await children.start("chat", command, with_us=signal.SIGTERM, terminal=True)
        code = await chat.wait(math.inf)
    return 0 if code == UsageError.exit_code else code


async def _compare(args: argparse.Namespace, screen: Screen, nodes: Sequence[tuple[str, Proxy]]) -> None:
    """Record the answer of each node, undisturbed and cut, and play the cut ones side by side.

    Raises:
        FlexSpecError: two of the texts differ.
    """
    body = {
        "messages": [{"role": "user", "content": args.prompt}],
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "seed": secrets.randbits(32) if args.seed is None else args.seed,
        "wait": args.outage + waiting.PATIENCE,
    }
    sides = [*zip(TITLES, nodes, ("hold", "provisional"), strict=True)]
    runs: list[Recording] = []

    def take(run: Recording, title: str) -> None:
        runs.append(run)
        if run.text != runs[0].text:
            what = f"{title}: another text than the target alone wrote"
            raise FlexSpecError(what, hint="this is a bug: please report it")

    screen.question(args.prompt)
    screen.legend()
    for title, (url, link), mode in sides:
        screen.say(f"\n{title}, as it comes:")
        with AnswerView(screen.console) as shown:
            take(await record(url, {**body, "offline": mode}, link=link, shown=shown), title)
    screen.say("\nOnce more, and when half of the text has come, the network is cut:")
    with screen.bars(*TITLES) as tell:
        for title, (url, link), mode in sides:
            tell(f"cut for {args.outage:g} s, recorded", title)
            cut = {"cut_behind": len(runs[0].text) // 2, "outage": args.outage}
            take(await record(url, {**body, "offline": mode}, link=link, **cut), title)
    screen.say("Both share this machine, so they were recorded in turns; they are played at their true pace.")
    screen.say(
        "What is missing in the cut comes late, or again; with drafts, the device's draft writes on meanwhile.\n"
    )
    await screen.play(runs[2:])
    screen.figures(runs[:2], runs[2:])
