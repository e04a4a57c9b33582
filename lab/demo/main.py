"""``flexspec demo``: everything on this machine, from nothing to an answer."""

from __future__ import annotations

import argparse
import asyncio
import math
import secrets
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from flexspec_mq.controller.plan import Plan
from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.signals import on_signal
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.models.checkpoint import need_libraries
from lab.demo.screen import Screen, live_line
from lab.testbed.site.process import python
from lab.testbed.site.topology import NO_FILE, site
from schemas.messages import MAX_AHEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from flexspec_mq.terminal.answer import Answer
    from lab.testbed.site.process import Process
    from lab.testbed.site.topology import Daemon, Say, Site

T = TypeVar("T")

PROMPTS = {
    "an open question": "Explain in a few sentences why the sky is blue.",
    "a text to correct": (
        "Correct the spelling and repeat the text: The libary on Mill Street opens at nine in the morning and closes "
        "at six in the evning. Books may be borowed for four weeks, films for one week. Members who bring a freind "
        "get a month for nothing."
    ),
    "code": "Write a Python function that returns the sum of the even numbers in a list, with a docstring.",
}
"""Prompts where the user names none, by kind: drafts fare differently with each."""

_TOKENS, _TOKENS_OF_SEVERAL = 200, 96
"""Tokens to write at most, for the user's own prompt and for each of ours."""
_ANSWER = 120.0
"""Seconds without anything new in an answer."""
_PLAN = ("draft_length", "in_flight", "ahead", "qos")
_SAYS = ("--log-format", "human")
_STREAMING = (
    *("--draft=none", "--no-lookup", "--draft-length=0", "--in-flight=1", f"--ahead={MAX_AHEAD}"),
    "--worker-draft=0",
)
"""Flags of an edge node that drafts nothing and lets the worker run ahead."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run, argv, extras="models,serve")


def build_parser() -> argparse.ArgumentParser:
    """The demo's flags."""
    parser = argparse.ArgumentParser(prog="flexspec demo", description=__doc__)
    parser.add_argument("--prompt", help="what to ask (default: three things of different kinds)")
    parser.add_argument(
        "--chat", action="store_true", help="talk over several turns, with the commands of flexspec chat"
    )
    parser.add_argument(
        "--target", default="default", help="model folder or hub name (default: SmolLM2-135M)"
    )
    parser.add_argument("--draft", default="default", help="draft checkpoint folder, 'default' or 'none'")
    parser.add_argument(
        "--max-tokens",
        type=int,
        help=f"tokens to write at most (default: {_TOKENS}; {_TOKENS_OF_SEVERAL} for each of three prompts)",
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: 0)")
    parser.add_argument("--seed", type=int, help="same seed, same text (default: drawn)")
    parser.add_argument("--draft-length", type=int, help="tokens per draft batch")
    parser.add_argument("--in-flight", type=int, help="batches in flight")
    parser.add_argument("--ahead", type=int, help="run-ahead of the worker in tokens")
    parser.add_argument("--qos", type=int, help="MQTT quality of service")
    parser.add_argument(
        "--link",
        help="put an emulated network between device and cloud, as `flexspec link profiles` lists them",
    )
    return parser


def run(argv: Sequence[str], screen: Screen | None = None) -> int:
    """Run the demo with these flags on a screen, standard output by default; returns the exit code."""
    args = build_parser().parse_args(argv)
    if args.prompt is not None and not args.prompt.strip():
        raise UsageError("the prompt is empty", hint='make demo PROMPT="What is a broker?"')
    if args.max_tokens is None:
        args.max_tokens = _TOKENS if args.chat or args.prompt is not None else _TOKENS_OF_SEVERAL
    need_libraries("the demo")
    Plan(**_given(args))  # refuses what no plan can be before anything is started
    return asyncio.run(_run(args, screen or Screen()))


def _given(args: argparse.Namespace) -> dict[str, int]:
    """What the user says of the plan."""
    return {name: value for name in _PLAN if (value := getattr(args, name)) is not None}


async def _run(args: argparse.Namespace, screen: Screen) -> int:
    """Run the demo; returns the exit code."""
    plan = [
        f"--draft={args.draft}",
        *(f"--{name.replace('_', '-')}={value}" for name, value in _given(args).items()),
    ]
    async with site(link=args.link, seed=args.seed or 0, with_us=signal.SIGTERM) as here:
        code = 0
        if args.chat:
            api = await _start(here, args, screen, partial(here.edge, "edge", *_SAYS, *plan))
            code = await _chat(here, args, api)
        else:
            if args.seed is None:
                args.seed = secrets.randbits(32)  # so that streaming writes the same text
            edge = await _start(here, args, screen, partial(_asked, here, args, "edge", plan))
            await _compare(here, args, screen, edge)
        if here.link is not None:
            for line in here.link.counters.lines():
                screen.say(line)
    return code


