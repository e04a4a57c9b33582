"""Workers, devices and versions in words, by their statuses and the catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec.structs import replace

from flexspec_mq.daemon.words import count, duration, moment, span
from schemas.catalogue import CatalogueVersion
from schemas.node import CatalogueState, DeviceView, VersionView, WorkerView
from schemas.status import CatalogueStatus, EdgeStatus, WorkerStatus

_SILENT = 60.0
"""Seconds after which a worker's silence is told."""


def worker(age: float, status: WorkerStatus) -> WorkerView:
    """A worker, whose newest status is so many seconds old."""
    runs = (
        status.target,
        status.exactness + (f", {status.flip_rate:.3%} of tokens differ" if status.flip_rate else ""),
        f"{status.device} {status.dtype}".strip(),
        "" if status.weights == "native" else status.weights,
        "" if status.forward_ms is None else f"forward {span(status.forward_ms)}",
        f"draft {status.draft}" if status.draft else "",
        f"silent for {duration(10 * round(age / 10))}" if age > _SILENT else "",
    )
    return WorkerView(
        name=status.worker,
        condition=status.state,
        mood="good" if status.state == "online" else "bad",
        load=f"{status.load} of {count(status.capacity, 'text')}",
        facts=[f"serves {', '.join(_versions(status)) or 'nothing'}", *filter(None, runs)],
        age_s=age,
        status=replace(status, credential=b"", signature=b""),
    )


def _versions(status: WorkerStatus) -> Iterator[str]:
    if not status.versions:
        yield status.version
    for version in status.versions:
        state = "" if version.state == "ready" else f" {version.state}"
        why = f" ({version.reason})" if version.reason else ""
        yield f"{version.name}{state}{why}" + (f" {version.exactness}" if version.exactness else "")


def device(status: EdgeStatus) -> DeviceView:
    """An edge node."""
    away = status.outage
    facts = [
        f"draft {status.draft}" if status.draft not in {"", "none"} else "",
        f"{count(status.waiting, 'text')} waiting" if status.waiting else "",
        f"away for {duration(away.seconds)} until {moment(away.ended)}" if away is not None else "",
    ]
    facts += [
        f"{seen.name}: {count(seen.answers, 'answer')}"
        + (f", {count(seen.errors, 'error')}" if seen.errors else "")
        + (f", {seen.accepted / seen.drafted:.0%} of drafts right" if seen.drafted else "")
        for seen in status.versions
    ]
    return DeviceView(
        name=status.edge,
        condition=status.state,
        mood="good" if status.state == "online" else "bad",
        load=f"{count(status.sessions, 'text')} now",
        facts=[*filter(None, facts)],
        status=status,
    )


def version(known: CatalogueVersion, statuses: Sequence[WorkerStatus]) -> VersionView:
    """A version of the family, and how many workers take new sessions of it."""
    digest = known.digest.hex()
    state = msgspec.convert(known.state.name.lower(), CatalogueState)
    serving = sum(
        status.state == "online" and ready.name == known.name and digest.startswith(ready.digest)
        for status in statuses
        for ready in status.ready
    )
    return VersionView(
        name=known.name,
        condition=f"canary, {known.share} % of new texts" if state == "canary" else state,
        mood="good" if state == "stable" else "news" if state == "canary" else "",
        load=count(serving, "worker"),
        facts=[f"digest {digest[:16]}"],
        state=state,
        digest=digest,
        share=known.share,
        workers=serving,
    )


def catalogue(status: CatalogueStatus) -> list[str]:
    """A family's catalogue in sentences, what is wrong with it first."""
    until = f", valid until {moment(status.expires)}" if status.expires else ""
    of = f"catalogue of {moment(status.epoch)} is {status.state}"
    told = [
        f"ALARM: {status.alarm}" if status.alarm else "",
        f"{count(status.refused, 'message')} refused, the last: {status.why}" if status.refused else "",
        f"family {status.family}: {'no catalogue yet' if status.state == 'none' else of}{until}",
    ]
    return [*filter(None, told)]
