"""The strategies by name: how an answer may be written between a device and the cloud."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.errors import UsageError
from lab.traditional.sides import SCHEMES
from schemas.messages import MAX_AHEAD

STREAMING, COLOCATED = "streaming", "colocated"
_NO_DRAFT = ("--policy", "fixed", "--draft-length", "0", "--draft", "none", "--no-lookup")

SERVER, BESIDE = "server", "beside-server"
RATIONED, UNRATIONED, SERVED = "base", "unrationed", "served"
"""Versions of workers: two of one target, of which one gives rows out by their worth and the other all that are asked
for; one beside the program of --server."""

ABOUT: Mapping[str, str] = {
    "traditional": "K guesses a round with their whole distributions, then a wait",
    "traditional-ids": "the same with ids only",
    STREAMING: "the target alone; tokens are sent as they come",
    COLOCATED: "streaming from a worker that drafts beside its target, for all and always",
    **{name: f"an edge node with --policy {name}" for name in POLICIES},
    SERVER: "the program of --server, which writes at the worker's place and is asked over HTTP",
    BESIDE: "an edge node whose worker stands beside that program",
}
"""Every strategy in the order of tables, and what it is."""
DEFAULT = tuple(name for name in ABOUT if name not in (SERVER, BESIDE))


@dataclass(frozen=True, slots=True)
class Node:
    """An edge node that is wanted.

    Attributes:
        flags: flags of ``flexspec-edge serve``.
        version: version that they ask for.
        program: module, and arguments before the command, of a node that is less than that.
    """

    flags: Sequence[str]
    version: str = RATIONED
    program: Sequence[str] = ("edge_node",)


@dataclass(frozen=True, slots=True)
class Devices:
    """Settings that all edge nodes have in common.

    Attributes:
        draft: folder of the draft, or 'default'.
        tokenizer: tokenizer of those without a draft.
        worker_draft: tokens that the worker drafts in `COLOCATED`.
        more: flags of energy and the user's.
    """

    draft: str
    tokenizer: str
    worker_draft: int
    more: Sequence[str] = ()


def chosen(names: Sequence[str] | None, *, server: bool = False) -> list[str]:
    """Names in the order of tables; all but the unusual ones where none is given.

    Args:
        names: as they were given.
        server: there is a program for `SERVER`, which is then among them.

    Raises:
        UsageError: there is no such strategy, or one is named twice.
    """
    asked = [*(DEFAULT if names is None else names)]
    if server and SERVER not in asked:
        asked.append(SERVER)
    for name in (SERVER, BESIDE):
        if name in asked and not server:
            raise UsageError(f"the strategy {name} needs a program", hint="give its command with --server")
    for name in asked:
        if name not in ABOUT:
            raise UsageError(f"there is no strategy {name!r}", hint=f"choose from {', '.join(ABOUT)}")
    if len(set(asked)) < len(asked):
        raise UsageError("a strategy is named twice", hint="name each once")
    return [name for name in ABOUT if name in asked]


def schemes(names: Sequence[str]) -> list[str]:
    """Strategies that are no edge nodes."""
    return [name for name in names if name in SCHEMES]


def nodes(names: Sequence[str], devices: Devices) -> dict[str, Node]:
    """Edge nodes of strategies.

    Args:
        names: names of strategies.
        devices: settings that all have in common.
    """
    found = {}
    for name in names:
        if name == STREAMING:
            found[name] = Node(streaming(devices))
        elif name == COLOCATED:
            found[name] = Node(streaming(devices, devices.worker_draft), UNRATIONED)
        elif name == BESIDE:
            found[name] = Node((*devices.more, "--draft", "none"), SERVED)
        elif name in POLICIES:
            found[name] = Node((*drafting(devices), "--policy", name))
    return found


def streaming(devices: Devices, worker_draft: int = 0) -> tuple[str, ...]:
    """Flags of a node that drafts nothing, for whom the worker runs ahead."""
    tokens = ("--ahead", str(MAX_AHEAD), "--worker-draft", str(worker_draft))
    return (*devices.more, *_NO_DRAFT, "--tokenizer", devices.tokenizer, *tokens)


def drafting(devices: Devices) -> tuple[str, ...]:
    """Flags of whatever drafts on the device."""
    return (*devices.more, "--draft", devices.draft)


def of_other_texts(names: Sequence[str], temperature: float) -> list[str]:
    """Strategies that do not write the target's own text of a seed, and are not compared with it."""
    return [
        name
        for name in names
        if name in (SERVER, BESIDE)
        or (name in SCHEMES and not SCHEMES[name].says_the_targets_text(temperature))
    ]
