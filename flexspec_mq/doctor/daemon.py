"""Checks that the doctors of both daemons share: the broker as they would meet it, and what they may do there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from flexspec_mq import topics, waiting
from flexspec_mq.catalogue import naming
from flexspec_mq.catalogue.driver import Driver
from flexspec_mq.catalogue.follower import Follower, Record
from flexspec_mq.catalogue.options import FamilyOptions
from flexspec_mq.catalogue.refusals import SignedRefused
from flexspec_mq.catalogue.signing import read_public
from flexspec_mq.catalogue.store import Store
from flexspec_mq.codec import Codec
from flexspec_mq.daemon.words import duration
from flexspec_mq.doctor import checks
from flexspec_mq.doctor.broker import Forbidden, Probe, log_in, reach
from flexspec_mq.doctor.checks import Fault, Finding, Said, Warned, run_checks
from flexspec_mq.doctor.machine import check_cache
from flexspec_mq.doctor.statuses import check_clock, check_name
from flexspec_mq.doctor.watch import Watch
from flexspec_mq.errors import LinkError
from flexspec_mq.keys.refusals import KeysRefused
from flexspec_mq.models.cache import families_folder
from flexspec_mq.settings.values import is_loopback
from flexspec_mq.transport.base import NOT_AUTHORIZED, LinkSettings
from flexspec_mq.transport.needs import FOR_SESSIONS
from schemas.messages import NO_SESSION

if TYPE_CHECKING:
    from flexspec_mq.keys.trust import Trust

NOT_A_SESSION = Codec().encode(NO_SESSION)
_DEPLOY = "`flexspec-broker init` makes a broker with TLS and users"
_PUBLISH = "ask who publishes the family; `flexspec head list` shows what is published"


class _ReadOnly(Store):
    """The record of a family, which is the daemon's to keep."""

    def save(self, record: Record) -> None:
        """Keep nothing."""


