"""The ``flexspec`` command; the daemons have their own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import NoReturn

import flexspec_mq
from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.progress import answer, stages
from flexspec_mq.errors import UsageError, how_to_install

Command = Callable[[argparse.Namespace], int | None]

_DOCTOR = "check what the edge node needs, or the worker (`doctor cloud`): what is wrong and how to mend it"
_PROGRAMS = {
    "chat": ("flexspec_mq.chat.main", "talk with an edge node's HTTP API in the terminal"),
    "top": ("flexspec_mq.chat.top", "show what an edge node does, live: texts, plans, link and fleet"),
    "demo": (
        "flexspec_mq.demo.main",
        "write one answer with and without drafts, side by side, on this machine",
    ),
}
"""Subcommands that parse their own arguments: module and purpose."""
_PAIR = "say whether a draft and a target fit, and what they will do together, before anything is deployed"
_DOCTORS = {"edge": "edge_node", "cloud": "cloud_worker"}
"""Programs that examine themselves, by the first argument of ``flexspec doctor``."""

_ELSEWHERE = {
    "bench": (
        "lab",
        "compare ways to write an answer over links: speculation as usual, streaming, every policy",
    ),
    "link": ("lab", "run programs over an emulated network: 4G, satellite, tunnel and others"),
    "policy": ("lab", "train what plans drafts"),
    "draft": ("training", "train and measure a draft"),
    "head train": ("training", "tune a head on chats"),
}
"""Subcommands of the other distributions of this repository: which one, and what for. Each is an entry point of the
group `GROUP` with a hyphen for each space, a function of the arguments that returns the exit code."""

_HERE = (("draft", "export"),)
"""Their parts that this distribution has itself."""

GROUP = "flexspec_mq.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``flexspec``: returns the exit code."""
    return run_main(_main, argv, extras="models")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands. Each sets ``func``, a function of the parsed arguments."""
    from flexspec_mq.drafting.export import add_parser as add_export_parser
    from flexspec_mq.evolution.commands import add_parser as add_head_parser

    parser = argparse.ArgumentParser(prog="flexspec", description=flexspec_mq.__doc__)
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, about in (
        *((name, about) for name, (_, about) in _PROGRAMS.items()),
        ("doctor", _DOCTOR),
        ("pair", _PAIR),
        *((name, about) for name, (_, about) in _ELSEWHERE.items() if " " not in name and name != "draft"),
    ):
        commands.add_parser(name, help=about, add_help=False)
    pairs = commands.add_parser(
        "pairs",
        help="list named pairs of models for --pair; `pairs try NAME` measures one and pins its files",
    )
    pairs.set_defaults(func=_pairs)
    _add_model_parser(commands)
    add_head_parser(commands)
    drafts = commands.add_parser("draft", help="write a device's draft; with flexspec-training, train one")
    add_export_parser(drafts.add_subparsers(dest="action", metavar="action", required=True))
    schema = commands.add_parser("schema", help="print the AsyncAPI document of all topics and messages")
    schema.add_argument(
        "--openapi", action="store_true", help="print the OpenAPI document of the edge's HTTP API"
    )
    schema.set_defaults(func=_schema)
    version = commands.add_parser("version", help="print the versions of this program and of what it runs on")
    version.set_defaults(func=_version)
    return parser


def _main(argv: Sequence[str]) -> int | None:
    if argv[:1] and argv[0] in _PROGRAMS:
        program: Callable[[Sequence[str]], int] = import_module(_PROGRAMS[argv[0]][0]).main
        return program(argv[1:])
    if argv[:1] == ["doctor"]:
        part, rest = (argv[1], argv[2:]) if argv[1:2] and argv[1] in _DOCTORS else ("edge", argv[1:])
        _become(_DOCTORS[part], "doctor", *rest)
    if argv[:1] == ["pair"] or argv[:2] == ["pairs", "try"]:
        _become("cloud_worker", *argv)
    for words in (1, 2):
        if (name := " ".join(argv[:words])) in _ELSEWHERE and tuple(argv[:2]) not in _HERE:
            return _elsewhere(name)(argv[words:])
    args = build_parser().parse_args(argv)
    func: Command = args.func
    return func(args)


def _become(program: str, *argv: str) -> NoReturn:
    """Become a daemon's subcommand, as only that daemon knows what it needs."""
    os.execv(sys.executable, [sys.executable, "-m", program, *argv])  # noqa: S606  our own program


def _elsewhere(name: str) -> Callable[[Sequence[str]], int]:
    """The program of a subcommand that another distribution registers.

    Raises:
        UsageError: the distribution is not installed.
    """
    entry = next(iter(metadata.entry_points(group=GROUP, name=name.replace(" ", "-"))), None)
    if entry is None:
        where = _ELSEWHERE[name][0]
        raise UsageError(
            f"flexspec {name} comes with flexspec-{where}, which is not installed",
            hint=how_to_install(distribution=where),
        )
    program: Callable[[Sequence[str]], int] = entry.load()
    return program


def _add_model_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    model = commands.add_parser(
        "model", help="prepare the default model, or remove what was made of another one"
    )
    actions = model.add_subparsers(dest="action", metavar="action", required=True)
    prepare = actions.add_parser(
        "prepare", help="convert the default model into the cache, unless it is there"
    )
    prepare.add_argument("--quiet", action="store_true", help="print nothing when there is nothing to do")
    prepare.set_defaults(func=_model_prepare)
    remove = actions.add_parser(
        "remove", help="remove from the cache what was made of a model's file or folder"
    )
    remove.add_argument("model", metavar="MODEL", help="a GGUF file or a checkpoint folder, which stays")
    remove.set_defaults(func=_model_remove)


def _pairs(_args: argparse.Namespace) -> None:
    from flexspec_mq.models.pairs.prepare import told
    from flexspec_mq.models.pairs.table import pairs

    untried = False
    for pair in pairs():
        if not (pair.measured or untried):
            untried = True
            answer("untried, so without figures; `flexspec pairs try NAME` fetches, measures and pins:")
        for line in told(pair):
            answer(f"  {line}" if untried else line)


def _model_prepare(args: argparse.Namespace) -> None:
    from flexspec_mq.models.default import default_model_path

    worked = False
    with stages() as show:

        def tell(text: str) -> None:
            nonlocal worked
            worked = True
            show(text)

        path = default_model_path(tell)
    if worked or not args.quiet:
        answer(f"default model: {path}")


def _model_remove(args: argparse.Namespace) -> None:
    from flexspec_mq.models.gguf.convert import remove_made

    for folder in remove_made(Path(args.model)):
        answer(f"removed {folder}")


def _schema(args: argparse.Namespace) -> None:
    from schemas import asyncapi, openapi
    from schemas.__main__ import as_text

    sys.stdout.write(as_text(openapi.document() if args.openapi else asyncapi.document()))


def _version(_args: argparse.Namespace) -> None:
    import platform

    answer(f"flexspec-mq {flexspec_mq.__version__}")
    answer(f"python {platform.python_version()}")
    for name in ("torch", "transformers", "aiomqtt", "paho-mqtt"):
        try:
            answer(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            answer(f"{name} not installed")


if __name__ == "__main__":
    sys.exit(main())
