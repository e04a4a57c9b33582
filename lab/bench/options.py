"""Flags of ``flexspec bench``, and what they come to."""

import shlex
import shutil
from argparse import Action, ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from pathlib import Path

from flexspec_mq.energy.presets import DEVICES
from flexspec_mq.errors import UsageError
from flexspec_mq.models.checkpoint import need_libraries
from lab.bench.questions import OWN, Question, read_questions, spread
from lab.bench.strategies import ABOUT, SERVER, Devices, chosen, drafting, schemes
from lab.bench.testbed import HOST, PORT
from lab.testbed.deployment import LOOPBACK
from lab.testbed.link.namespaces import check_requirements
from lab.testbed.link.profiles import LinkPlan, built_in
from lab.traditional.sides import GUESSES, Traditional
from schemas.messages import MAX_DRAFT_TOKENS

QUICK_QUESTIONS, QUICK_TOKENS = 5, 24
_ALONE = ("--device-prefill", "65536")
"""Edge nodes of all strategies ask the same worker, one after the other. To each it is to be what it is to the only
device: otherwise long prompts are read in small pieces, for the sake of the others."""


class _Help(ArgumentDefaultsHelpFormatter):
    """Tells defaults where there are any."""

    def _get_help_string(self, action: Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = ArgumentParser(
        prog="flexspec bench",
        description="Ways to write an answer between a device and the cloud, compared over links by what they take: "
        "speculation as it is usually done, streaming, the draft alone, each policy of an edge node. lab/README.md",
        formatter_class=_Help,
    )
    models = made.add_argument_group("models and questions")
    models.add_argument("--target", default="default", metavar="MODEL", help="folder, hub name or 'default'")
    models.add_argument("--draft", default="default", metavar="FOLDER", help="of the draft, or 'default'")
    models.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='JSON lines with "prompt", or with "turns" and "category"; without it, 40 of our own',
    )
    models.add_argument("--questions", type=int, metavar="N", help="only N of them, evenly spaced")
    models.add_argument("--tokens", type=int, default=64, metavar="N", help="new tokens an answer at most")
    models.add_argument("--temperature", type=float, default=0.0, metavar="T", help="of all answers")
    models.add_argument("--seed", type=int, default=0, help="of answers, links, orders and intervals")
    where = made.add_argument_group("channels")
    where.add_argument(
        "--links",
        nargs="+",
        default=["wifi", "5g", "4g"],
        metavar="LINK",
        help=f"profiles (`flexspec link profiles`), or {LOOPBACK}; all but that need root",
    )
    where.add_argument(
        "--delays-ms",
        type=float,
        nargs="+",
        default=[0.0],
        metavar="MS",
        help="on top of each forward of the target, as a bigger one would take; --server answers where it is 0",
    )
    who = made.add_argument_group("strategies")
    who.add_argument("--strategies", nargs="+", metavar="NAME", help=f"of: {', '.join(ABOUT)}")
    who.add_argument("--guesses", type=int, default=GUESSES, metavar="K", help="of traditional speculation")
    who.add_argument("--worker-draft", type=int, default=4, metavar="K", help="of colocated")
    who.add_argument("--edge-flags", default="", metavar="FLAGS", help="more, of every flexspec-edge serve")
    who.add_argument("--worker-flags", default="", metavar="FLAGS", help="more, of every flexspec-cloud")
    who.add_argument(
        "--server",
        default="",
        metavar="COMMAND",
        help=f"of another server to compare with, as llama.cpp's: a program with the chat endpoint at {HOST}:{PORT}, "
        f"which are replaced in it; makes the strategy {SERVER}",
    )
    who.add_argument("--energy", default="phone-4g", choices=("none", *DEVICES), help="preset of the device")
    what = made.add_argument_group("results")
    what.add_argument(
        "--out",
        type=Path,
        default=Path("flexspec-bench"),
        metavar="FOLDER",
        help="of the figures and answers, written after each channel",
    )
    what.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_QUESTIONS} questions of {QUICK_TOKENS} tokens over the first link: minutes",
    )
    return made


