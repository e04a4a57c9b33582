"""What an edge node is told when it starts."""

from __future__ import annotations

import argparse
import secrets
from dataclasses import dataclass

from flexspec_mq import topics
from flexspec_mq.controller.plan import Plan
from flexspec_mq.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """One device.

    Attributes:
        edge: name on topics; the MQTT user name where there is one.
        version: target version to ask for.
        draft: folder of a draft checkpoint, ``default``, or ``none``.
        device: as torch names it.
        dtype: of the draft.
        threads: of torch.
        give_up: seconds without any answer from any worker before a text fails.
        session_expiry: seconds that the broker keeps verdicts for us while we are away.
        ephemeral: the name was drawn for this run, so nothing retained is left under it.
    """

    edge: str
    version: str = "base"
    draft: str = "default"
    device: str = "cpu"
    dtype: str = "bfloat16"
    threads: int = 1
    give_up: float = 30.0
    session_expiry: int = 300
    ephemeral: bool = False

    def __post_init__(self) -> None:
        """Refuse what no edge can be made of.

        Raises:
            UsageError: naming the value.
        """
        topics.checked("edge", self.edge)
        topics.checked("version", self.version)
        if self.threads < 1:
            raise UsageError(f"threads {self.threads} is less than 1")
        if not self.give_up > 0:  # nan is not either
            raise UsageError(f"give_up {self.give_up} is not above 0 seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `from_arguments` and `plan_from` read."""
    parser.add_argument("--edge", help="name on topics (default: the user name, or 6 random characters)")
    parser.add_argument("--version", default="base", help="target version to ask for (default: base)")
    parser.add_argument(
        "--draft",
        default="default",
        help="draft checkpoint folder, 'default', or 'none' to draft nothing (default: default)",
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument(
        "--dtype", default="bfloat16", help="bfloat16, float16 or float32 (default: bfloat16)"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument(
        "--give-up", type=float, default=30.0, help="seconds without an answer from any worker (default: 30)"
    )
    plan = parser.add_argument_group("plan")
    plan.add_argument("--draft-length", type=int, default=4, help="K, tokens per batch, 0-64 (default: 4)")
    plan.add_argument("--in-flight", type=int, default=1, help="W, unanswered batches, 1-8 (default: 1)")
    plan.add_argument("--qos", type=int, default=1, help="MQTT quality of service, 0-2 (default: 1)")
    plan.add_argument(
        "--ahead",
        type=int,
        default=0,
        help="tokens that the worker may write beyond what it knows us to have, 0-256 (default: 0)",
    )


def from_arguments(args: argparse.Namespace) -> EdgeSettings:
    """Settings from parsed flags; see `add_arguments`."""
    named = args.edge or args.username
    return EdgeSettings(
        edge=named or secrets.token_hex(3),
        ephemeral=not named,
        version=args.version,
        draft=args.draft,
        device=args.device,
        dtype=args.dtype,
        threads=args.threads,
        give_up=args.give_up,
    )


def plan_from(args: argparse.Namespace) -> Plan:
    """The fixed plan from parsed flags."""
    return Plan(args.draft_length, args.in_flight, args.qos, args.ahead)