async def _start(
    here: Site, args: argparse.Namespace, screen: Screen, edge: Callable[..., Coroutine[Any, Any, T]]
) -> T:
    """Start broker, worker and edge; return the edge when all of them are ready."""
    with screen.bars("broker", "worker", "edge") as tell:
        tell("starting", "broker")
        await here.start_broker()
        behind = "" if here.link is None else f", the device behind {here.link.plan.name}"
        screen.say(f"broker   Mosquitto on {here.host}:{here.port}{behind}")
        tell("ready: 100 %", "broker")
        target = f"--target={args.target}"
        worker, device = await together(
            here.worker("worker", *_SAYS, target, say=lambda line: tell(line, "worker")),
            edge(say=lambda line: tell(line, "edge")),
        )
        screen.say(f"worker   {worker.ready['target']}, verification {worker.ready['exactness']}")
        screen.say(f"edge     {'no draft' if args.draft == 'none' else 'a draft of its own'}")
    return device


async def together(worker: Coroutine[Any, Any, Daemon], edge: Coroutine[Any, Any, T]) -> tuple[Daemon, T]:
    """Both, or the first error."""
    try:
        async with asyncio.TaskGroup() as group:
            one, other = group.create_task(worker), group.create_task(edge)
    except* FlexSpecError as errors:
        raise errors.exceptions[0] from None
    return one.result(), other.result()


async def _asked(
    here: Site, args: argparse.Namespace, name: str, plan: Sequence[str], say: Say | None = None
) -> Process:
    """An edge node that is asked over its standard input, once it waits for that."""
    text = [f"--max-tokens={args.max_tokens}", f"--temperature={args.temperature}", f"--seed={args.seed}"]
    command = python("edge_node", "chat", *here.at_broker, f"--edge={name}", "--events", *_SAYS, *text, *plan)
    edge = await here.start(name, "device", command, say)
    await edge.event(lambda event: event["type"] == "waiting")
    return edge


async def _chat(here: Site, args: argparse.Namespace, edge: Daemon) -> int:
    """``flexspec chat`` in this terminal, where the device is; its exit code, without that of a refused line."""
    flags = [f"--url={edge.url}", "--history=none", f"--max-tokens={args.max_tokens}"]
    flags += [f"--temperature={args.temperature}", *([] if args.seed is None else [f"--seed={args.seed}"])]
    command = python("flexspec_mq.cli", "chat", *flags, *NO_FILE)
    with on_signal(lambda: None, signal.SIGINT):  # Ctrl-C is the chat's: it ends an answer
        code = await (await here.start("chat", "device", command, terminal=True)).wait(math.inf)
    return 0 if code == UsageError.exit_code else code


async def _compare(here: Site, args: argparse.Namespace, screen: Screen, edge: Process) -> None:
    """Show each answer as it comes, and its figures; then those of streaming, where it does not stream already.

    Raises:
        FlexSpecError: streaming wrote another text.
    """
    prompts = PROMPTS if args.prompt is None else {"": args.prompt}
    streaming = None
    if not (args.ahead and args.draft_length == 0):
        tokenizer = [] if args.target == "default" else [f"--tokenizer={args.target}"]
        plan = (*_STREAMING, *tokenizer, *(() if args.qos is None else (f"--qos={args.qos}",)))
        streaming = await _asked(here, args, "streaming", plan)
    screen.legend()
    pairs: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for number, (kind, prompt) in enumerate(prompts.items()):
        screen.question(prompt)
        streamed = None
        # In turns, so that no minute of the machine is for one of them.
        if streaming is not None and number % 2:
            streamed = await _streamed(streaming, prompt, screen)
        with screen.answer() as answer:
            drafted = await _answer(edge, prompt, answer)
        if args.prompt is not None or streaming is None:
            screen.summary(drafted)
        if streaming is None:
            continue
        if streamed is None:
            streamed = await _streamed(streaming, prompt, screen)
        if streamed["tokens"] != drafted["tokens"]:
            raise FlexSpecError("the target alone wrote another text", hint="this is a bug: please report it")
        pairs[kind] = drafted["stats"], streamed["stats"]
    if pairs:
        screen.comparison(pairs, on_link=here.link is not None)


async def _streamed(streaming: Process, prompt: str, screen: Screen) -> dict[str, Any]:
    """The `finish` event of the same text without drafts, which nobody needs to see twice."""
    with screen.bars("streaming") as tell:
        tell("the same, streamed without drafts", "streaming")
        return await _answer(streaming, prompt)


async def _answer(edge: Process, prompt: str, shown: Answer | None = None) -> dict[str, Any]:
    """Ask, show the answer as it comes, and return its `finish` event.

    Raises:
        UsageError: the edge refused the prompt.
        FlexSpecError: there is no answer.
    """
    await edge.send({"say": prompt, "new": True})
    finish: dict[str, Any] = {}
    async for event in edge.events(_ANSWER):
        if event["type"] == "refused":
            raise UsageError(event["error"], hint=event["hint"])
        if event["type"] == "finish":
            finish = event
        if event["type"] == "waiting":
            break
        if finish.get("error"):
            raise FlexSpecError(finish["error"], hint=finish["hint"])
        if shown is not None and event["type"] == "text":
            shown.text(event["pieces"])
        elif shown is not None and event["type"] == "stats":
            shown.note(live_line(event))
    return finish
