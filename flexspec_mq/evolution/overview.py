"""``flexspec head list``: a family at one moment, from its catalogue and the statuses of workers and edges."""

import argparse
import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flexspec_mq.codec import Codec
from flexspec_mq.daemon.dated import day
from flexspec_mq.daemon.progress import answer
from flexspec_mq.daemon.words import duration
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.evolution.analysis import acceptance
from flexspec_mq.evolution.catalogue_client import CatalogueClient, connected
from flexspec_mq.evolution.evidence import Evidence
from flexspec_mq.evolution.settings import head_options
from flexspec_mq.topics import edge_status_topic, worker_of_status, worker_status_topic
from flexspec_mq.transport.base import Inbound
from schemas.catalogue import Catalogue, CatalogueVersion, KeySet, VersionState
from schemas.status import DIGEST, EdgeStatus, WorkerStatus

FILTERS = worker_status_topic("+"), edge_status_topic("+")
"""Filters of the statuses that `Statuses` takes."""
_SERVES = ("ready", "draining")
_HEADINGS = (
    *["version", "state", "share", "digest", "draft", "workers", "answers", "errors"],
    "acceptance (interval)",
)


@dataclass
class Statuses:
    """Statuses of workers and edges about a family's versions.

    Attributes:
        evidence: samples of the edges.
        workers: last status of each worker.
    """

    evidence: Evidence
    workers: dict[str, WorkerStatus] = field(default_factory=dict)
    _codec: Codec = field(default_factory=Codec)

    def take(self, inbound: Inbound) -> None:
        """Note a status; what is none is left out."""
        try:
            if (worker := worker_of_status(inbound.topic)) is not None:
                status = self._codec.decode_status(inbound.payload, WorkerStatus)
                if status.worker == worker:
                    self.workers[worker] = status
            else:
                edge = self._codec.decode_status(inbound.payload, EdgeStatus)
                if inbound.topic.endswith(f"/{edge.edge}"):
                    self.evidence.take(edge)
        except RemoteProtocolError:
            return

    def holders(self, digest: bytes) -> Iterator[tuple[str, str, str]]:
        """Workers that are there and say something of a version: name, what they say, and why."""
        for name, status in sorted(self.workers.items()):
            if status.state == "gone":
                continue
            for version in status.versions:
                if version.digest == digest[:DIGEST].hex():
                    yield name, version.state, version.reason

    def serving(self, catalogue: Catalogue, base: bytes) -> set[str]:
        """Workers that serve a version of this base; empty is the family's.

        Others may have it as well: a worker whose base no catalogue names serves nothing.
        """
        return {
            worker
            for version in catalogue.versions
            if version.base == base
            for worker, state, _ in self.holders(version.digest)
            if state in _SERVES
        }


def show(args: argparse.Namespace) -> int:
    """``flexspec head list``: returns the exit code."""
    statuses = Statuses(Evidence(head_options(args).named_family()))

    async def listen(client: CatalogueClient) -> None:
        catalogue = client.catalogue()
        await asyncio.sleep(args.wait)
        now = client.clock()
        listed = report(catalogue, client.keys(), statuses, now)
        answer(json.dumps(listed) if args.json else "\n".join(table(listed, now)))

    return connected(args, listen, FILTERS, statuses.take)


def report(catalogue: Catalogue, keys: KeySet, statuses: Statuses, now: float) -> dict[str, Any]:
    """The overview, for JSON."""
    return {
        "family": catalogue.family,
        "epoch": catalogue.epoch,
        "expires": catalogue.epoch + catalogue.lifetime,
        "expired": catalogue.epoch + catalogue.lifetime <= now,
        "heads": catalogue.heads,
        "key_set": {
            "serial": keys.serial,
            "expires": keys.expires,
            "threshold": keys.threshold,
            "keys": [key.hex() for key in keys.keys],
        },
        "versions": [_version(version, statuses) for version in catalogue.versions],
    }


def table(listed: dict[str, Any], now: float) -> Iterator[str]:
    """The report for people, in lines."""
    left = listed["expires"] - now
    until = f"expires in {duration(left)}"
    if left <= 0:
        until = f"EXPIRED {duration(-left)} ago: `flexspec head renew`"
    keys = listed["key_set"]
    age = duration(max(0.0, now - listed["epoch"]))
    yield f"{listed['family']}: issued {age} ago, {until}; heads at {listed['heads']}"
    until = day(keys["expires"])
    yield f"key set {keys['serial']}: {keys['threshold']} of {len(keys['keys'])} keys sign, until {until}"
    rows = [_HEADINGS, *(_row(version) for version in listed["versions"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for version in listed["versions"]:
        for worker in version["workers"]:
            if worker["why"]:
                yield f"{worker['worker']} on {version['name']}: {worker['state']}, {worker['why']}"


def _version(version: CatalogueVersion, statuses: Statuses) -> dict[str, Any]:
    samples = statuses.evidence.samples(version.digest)
    estimate = acceptance(samples)
    interval = None
    if estimate is not None:
        low, high = estimate.bounds
        interval = [max(0.0, low), estimate.mean, min(1.0, high)]
    return {
        "name": version.name,
        "state": version.state.name.lower(),
        "share": version.share if version.state is VersionState.CANARY else None,
        "digest": version.digest.hex(),
        "base": version.base.hex() or None,
        "draft": "independent" if version.base else "shared",
        "workers": [
            {"worker": name, "state": state, "why": why}
            for name, state, why in statuses.holders(version.digest)
        ],
        "answers": sum(sample.answers for sample in samples),
        "errors": sum(sample.errors for sample in samples),
        "acceptance": interval,
    }


def _row(version: dict[str, Any]) -> Sequence[str]:
    workers = [
        worker["worker"] if worker["state"] == "ready" else f"{worker['worker']} ({worker['state']})"
        for worker in version["workers"]
    ]
    interval = version["acceptance"]
    return (
        version["name"],
        version["state"],
        "" if version["share"] is None else f"{version['share']} %",
        version["digest"][:16],
        version["draft"],
        ", ".join(workers) or "none",
        str(version["answers"]),
        str(version["errors"]),
        "" if interval is None else f"{interval[1]:.2f} ({interval[0]:.2f} to {interval[2]:.2f})",
    )
