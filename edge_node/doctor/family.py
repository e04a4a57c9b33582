"""The family that the edge follows: what was kept of it, what the broker keeps, and whether that holds."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from edge_node.fleet.catalogue import state_folder
from flexspec_mq import topics
from flexspec_mq.catalogue import naming
from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.refusals import RecordError, Refused
from flexspec_mq.catalogue.signing import read_public
from flexspec_mq.catalogue.store import Store
from flexspec_mq.doctor import link as links
from flexspec_mq.doctor.statuses import duration
from flexspec_mq.errors import LinkRefused
from schemas.status import EdgeStatus

if TYPE_CHECKING:
    from edge_node.config import EdgeConfig
    from flexspec_mq.doctor.findings import Findings
    from flexspec_mq.doctor.watching import Watch
    from flexspec_mq.transport.base import Inbound, Link
    from schemas.catalogue import Catalogue

_NAME = "family"
_WAIT = 2.0
"""Seconds that retained messages may take."""
_PUBLISH = "ask who publishes the family; `flexspec head list` shows what is published"


async def check_family(findings: Findings, config: EdgeConfig, watch: Watch, link: Link, known: str) -> str:
    """Whether there is a catalogue to go by; changes nothing of what the daemon keeps.

    Args:
        findings: to add to.
        config: with a family.
        watch: runs on the link.
        link: logged in.
        known: topic of the edge's own status.

    Returns:
        The version that is stable; empty if nobody can know.

    Raises:
        UsageError: the root key is none.
        LinkError: the link failed.
    """
    family, root_key = config.family.family, config.family.root_key
    assert family is not None  # noqa: S101  asked only with a family
    assert root_key is not None  # noqa: S101  settings have both or neither
    findings.tell(f"reading the catalogue of {family}")
    store = Store(state_folder(config.family), family)
    try:
        follower = Follower(family, read_public(root_key), store.load())
    except RecordError as error:
        findings.fail(_NAME, "settings", error.message, error.hint)
        return ""
    refused = await _read(findings, config, watch, link, follower)
    _tell(findings, follower, refused, watch, known)
    return "" if follower.catalogue is None else naming.stable(follower.catalogue).name


async def _read(
    findings: Findings, config: EdgeConfig, watch: Watch, link: Link, follower: Follower
) -> list[Refused]:
    """Judge what the broker keeps of the family; what is refused of it."""
    keys, catalogue = topics.keys_topic(follower.family), topics.catalogue_topic(follower.family)
    came: asyncio.Queue[Inbound] = asyncio.Queue()
    watch.other = came.put_nowait
    for topic in (keys, catalogue):
        try:
            await link.subscribe(topic)
        except LinkRefused:
            loss = "new versions of the family would never be learnt"
            links.forbidden(findings, config.node.edge, config.link.username, f"read {topic}", loss)
    refused: list[Refused] = []
    missing = {keys, catalogue}
    ends = time.monotonic() + _WAIT
    while missing and (left := ends - time.monotonic()) > 0:
        try:
            async with asyncio.timeout(left):
                inbound = await came.get()
        except TimeoutError:
            break
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
    watch.other = None
    return refused


def _tell(findings: Findings, follower: Follower, refused: list[Refused], watch: Watch, known: str) -> None:
    catalogue = follower.catalogue
    said = [f"{one.reason}: {one.detail}" for one in refused]
    running = watch.newest(known)
    if (
        running is not None
        and isinstance(running.status, EdgeStatus)
        and running.status.catalogue is not None
    ):
        its = running.status.catalogue
        if its.family == follower.family and its.refused:
            said.append(f"the running edge node has refused {its.refused} messages, the last for {its.why}")
        if its.alarm:
            said.append(its.alarm)
    if catalogue is None:
        detail = (
            f"no catalogue of the family {follower.family} can be taken up, so no version can be asked for"
        )
        findings.fail(_NAME, "no worker", "; ".join([detail, *said]), _PUBLISH)
        return
    detail = _described(catalogue, follower)
    if said:
        findings.warn(_NAME, "; ".join([detail, *said]), f"what is known goes on; {_PUBLISH}")
    elif follower.expired(time.time()):
        findings.warn(_NAME, detail, "what is known goes on; `flexspec head watch` signs the catalogue anew")
    else:
        findings.ok(_NAME, detail)


def _described(catalogue: Catalogue, follower: Follower) -> str:
    left = catalogue.epoch + catalogue.lifetime - time.time()
    expiry = f"expires in {duration(left)}" if left > 0 else f"expired {duration(-left)} ago"
    issued = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(catalogue.epoch))
    versions = ", ".join(f"{one.name} {one.state.name.lower()}" for one in catalogue.versions)
    return (
        f"{catalogue.family} has epoch {catalogue.epoch} (issued {issued}), {expiry}, key set "
        f"{0 if follower.keys is None else follower.keys.serial}; {versions}"
    )
