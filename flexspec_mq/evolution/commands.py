"""``flexspec head``: the parsers of its commands. Importing it imports no model and no cryptography."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from flexspec_mq.evolution.analysis import CONFIDENCE, DEFAULT_RULE, LEAST, MORE_ERRORS, PROMOTE_AFTER
from flexspec_mq.evolution.offline import add_numbers
from flexspec_mq.evolution.settings import PROGRAM
from flexspec_mq.models.load import DTYPES
from flexspec_mq.settings.flags import add_flags, positive

_OUT = "write the signed change instead of publishing it, for others to `sign` and to `send`"

_DTYPE = "that workers compute it in (default: bfloat16)"
_FLOOR = "lowest layer that heads may touch: the depth of the family's backbone"

_Actions = argparse._SubParsersAction  # noqa: SLF001  argparse has no public name for it


def add_parser(commands: _Actions[argparse.ArgumentParser]) -> None:
    """Add ``head`` to the subcommands of ``flexspec``."""
    head = commands.add_parser(
        "head",
        help="make, sign and publish versions of a target family",
        description="A version is the base model plus a head. A family's catalogue says which versions there are "
        "and which of them take new sessions; one signed, retained message tells workers and edges.",
    )
    actions = head.add_subparsers(dest="action", metavar="action", required=True)
    keygen = actions.add_parser("keygen", help="make a key, and print its public half")
    keygen.set_defaults(func=_later("changes", "keygen"))
    about = "to write the private key to; none may be there"
    keygen.add_argument("file", type=Path, metavar="FILE", help=about)
    _add_base(actions)
    actions.add_parser("train", help="tune a head on chats (with flexspec-training)", add_help=False)
    _add_import(actions)
    _add_check(actions)
    _add_draft(actions)
    _add_trust(actions)
    _add_publish(actions)
    about = "show versions, who holds them and how they are accepted"
    listing = _add_at_broker(actions, "list", _later("overview", "show"), about, without=("key",))
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    about = "seconds to listen to statuses (default: 1)"
    listing.add_argument("--wait", type=positive, default=1.0, metavar="S", help=about)
    for name, about in (
        ("promote", "make a canary, or a version that drains, the stable one"),
        ("rollback", "make a version the stable one again; the present one and all canaries drain"),
        ("retire", "give a version no new sessions at all"),
    ):
        move = _add_at_broker(actions, name, _later("changes", "move"), about)
        move.add_argument("name", metavar="NAME", help="of the version")
        move.add_argument("--out", type=Path, metavar="FILE", help=_OUT)
    about = "sign and publish the last catalogue anew, also where the broker lost it"
    renew = _add_at_broker(actions, "renew", _later("changes", "renew"), about)
    renew.add_argument("--heads", metavar="URL", help="another URL below which workers find heads")
    about = "days until a catalogue expires (default: as before; 7 at first)"
    renew.add_argument("--lifetime", type=positive, metavar="DAYS", help=about)
    renew.add_argument("--out", type=Path, metavar="FILE", help=_OUT)
    about = "add signatures to a change that --out has written"
    sign = _add_at_broker(actions, "sign", _later("changes", "sign"), about)
    about = "publish a change that enough signers have signed, or a key set"
    send = _add_at_broker(actions, "send", _later("changes", "send"), about, without=("key",))
    for parser in (sign, send):
        parser.add_argument("file", type=Path, metavar="FILE", help="what --out has written")
    _add_watch(actions)


def _later(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """A function of a module of this package, which is imported once it is called."""

    def run(args: argparse.Namespace) -> int:
        command: Callable[[argparse.Namespace], int]
        command = getattr(import_module(f"flexspec_mq.evolution.{module}"), function)
        return command(args)

    return run


def _add_at_broker(
    actions: _Actions[argparse.ArgumentParser],
    name: str,
    func: Callable[[argparse.Namespace], int],
    about: str,
    *,
    without: tuple[str, ...] = (),
) -> argparse.ArgumentParser:
    """Add a command that is told which broker and family."""
    parser = actions.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    add_flags(parser, PROGRAM, titles={"link": "broker", "head": "family and keys"}, without=without)
    parser.set_defaults(func=func)
    return parser


def _add_base(actions: _Actions[argparse.ArgumentParser]) -> None:
    base = actions.add_parser(
        "base",
        help="write the manifest of the base itself, the first version of a family",
        description="Write a head's folder without weights: the base as it is, as a version that can be published.",
    )
    base.set_defaults(func=_later("canaries", "write_base"))
    about = "checkpoint folder of the base (default: the default model)"
    base.add_argument("--base", default="default", metavar="FOLDER", help=about)
    about = "to write; it must not be there yet"
    base.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=about)
    base.add_argument("--dtype", choices=DTYPES, default="bfloat16", help=_DTYPE)
    add_numbers(base, ("--floor", 6, "LAYER", _FLOOR))


def _add_import(actions: _Actions[argparse.ArgumentParser]) -> None:
    importing = actions.add_parser(
        "import",
        help="make a head of an adapter that PEFT has saved",
        description="Read a LoRA as PEFT saves it, convert it to the dtype of a version, write its manifest with "
        "canaries, and check it. It may touch what heads may: layers from the floor on, final norm and LM head.",
    )
    importing.set_defaults(func=_later("importing", "import_adapter"))
    add = importing.add_argument
    add("folder", type=Path, metavar="ADAPTER", help="directory that save_pretrained has written")
    about = "checkpoint folder of the base that it was trained on (default: the default model)"
    add("--base", default="default", metavar="FOLDER", help=about)
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="the head to write; it must not be there yet",
    )
    add("--dtype", choices=DTYPES, default="bfloat16", help=_DTYPE)
    about = "question to which the head answers otherwise than the base, for a canary; once for each"
    add("--prompt", action="append", default=[], metavar="TEXT", help=about)
    add_numbers(importing, ("--floor", 6, "LAYER", _FLOOR))


def _add_check(actions: _Actions[argparse.ArgumentParser]) -> None:
    check = actions.add_parser(
        "check",
        help="see whether a head is whole, and only changes what heads may",
        description="Compare a head with its manifest and its base: files, layers, shapes, dtypes, fingerprints. "
        "Then its canaries: they must come out with its weights as they are, and not with them in a random order.",
    )
    check.set_defaults(func=_later("check", "check"))
    check.add_argument("folder", type=Path, metavar="FOLDER", help="the head")
    _add_base_flag(check)
    add_numbers(check)


def _add_draft(actions: _Actions[argparse.ArgumentParser]) -> None:
    add_draft = actions.add_parser(
        "add-draft",
        help="put a LoRA of the draft into a head, for workers that serve the version",
        description="Write a head again with a LoRA of the draft in it. Workers that hold the version merge it into "
        "their own draft; devices never see it. The head has another digest then: publish it as a new version.",
    )
    add_draft.set_defaults(func=_later("check", "add_draft"))
    add_draft.add_argument("folder", type=Path, metavar="FOLDER", help="the head")
    about = "directory that PEFT, or `flexspec draft train --head`, has saved"
    add_draft.add_argument("lora", type=Path, metavar="LORA", help=about)
    add_draft.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the head to write; must not be there"
    )


def _add_base_flag(parser: argparse.ArgumentParser) -> None:
    about = "checkpoint folder of the base; 'none' leaves out what needs it (default: the default model)"
    parser.add_argument("--base", default="default", metavar="FOLDER", help=about)
    about = (
        "checkpoint folder of the draft that a LoRA in the head is for; 'none' leaves it out (default: the draft that "
        "ships)"
    )
    parser.add_argument("--draft", default="default", metavar="FOLDER", help=about)


def _add_trust(actions: _Actions[argparse.ArgumentParser]) -> None:
    about = "sign with the root key which keys sign catalogues"
    add = _add_at_broker(actions, "trust", _later("changes", "trust"), about, without=("key",)).add_argument
    about = "private root key, which can stay on a machine without a network"
    add("--root", type=Path, required=True, metavar="FILE", help=about)
    about = "public key that may sign; once for each"
    about = f"{about} (default: those of the present key set, so that it only holds for longer)"
    add("--signer", action="append", metavar="KEY", help=about)
    add(
        "--threshold",
        type=int,
        metavar="N",
        help="keys that must sign a catalogue (default: 1, or as before)",
    )
    add("--serial", type=int, metavar="N", help="of this key set (default: one above the present one's)")
    add("--reset", action="store_true", help="forget catalogues that were issued later than now")
    about = "write the signed key set instead of publishing it, for somebody to `send`"
    add("--out", type=Path, metavar="FILE", help=about)


def _add_publish(actions: _Actions[argparse.ArgumentParser]) -> None:
    about = "check a head, copy it to where workers fetch it, and announce its version"
    publish = _add_at_broker(actions, "publish", _later("publish", "publish"), about)
    add = publish.add_argument
    add("folder", type=Path, metavar="FOLDER", help="of the head, with its manifest")
    add("--name", required=True, metavar="NAME", help="of the version")
    add("--state", choices=("canary", "stable"), default="canary", help="what it becomes (default: canary)")
    about = "percent of new sessions for a canary (default: 10)"
    add("--share", type=int, default=10, metavar="P", help=about)
    about = "where this machine writes heads (default: where the catalogue says)"
    add("--upload", metavar="URL", help=about)
    _add_base_flag(publish)
    about = "with --base none: also where no worker of its base is there"
    add("--unserved", action="store_true", help=about)
    add("--first", action="store_true", help="begin the family's catalogue; the version is stable")
    add("--heads", metavar="URL", help="with --first: below which workers find heads")
    add("--out", type=Path, metavar="FILE", help=_OUT)


def _add_watch(actions: _Actions[argparse.ArgumentParser]) -> None:
    about = "sign anew before the catalogue expires, and promote or abort canaries"
    watch = _add_at_broker(actions, "watch", _later("watch", "watch"), about)
    rule = watch.add_argument_group(
        "what is asked of a canary",
        f"Nothing is decided before {LEAST} answers of each version; a canary is promoted after "
        f"{PROMOTE_AFTER}. Each bound is kept with {CONFIDENCE:.0%} confidence, and at most "
        f"{MORE_ERRORS:.0%} more of a canary's answers may fail.",
    )
    add = partial(rule.add_argument, type=float)
    keep, slower = DEFAULT_RULE.keep, DEFAULT_RULE.slower
    about = f"of the stable version's acceptance that a canary must keep (default: {keep:g})"
    add("--keep", default=keep, metavar="SHARE", help=about)
    about = f"the stable version's seconds per token that a canary may take (default: {slower:g})"
    add("--slower", default=slower, metavar="TIMES", help=about)