class DaemonDoctor:
    """The doctor of one daemon: its probes, and what they share.

    Args:
        name: The daemon's name on topics.
        settings: Link of the daemon.
        topic: Topic of its status.
        version: Version that it asks for or serves.
        family: Family that it follows.
        listening: Seconds for which statuses are listened to.

    Attributes:
        program: Name of the daemon in the table of checks.
        link: Connection of the doctor's own, once it has logged in.
        version: The stable one of the family, once its catalogue is known.
        keys: File with the daemon's keys, by which it knows whom it talks to.
        trust: Whom the daemon believes by that file; None without one.
        secrets: Other files that nobody else should read.
        here: Description of the daemon of this machine; empty if none was found.
        public_group: This worker shares sessions in the group that any client may join.
    """

    program: ClassVar[str]
    link: Probe
    keys: Path | None = None
    trust: Trust | None = None
    secrets: tuple[Path | None, ...] = ()
    public_group = False
    here = ""

    def __init__(
        self,
        name: str,
        settings: LinkSettings,
        topic: str,
        version: str,
        family: FamilyOptions,
        listening: float,
    ) -> None:
        self.name = name
        self.settings = settings
        self.version = version
        self.family = family
        self.watch = Watch(topic, listening)

    def probes(self) -> dict[str, checks.Probe]:
        """Probes of both daemons, by the names of their checks."""
        probes: dict[str, checks.Probe] = {
            "cache": check_cache,
            "broker": partial(reach, replace(self.settings, needs=FOR_SESSIONS)),
            "login": self._log_in,
            "name": self._check_name,
            "exposure": self._check_exposure,
            "clock": partial(check_clock, self.watch),
        }
        if self.trust is not None:
            probes["keys"] = partial(self._check_keys, self.trust)
        if self.family.family is not None and self.family.root_key is not None:
            probes["catalogue"] = partial(self._check_catalogue, self.family.family, self.family.root_key)
        return probes

    async def examine(self, tell: Callable[[str], None], timeout: float) -> list[Finding]:
        """Run all checks; never raises for what is wrong with the setup."""
        self.link = Probe(self.settings, self.watch.take)
        try:
            return await run_checks(self.program, self.probes(), tell, timeout, self.settings.address)
        finally:
            await self.link.close()

    async def _log_in(self) -> str:
        told = await log_in(self.link)
        for topic in self.watch.filters:
            try:
                await self.link.listen(topic)
            except Forbidden:
                self.watch.blind.append(topic)
        self.watch.began = time.monotonic()
        return told

    async def _check_name(self) -> str:
        await self.watch.listen()
        return check_name(self.watch, self.here)

    async def _check_keys(self, trust: Trust) -> str:
        """Check whether the deployment's statement is at the broker, and for how long the newest one holds."""
        topic, why = topics.statement_topic(), ""
        try:
            await self.link.listen(topic)
            if (inbound := await self.link.next(topic, within=waiting.RETAINED)) is not None:
                trust.take(inbound.payload)
            else:
                why = "no statement of the deployment came from the broker"
        except Forbidden:
            raise self.forbidden(f"read {topic}", "nobody would learn who was revoked") from None
        except KeysRefused as error:
            why = error.message
        statement, now = trust.dated, time.time()
        if lapsed := statement.over(now):
            raise Fault("expired", lapsed, statement.advice)
        if why:
            raise Warned(why, "what the file says goes on; does `flexspec-broker run DIR` run there?")
        if words := statement.warning(now):
            raise Warned(words, statement.advice)
        return f"statement {trust.statement.serial} holds until {statement.last_day}"

    async def _check_catalogue(self, family: str, root_key: str) -> list[Said]:
        """Check whether there is a catalogue to go by; changes nothing of what the daemon keeps."""
        store = _ReadOnly(families_folder(self.family.state_dir), family)
        follower = Follower(family, read_public(root_key), store.load())
        driver, said, notes = Driver(follower, store), list[Said](), list[str]()
        for topic in driver.topics:
            try:
                await self.link.listen(topic)
            except Forbidden:
                loss = "new versions of the family would never be learnt"
                said.append(self.forbidden(f"read {topic}", loss))
        outcomes: dict[str, object] = {}
        missing = set(driver.topics)
        while missing and (inbound := await self.link.next(*missing, within=waiting.RETAINED)) is not None:
            missing.remove(inbound.topic)
            outcomes |= dict(await driver.judge(inbound.topic, inbound.payload))
        notes += [
            f"{one.reason}: {one.detail}" for one in outcomes.values() if isinstance(one, SignedRefused)
        ]
        if (catalogue := follower.catalogue) is None:
            detail = f"no catalogue of the family {family} can be taken up, so no version of it is known"
            return [*said, Fault("no worker", "; ".join([detail, *notes]), _PUBLISH)]
        self.version = naming.stable(catalogue).name
        now = time.time()
        for keys in follower.dated:
            if lapsed := keys.over(now):
                return [*said, Fault("expired", lapsed, keys.advice)]
            notes += filter(None, (keys.warning(now),))
        left = catalogue.epoch + catalogue.lifetime - now
        time_left = duration(abs(left))
        expiry = f"expires in {time_left}" if left > 0 else f"expired {time_left} ago"
        versions = ", ".join(f"{version.name} {version.state.name.lower()}" for version in catalogue.versions)
        detail = f"{family} has epoch {catalogue.epoch}, {expiry}; {versions}"
        if notes:
            return [*said, Warned("; ".join([detail, *notes]), f"what is known goes on; {_PUBLISH}")]
        if left <= 0:
            advice = "what is known goes on; `flexspec head watch` signs the catalogue anew"
            return [*said, Warned(detail, advice)]
        return [*said, detail]

    async def may_publish(self, topic: str, payload: bytes) -> int:
        """Publish, and return the reason code: 0, 0x10 (nobody subscribes) or 0x87 (the access rules forbid it)."""
        try:
            return await self.link.put(topic, payload)
        except Forbidden as refused:
            if refused.reason_code != NOT_AUTHORIZED:
                raise LinkError(refused.message) from refused
            return NOT_AUTHORIZED

    def forbidden(self, what: str, loss: str) -> Fault:
        """The fault that the access rules lack something."""
        user = self.settings.username
        who, let = ("an anonymous client", "anonymous") if user is None else (f"user {user!r}", repr(user))
        advice = (
            f"the access rules of `flexspec-broker` allow it; on a broker of your own, let user {let} {what}"
        )
        if user is not None and user != self.name:
            advice = (
                f"we are named {self.name!r} and log in as {user!r}, and users may use the topics of their own name "
                f"only: leave --edge or --worker out, or name us as the user; else {advice}"
            )
        return Fault("ACL refusal", f"the broker does not let {who} {what}: {loss}", advice)

    def blind(self) -> list[Fault]:
        """Faults of what may not be read of those who are there."""
        return [self.forbidden(f"read {topic}", "we cannot see who is there") for topic in self.watch.blind]

    async def _check_exposure(self) -> Sequence[Said]:
        """Warn of everything that lets in who should not be: from the network, this machine, or other clients."""
        # A message that says nothing; an edge's status is for that edge alone to write.
        strange = topics.edge_status_topic(topics.NOBODY)
        has_login = self.settings.username is not None
        let = has_login and await self.may_publish(strange, b"") != NOT_AUTHORIZED
        if found := self.exposures(strange if let else ""):
            return found
        local = is_loopback(self.settings.host)
        how = "only this machine reaches the broker" if local else "over TLS, with a login and keys"
        return [f"{how}; nothing is open that should not be, as far as can be seen from here"]

    def exposures(self, strange: str) -> list[Warned]:
        """All that is open and should not be; `strange` is the topic of another that the user may write, or empty."""
        host, user = self.settings.host, self.settings.username
        beyond, files = not is_loopback(host), (*self.secrets, self.keys)
        rows = (
            (
                beyond and self.settings.tls is None,
                f"what goes to {host} can be read and changed on the way: it has no TLS",
                _DEPLOY,
            ),
            (beyond and user is None, "the broker lets in anybody, without a login", _DEPLOY),
            (
                beyond and self.keys is None,
                "whoever runs the broker can read texts and forge answers, as any worker can: no keys are used",
                "give --keys the keys.json of this daemon; `flexspec-broker init DIR --keys` makes them",
            ),
            *(
                (file.stat().st_mode & 0o077, f"others on this machine can read {file}", f"chmod 600 {file}")
                for file in files
                if file is not None and file.exists()
            ),
            (
                strange,
                f"the broker lets user {user!r} write where only another may: {strange}",
                f"give it access rules for each user: {_DEPLOY}",
            ),
            (
                user is not None and self.public_group,
                "any device of this broker can take sessions away: the workers' group has the name that all know",
                "give --share-groups, a file of `flexspec-broker add-worker`",
            ),
        )
        return [Warned(detail, advice, "open deployment") for holds, detail, advice in rows if holds]
