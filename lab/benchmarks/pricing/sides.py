"""Who answers in `lab.benchmarks.answers`: flags of each side's edge node, and sides that are none."""

from __future__ import annotations

import shlex
from argparse import Namespace

from flexspec_mq.errors import UsageError
from lab.bench.testbed.node import UNRATIONED
from lab.bench.traditional.schemes import SCHEMES
from lab.benchmarks.pricing.compared import BOTH, COLOCATED, CURRENT, FIRST, STREAMING

DEFAULT = "default"
_FIXED = ["--policy", "fixed", "--worker-draft", "0"]


def edge_nodes(options: Namespace) -> dict[str, list[str]]:
    """Flags of each side's edge node.

    Raises:
        UsageError: flags that no shell could read, or a side that there is not.
    """
    found = {CURRENT: drafting(options), DEFAULT: ["--draft", options.draft]}
    if options.first is not None:
        found[FIRST] = ["--draft", str(options.first.resolve()), *_FIXED, *_read(options.first_flags)]
    found[STREAMING] = [*_FIXED, *_read(options.streaming_flags)]
    if options.worker_draft:
        own = ["--worker-draft", str(options.worker_draft)]
        # As servers of today draft: for everybody, whatever it costs the others.
        found[COLOCATED] = [*found[STREAMING], *own, "--version", UNRATIONED]
        found[BOTH] = [*found[CURRENT], *own]
    for name in options.sides or ():
        if name not in found and name not in SCHEMES:
            raise UsageError(f"there is no side {name}", hint=f"choose from {', '.join([*found, *SCHEMES])}")
    return {name: flags for name, flags in found.items() if name in (STREAMING, *(options.sides or found))}


def drafting(options: Namespace) -> list[str]:
    """Flags of the edge node that drafts with the current draft.

    Raises:
        UsageError: flags that no shell could read.
    """
    return ["--draft", options.draft, *_FIXED, *_read(options.draft_flags)]


def schemes(options: Namespace) -> list[str]:
    """Names of `SCHEMES` that are sides."""
    return [name for name in SCHEMES if name in (options.sides or ())]


def _read(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError as error:
        raise UsageError(f"flags of an edge node cannot be read: {error}") from error
