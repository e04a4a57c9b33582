"""Check of the family that a daemon follows: what was kept of it, what the broker keeps, and whether that holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flexspec_mq import waiting
from flexspec_mq.catalogue.driver import Driver
from flexspec_mq.catalogue.follower import Follower, Record
from flexspec_mq.catalogue.refusals import RecordError, Refused
from flexspec_mq.catalogue.signing import read_public
from flexspec_mq.catalogue.store import Store
from flexspec_mq.doctor.checks import Report
from flexspec_mq.doctor.statuses import duration
from flexspec_mq.errors import LinkRefused, UsageError
from flexspec_mq.models.cache import families_folder
from schemas.catalogue import Catalogue

if TYPE_CHECKING:
    from flexspec_mq.catalogue.options import FamilyOptions
    from flexspec_mq.doctor.watch import Watch
    from flexspec_mq.transport.link import Link

_PUBLISH = "ask who publishes the family; `flexspec head list` shows what is published"


class _ReadOnly(Store):
    """The record of a family, which is the daemon's to keep."""

    def save(self, record: Record) -> None:
        """Keep nothing."""


async def check_family(
    report: Report,
    options: FamilyOptions,
    watch: Watch,
    link: Link,
    forbidden: Callable[[Report, str, str], None],
) -> Catalogue | None:
    """Check whether there is a catalogue to go by; changes nothing of what the daemon keeps.

    Args:
        report: Written to.
        options: The family.
        watch: Hands on what comes over the link.
        link: The doctor's own.
        forbidden: Reports that the access rules lack something, and what is lost by that.

    Returns:
        The catalogue; None if nobody can know one.

    Raises:
        LinkError: the link failed.
    """
    assert options.family is not None  # noqa: S101  settings have both or neither
    assert options.root_key is not None  # noqa: S101  likewise
    family = options.family
    try:
        store = _ReadOnly(families_folder(options.state_dir), family)
        follower = Follower(family, read_public(options.root_key), store.load())
    except (RecordError, UsageError) as error:
        report.fail("settings", error.message, error.hint)
        return None
    driver = Driver(follower, store)
    for topic in driver.topics:
        try:
            await link.subscribe(topic)
        except LinkRefused:
            forbidden(report, f"read {topic}", "new versions of the family would never be learnt")
    refused = await _judged(driver, watch)
    notes = [f"{refusal.reason}: {refusal.detail}" for refusal in refused]
    catalogue = follower.catalogue
    if catalogue is None:
        detail = f"no catalogue of the family {family} can be taken up, so no version of it is known"
        report.fail("no worker", "; ".join([detail, *notes]), _PUBLISH)
        return None
    now = time.time()
    for keys in follower.dated:
        if lapsed := keys.over(now):
            report.fail("expired", lapsed, keys.advice)
            return catalogue
        if soon := keys.warning(now):
            notes.append(soon)
    left = catalogue.epoch + catalogue.lifetime - now
    expiry = f"expires in {duration(left)}" if left > 0 else f"expired {duration(-left)} ago"
    versions = ", ".join(f"{version.name} {version.state.name.lower()}" for version in catalogue.versions)
    detail = f"{family} has epoch {catalogue.epoch}, {expiry}; {versions}"
    if notes:
        report.warn("; ".join([detail, *notes]), f"what is known goes on; {_PUBLISH}")
    elif left <= 0:
        report.warn(detail, "what is known goes on; `flexspec head watch` signs the catalogue anew")
    else:
        report.ok(detail)
    return catalogue


async def _judged(driver: Driver, watch: Watch) -> list[Refused]:
    """Judge what the broker keeps of the family; return what is refused of it."""
    missing = set(driver.topics)
    outcomes: dict[str, object] = {}
    try:
        async with asyncio.timeout(waiting.RETAINED):
            while missing:
                inbound = await watch.next_of(*driver.topics)
                missing.discard(inbound.topic)
                outcomes |= dict(await driver.judge(inbound.topic, inbound.payload))
    except TimeoutError:
        pass
    return [outcome for outcome in outcomes.values() if isinstance(outcome, Refused)]