def check(options: Namespace) -> None:
    """Refuse what nothing can be measured with, before anything is started; shorten what ``--quick`` shortens.

    Raises:
        UsageError: naming the flag.
        ModelError: naming the packages that are missing.
    """
    _check_numbers(options)
    if options.draft == "none":
        raise UsageError("there is no speculation without a draft", hint="give another --draft than none")
    for more in (options.edge_flags, options.worker_flags):
        _split(more)
    options.strategies = chosen(options.strategies, server=server(options) is not None)
    if options.quick:
        options.questions = min(options.questions or QUICK_QUESTIONS, QUICK_QUESTIONS)
        options.tokens = min(options.tokens, QUICK_TOKENS)
        options.links, options.delays_ms = options.links[:1], options.delays_ms[:1]
    need_libraries("flexspec bench")


def _check_numbers(options: Namespace) -> None:
    for flag in ("tokens", "questions"):
        value = getattr(options, flag)
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value} is less than 1")
    if options.temperature < 0.0:
        raise UsageError(f"--temperature {options.temperature:g} is negative")
    if min(options.delays_ms) < 0.0:
        raise UsageError(f"--delays-ms {min(options.delays_ms):g} is negative")
    for flag, least in (("guesses", 1), ("worker_draft", 0)):
        value = getattr(options, flag)
        if not least <= value <= MAX_DRAFT_TOKENS:
            raise UsageError(
                f"--{flag.replace('_', '-')} {value} is not between {least} and {MAX_DRAFT_TOKENS}"
            )
    for flag in ("links", "delays_ms"):
        if len(set(getattr(options, flag))) < len(getattr(options, flag)):
            raise UsageError(f"--{flag.replace('_', '-')} names something twice", hint="name each once")


def links(options: Namespace) -> dict[str, LinkPlan | None]:
    """The plan of each link by its name; None is loopback.

    Raises:
        UsageError: there is no such link, or no link can be made here.
    """
    found = {
        name: None if name == LOOPBACK else LinkPlan(name, built_in().get(name), options.seed)
        for name in options.links
    }
    if any(plan is not None for plan in found.values()):
        try:
            check_requirements()
        except UsageError as error:
            how = (error.hint or "").partition(";")[0]
            raise UsageError(
                error.message,
                hint=f"{how}; or give --links {LOOPBACK}, without a link. `flexspec link proxy` emulates one for "
                "daemons that you start yourself",
            ) from None
    return found


def questions(options: Namespace) -> list[Question]:
    """Questions that are asked.

    Raises:
        UsageError: they cannot be read.
    """
    everything = read_questions(options.prompts or OWN)
    return spread(everything, options.questions or len(everything))


def devices(options: Namespace) -> Devices:
    """Settings that all edge nodes have in common.

    Raises:
        UsageError: flags that no shell could read.
    """
    # Without a draft a node needs a tokenizer, and the target's is the one that it must have.
    more = ("--energy", options.energy, *_split(options.edge_flags))
    return Devices(options.draft, options.target, options.worker_draft, more)


def worker_flags(options: Namespace) -> list[str]:
    """Flags of every worker.

    Raises:
        UsageError: flags that no shell could read.
    """
    return ["--target", options.target, "--draft", options.draft, *_ALONE, *_split(options.worker_flags)]


def traditional(options: Namespace) -> Traditional | None:
    """Strategies that are no edge nodes; None if there are none."""
    wanted = schemes(options.strategies)
    if not wanted:
        return None
    return Traditional(wanted, drafting(devices(options)), worker_flags(options), options.guesses)


def server(options: Namespace) -> list[str] | None:
    """The command of another server; None if there is none.

    Raises:
        UsageError: it cannot be read, there is no such program, or nobody tells it where to listen.
    """
    command = _split(options.server)
    if not command:
        return None
    if shutil.which(command[0]) is None:
        raise UsageError(f"--server: there is no program {command[0]}", hint="give its path")
    if not any(PORT in part for part in command):
        raise UsageError(
            "--server is not told where to listen", hint=f"for llama.cpp's: --host {HOST} --port {PORT}"
        )
    return command


def _split(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError as error:
        raise UsageError(f"the flags {flags!r} cannot be read: {error}") from error
