"""Check of the family that a daemon follows: what was kept of it, what the broker keeps, and whether that holds."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from flexspec_mq.catalogue.driver import topics_of
from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.refusals import RecordError, Refused
from flexspec_mq.catalogue.signing import read_public
from flexspec_mq.catalogue.store import Store
from flexspec_mq.doctor.statuses import duration
from flexspec_mq.errors import LinkRefused, UsageError
from schemas.status import EdgeStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flexspec_mq.catalogue.options import FamilyOptions
    from flexspec_mq.doctor.checks import Report
    from flexspec_mq.doctor.daemon import DaemonDoctor
    from flexspec_mq.transport.base import Inbound
    from schemas.catalogue import Catalogue

_WAIT = 2.0
"""Seconds that retained messages may take."""
_PUBLISH = "ask who publishes the family; `flexspec head list` shows what is published"


async def check_family(
    report: Report, doctor: DaemonDoctor, options: FamilyOptions, folder: Callable[[], Path], loss: str
) -> Catalogue | None:
    """Check whether there is a catalogue to go by; changes nothing of what the daemon keeps.

    Returns:
        The catalogue; None if nobody can know one.

    Raises:
        UsageError: the root key is none.
        LinkError: the link failed.
    """
    family, root_key = options.family or "", options.root_key or ""  # settings have both or neither
    root = read_public(root_key)
    try:
        follower = Follower(family, root, Store(folder(), family).load())
    except (RecordError, UsageError) as error:
        report.fail("settings", error.message, error.hint)
        return None
    refused = await _read(report, doctor, follower)
    notes = [f"{one.reason}: {one.detail}" for one in refused]
    newest = doctor.watch.newest
    running = (
        newest.status.catalogue if newest is not None and isinstance(newest.status, EdgeStatus) else None
    )
    if running is not None:
        if running.family == family and running.refused:
            notes.append(
                f"the running edge node has refused {running.refused} messages, the last for {running.why}"
            )
        if running.alarm:
            notes.append(running.alarm)
    catalogue = follower.catalogue
    if catalogue is None:
        detail = f"no catalogue of the family {family} can be taken up, so {loss}"
        report.fail("no worker", "; ".join([detail, *notes]), _PUBLISH)
        return None
    detail = _described(catalogue, follower)
    if notes:
        report.warn("; ".join([detail, *notes]), f"what is known goes on; {_PUBLISH}")
    elif follower.expired(time.time()):
        report.warn(detail, "what is known goes on; `flexspec head watch` signs the catalogue anew")
    else:
        report.ok(detail)
    return catalogue


async def _read(report: Report, doctor: DaemonDoctor, follower: Follower) -> list[Refused]:
    """Judge what the broker keeps of the family; return what is refused of it."""
    keys, catalogue = topics_of(follower.family)
    inbox: asyncio.Queue[Inbound] = asyncio.Queue()
    before, doctor.watch.other = doctor.watch.other, inbox.put_nowait
    for topic in (keys, catalogue):
        try:
            await doctor.link.subscribe(topic)
        except LinkRefused:
            doctor.forbidden(report, f"read {topic}", "new versions of the family would never be learnt")
    refused: list[Refused] = []
    missing = {keys, catalogue}
    try:
        async with asyncio.timeout(_WAIT):
            while missing:
                inbound = await inbox.get()
                missing.discard(inbound.topic)
                if inbound.topic == keys:
                    outcome = follower.receive_keys(inbound.payload, time.time())
                elif inbound.topic == catalogue:
                    outcome = follower.receive_catalogue(inbound.payload, time.time())
                else:
                    continue
                if isinstance(outcome, Refused):
                    refused.append(outcome)
                elif isinstance(outcome, Accepted):
                    follower.adopt(outcome.record)  # for this look only: nothing is saved
                    if not follower.waiting:  # a catalogue that came before its keys is taken up with them
                        refused = [one for one in refused if one.reason != "key_set"]
                    refused += [outcome.refused] if outcome.refused is not None else []
    except TimeoutError:
        pass
    doctor.watch.other = before
    return refused


def _described(catalogue: Catalogue, follower: Follower) -> str:
    left = catalogue.epoch + catalogue.lifetime - time.time()
    expiry = f"expires in {duration(left)}" if left > 0 else f"expired {duration(-left)} ago"
    issued = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(catalogue.epoch))
    versions = ", ".join(f"{one.name} {one.state.name.lower()}" for one in catalogue.versions)
    return (
        f"{catalogue.family} has epoch {catalogue.epoch} (issued {issued}), {expiry}, key set "
        f"{0 if follower.keys is None else follower.keys.serial}; {versions}"
    )
