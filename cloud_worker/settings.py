"""What a cloud worker is told when it starts."""

from __future__ import annotations

import argparse
import secrets
from dataclasses import dataclass

from flexspec_mq import topics
from flexspec_mq.errors import UsageError

MAX_LEASE = 86_400
"""Seconds; the most that a verdict can say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """One worker process.

    Attributes:
        target: a folder, a hub name, or ``default``.
        version: of the target, as edges ask for it.
        worker: name on topics; short, because it is paid for on every draft.
        device: as torch names it.
        dtype: of the weights and the forward.
        threads: of torch.
        capacity: live sessions.
        lease: seconds of silence after which a session is freed.
        prefill: tokens of unread prefixes that one forward may read.
        batch: sessions that share one forward.
        drain: seconds that sessions get to end after SIGTERM.
        status_every: seconds between two retained status documents.
    """

    target: str = "default"
    version: str = "base"
    worker: str
    device: str = "cpu"
    dtype: str = "bfloat16"
    threads: int = 1
    capacity: int = 64
    lease: int = 60
    prefill: int = 128
    batch: int = 64
    drain: float = 30.0
    status_every: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what no worker can be made of.

        Raises:
            UsageError: naming the value.
        """
        topics.checked("worker", self.worker)
        topics.checked("version", self.version)
        for name, value, least in (
            ("threads", self.threads, 1),
            ("capacity", self.capacity, 1),
            ("lease", self.lease, 1),
            ("prefill", self.prefill, 2),
            ("batch", self.batch, 1),
            ("drain", self.drain, 0),
            ("status_every", self.status_every, 0.1),
        ):
            if not value >= least:  # nan is not either
                raise UsageError(f"{name} {value} is less than {least}")
        if self.lease > MAX_LEASE:
            raise UsageError(f"lease {self.lease} is more than {MAX_LEASE} seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `from_arguments` reads."""
    parser.add_argument(
        "--target", default="default", help="model folder or hub name (default: SmolLM2-135M)"
    )
    parser.add_argument("--version", default="base", help="version name that edges ask for (default: base)")
    parser.add_argument("--worker", help="name on topics, 1-64 characters (default: 4 random ones)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument(
        "--dtype", default="bfloat16", help="bfloat16, float16 or float32 (default: bfloat16)"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--capacity", type=int, default=64, help="live sessions (default: 64)")
    parser.add_argument(
        "--lease", type=int, default=60, help="seconds of silence that end a session (default: 60)"
    )
    parser.add_argument(
        "--prefill", type=int, default=128, help="prompt tokens that one forward may read (default: 128)"
    )
    parser.add_argument("--batch", type=int, default=64, help="sessions in one forward (default: 64)")
    parser.add_argument(
        "--drain", type=float, default=30.0, help="seconds for sessions to end on SIGTERM (default: 30)"
    )
    parser.add_argument(
        "--status-every", type=float, default=5.0, help="seconds between two status documents (default: 5)"
    )


def from_arguments(args: argparse.Namespace) -> WorkerSettings:
    """Settings from parsed flags; see `add_arguments`."""
    return WorkerSettings(
        target=args.target,
        version=args.version,
        worker=args.worker or secrets.token_hex(2),
        device=args.device,
        dtype=args.dtype,
        threads=args.threads,
        capacity=args.capacity,
        lease=args.lease,
        prefill=args.prefill,
        batch=args.batch,
        drain=args.drain,
        status_every=args.status_every,
    )
