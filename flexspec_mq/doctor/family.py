"""The family that a daemon follows: what was kept of it, what the broker keeps, and whether that holds."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexspec_mq.catalogue.driver import topics_of
from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.refusals import RecordError, Refused
from flexspec_mq.catalogue.signing import read_public
from flexspec_mq.catalogue.store import Store
from flexspec_mq.doctor import link as links
from flexspec_mq.doctor.statuses import duration
from flexspec_mq.errors import LinkRefused, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flexspec_mq.catalogue.options import FamilyOptions
    from flexspec_mq.doctor.findings import Findings
    from flexspec_mq.doctor.watching import Watch
    from flexspec_mq.transport.base import Inbound, Link
    from schemas.catalogue import Catalogue
    from schemas.status import CatalogueStatus

_WAIT = 2.0
"""Seconds that retained messages may take."""
_PUBLISH = "ask who publishes the family; `flexspec head list` shows what is published"


@dataclass(frozen=True, slots=True)
class Following:
    """Whose family it is.

    Attributes:
        name: of the check.
        daemon: its name on topics.
        user: at the broker.
        options: with a family.
        folder: where the daemon keeps its record; raises UsageError where there is no such folder.
        loss: why nobody can do without a catalogue.
    """

    name: str
    daemon: str
    user: str | None
    options: FamilyOptions
    folder: Callable[[], Path]
    loss: str


async def check_family(
    findings: Findings, following: Following, watch: Watch, link: Link, running: CatalogueStatus | None
) -> Catalogue | None:
    """Whether there is a catalogue to go by; changes nothing of what the daemon keeps.

    Args:
        findings: to add to.
        following: whose family.
        watch: runs on the link.
        link: logged in.
        running: what the daemon that runs says of its catalogue, if it says anything.

    Returns:
        The catalogue; None if nobody can know one.

    Raises:
        UsageError: the root key is none.
        LinkError: the link failed.
    """
    family, root_key = following.options.family, following.options.root_key
    assert family is not None  # noqa: S101  asked only with a family
    assert root_key is not None  # noqa: S101  settings have both or neither
    findings.tell(f"reading the catalogue of {family}")
    root = read_public(root_key)
    try:
        follower = Follower(family, root, Store(following.folder(), family).load())
    except (RecordError, UsageError) as error:
        findings.fail(following.name, "settings", error.message, error.hint)
        return None
    refused = await _read(findings, following, watch, link, follower)
    _tell(findings, following, follower, refused, running)
    return follower.catalogue


async def _read(
    findings: Findings, following: Following, watch: Watch, link: Link, follower: Follower
) -> list[Refused]:
    """Judge what the broker keeps of the family; what is refused of it."""
    keys, catalogue = topics_of(follower.family)
    came: asyncio.Queue[Inbound] = asyncio.Queue()
    before, watch.other = watch.other, came.put_nowait
    for topic in (keys, catalogue):
        try:
            await link.subscribe(topic)
        except LinkRefused:
            loss = "new versions of the family would never be learnt"
            links.forbidden(findings, following.daemon, following.user, f"read {topic}", loss)
    refused: list[Refused] = []
    missing = {keys, catalogue}
    ends = time.monotonic() + _WAIT
    while missing and (left := ends - time.monotonic()) > 0:
        try:
            async with asyncio.timeout(left):
                inbound = await came.get()
        except TimeoutError:
            break
        if inbound.topic not in (keys, catalogue):
            continue
        missing.discard(inbound.topic)
        receive = follower.receive_keys if inbound.topic == keys else follower.receive_catalogue
        found = receive(inbound.payload, time.time())
        if isinstance(found, Accepted):
            follower.adopt(found.record)  # for this look only: nothing is saved
            if not follower.waiting:  # a catalogue that came before its keys is taken up with them
                refused = [one for one in refused if one.reason != "key_set"]
            if found.refused is not None:
                refused.append(found.refused)
        elif isinstance(found, Refused):
            refused.append(found)
    watch.other = before
    return refused


def _tell(
    findings: Findings,
    following: Following,
    follower: Follower,
    refused: list[Refused],
    running: CatalogueStatus | None,
) -> None:
    name, catalogue = following.name, follower.catalogue
    said = [f"{one.reason}: {one.detail}" for one in refused]
    if running is not None:
        if running.family == follower.family and running.refused:
            said.append(
                f"the running edge node has refused {running.refused} messages, the last for {running.why}"
            )
        if running.alarm:
            said.append(running.alarm)
    if catalogue is None:
        detail = f"no catalogue of the family {follower.family} can be taken up, so {following.loss}"
        findings.fail(name, "no worker", "; ".join([detail, *said]), _PUBLISH)
        return
    detail = _described(catalogue, follower)
    if said:
        findings.warn(name, "; ".join([detail, *said]), f"what is known goes on; {_PUBLISH}")
    elif follower.expired(time.time()):
        findings.warn(name, detail, "what is known goes on; `flexspec head watch` signs the catalogue anew")
    else:
        findings.ok(name, detail)


def _described(catalogue: Catalogue, follower: Follower) -> str:
    left = catalogue.epoch + catalogue.lifetime - time.time()
    expiry = f"expires in {duration(left)}" if left > 0 else f"expired {duration(-left)} ago"
    issued = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(catalogue.epoch))
    versions = ", ".join(f"{one.name} {one.state.name.lower()}" for one in catalogue.versions)
    return (
        f"{catalogue.family} has epoch {catalogue.epoch} (issued {issued}), {expiry}, key set "
        f"{0 if follower.keys is None else follower.keys.serial}; {versions}"
    )
