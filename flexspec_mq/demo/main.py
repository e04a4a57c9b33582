"""``flexspec demo``: everything on this machine, from nothing to an answer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.main import run_main
from flexspec_mq.demo.place import Place, place
from flexspec_mq.demo.processes import Child, Family
from flexspec_mq.demo.screen import Screen, live_line
from flexspec_mq.errors import FlexSpecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

PROMPT = "Explain in a few sentences why the sky is blue."

_START = 300.0
"""Seconds that a process may stay silent while it loads a model, on a slow machine."""
_ANSWER = 120.0
"""Seconds without anything new in an answer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv)


def build_parser() -> argparse.ArgumentParser:
    """The demo's flags."""
    parser = argparse.ArgumentParser(prog="flexspec demo", description=__doc__)
    parser.add_argument("--prompt", default=PROMPT, help="what to ask")
    parser.add_argument("--chat", action="store_true", help="talk over several turns")
    parser.add_argument(
        "--target", default="default", help="model folder or hub name (default: SmolLM2-135M)"
    )
    parser.add_argument("--draft", default="default", help="draft checkpoint folder, 'default' or 'none'")
    parser.add_argument("--max-tokens", type=int, default=200, help="tokens to write at most (default: 200)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: 0)")
    parser.add_argument("--seed", type=int, help="same seed, same text (default: drawn)")
    parser.add_argument("--draft-length", type=int, default=4, help="tokens per draft batch (default: 4)")
    parser.add_argument("--in-flight", type=int, default=1, help="batches in flight (default: 1)")
    parser.add_argument("--ahead", type=int, default=0, help="run-ahead of the worker in tokens (default: 0)")
    parser.add_argument("--qos", type=int, default=0, help="MQTT quality of service (default: 0)")
    parser.add_argument(
        "--link",
        help="put an emulated network between device and cloud, as `flexspec link profiles` lists them",
    )
    return parser


def _main(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    if not args.prompt.strip():
        raise UsageError("the prompt is empty", hint='make demo PROMPT="What is a broker?"')
    screen = Screen()
    # The link goes last: its end would take the processes on it along, without a word.
    with place(args.link, args.seed or 0) as where, Family() as family:
        edge = _start(family, where, args, screen)
        screen.legend()
        if args.chat:
            _chat(edge, screen)
        else:
            screen.question(args.prompt)
            _answer(edge, screen, args.prompt)
        for line in where.summary():
            screen.say(line)
    return 0


def _start(family: Family, where: Place, args: argparse.Namespace, screen: Screen) -> Child:
    """Start broker, worker and edge; return the edge when all of them are ready."""
    with screen.bars("broker", "worker", "edge") as tell:
        tell("starting", "broker")
        broker = family.start(
            "broker", where.cloud("broker", "run", "--ready-json", *where.listen), lambda _line: None
        )
        port = broker.wait_for(lambda event: "port" in event, 30.0)["port"]
        screen.say(f"broker   Mosquitto on {where.host}:{port}{where.note}")
        tell("ready: 100 %", "broker")
        at = ["--broker", f"{where.host}:{port}", "--log-format", "human"]
        worker = family.start(
            "worker",
            where.cloud("cloud_worker", *at, f"--target={args.target}", "--worker", "demo", "--ready-json"),
            lambda line: tell(line, "worker"),
        )
        edge = family.start(
            "edge",
            where.device("edge_node", "chat", *at, *_edge_flags(args)),
            lambda line: tell(line, "edge"),
        )
        ready = worker.wait_for(lambda event: "ready" in event, _START)
        screen.say(f"worker   {ready['target']}, verification {ready['exactness']}")
        edge.wait_for(lambda event: event["type"] == "waiting", _START)
        screen.say(f"edge     draft of {args.draft_length} tokens a batch, QoS {args.qos}")
    return edge


def _edge_flags(args: argparse.Namespace) -> list[str]:
    flags = ["--events", f"--draft={args.draft}"]
    for name in ("max_tokens", "temperature", "seed", "draft_length", "in_flight", "ahead", "qos"):
        value = getattr(args, name)
        if value is not None:
            flags.append(f"--{name.replace('_', '-')}={value}")
    return flags


def _chat(edge: Child, screen: Screen) -> None:
    screen.say("Write a line and press Enter; Ctrl-D ends the conversation.")
    while (said := screen.ask()) is not None:
        if said.strip():
            try:
                _answer(edge, screen, said)
            except UsageError as error:  # the conversation stands as it was before this line
                screen.say(f"error: {error.message}")
                screen.say(f"  hint: {error.hint}")


def _answer(edge: Child, screen: Screen, prompt: str) -> None:
    """Ask, show the answer as it comes, then its figures.

    Raises:
        UsageError: the edge refused the prompt, and waits for another.
        FlexSpecError: there was none.
    """
    edge.send({"say": prompt})
    finish: dict[str, Any] = {}
    refused: UsageError | None = None
    with screen.answer() as answer:
        for event in edge.events(_ANSWER):
            if event["type"] == "text":
                answer.text(event["pieces"])
            elif event["type"] == "stats":
                answer.note(live_line(event))
            elif event["type"] == "finish":
                finish = event
            elif event["type"] == "refused":
                refused = UsageError(event["error"], hint=event["hint"])
            elif event["type"] == "waiting":
                break
            if finish.get("error"):
                break
    if refused is not None:
        raise refused
    if finish.get("error"):
        raise FlexSpecError(finish["error"], hint=finish["hint"])
    screen.summary(finish)
