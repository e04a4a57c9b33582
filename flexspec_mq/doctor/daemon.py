"""Checks that the doctors of both daemons share: the broker as they would meet it, and what they may do there."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq import topics, waiting
from flexspec_mq.catalogue import naming
from flexspec_mq.catalogue.options import FamilyOptions
from flexspec_mq.codec import Codec
from flexspec_mq.daemon.tasks import running
from flexspec_mq.doctor import statuses
from flexspec_mq.doctor.checks import Check, Finding, Report, run_checks
from flexspec_mq.doctor.family import check_family
from flexspec_mq.doctor.machine import check_cache, check_packages
from flexspec_mq.doctor.qualities import reach
from flexspec_mq.doctor.watch import Watch
from flexspec_mq.errors import LinkError, LinkRefused, PublishRefused
from flexspec_mq.keys.refusals import KeysRefused
from flexspec_mq.settings.values import is_loopback
from flexspec_mq.transport.base import NO_SUBSCRIBERS, NOT_AUTHORIZED, LinkSettings, no_birth
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from flexspec_mq.transport.needs import FOR_SESSIONS
from schemas.messages import NO_SESSION

if TYPE_CHECKING:
    from flexspec_mq.keys.trust import Trust

NOT_A_SESSION = Codec().encode(NO_SESSION)
_OPEN = "open deployment"
_DEPLOY = "`flexspec-broker init` makes a broker with TLS and users"


class DaemonDoctor:
    """The doctor of one daemon: its table of checks, and what they share.

    Args:
        name: The daemon's name on topics.
        settings: Link of the daemon.
        topic: Topic of its status.
        version: Version that it asks for or serves.
        family: Family that it follows.
        listening: Seconds for which statuses are listened to.

    Attributes:
        link: Connection of the doctor's own, once it has logged in.
        version: The stable one of the family, once its catalogue is known.
        keys: File with the daemon's keys, by which it knows whom it talks to.
        trust: Whom the daemon believes by that file; None without one.
        secrets: Other files that nobody else should read.
        here: Description of the daemon of this machine; empty if none was found.
        public_group: This worker shares sessions in the group that any client may join.
    """

    link: Link
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
        self._stack = AsyncExitStack()

    def table(self) -> Sequence[Check]:
        """The checks of this daemon."""
        raise NotImplementedError

    async def examine(self, tell: Callable[[str], None], timeout: float) -> list[Finding]:
        """Run all checks; never raises for what is wrong with the setup."""
        findings: list[Finding] = []
        try:
            async with self._stack:
                findings = await run_checks(self.table(), tell, timeout)
        except LinkError:  # of a link that failed, which a check has told
            if not findings:
                raise
        return findings

    def shared_rows(
        self, extras: tuple[str, ...], useful: dict[str, str], port: Check, model: Check
    ) -> list[Check]:
        """Rows of both daemons, with theirs for a port and a model, which is loaded while statuses come in."""
        looking = f"looking for the broker at {self.settings.address}"
        needs = replace(self.settings, needs=FOR_SESSIONS)
        lost = "no version of the family is known"
        keys = () if self.trust is None else (Check("keys", self._check_keys, ("login",)),)
        rows = [
            Check("packages", partial(check_packages, needed=extras, useful=useful)),
            Check("cache", check_cache),
            port,
            Check("broker", partial(reach, needs), (), "the broker cannot be used", looking),
            Check("login", self._log_in, ("broker",), "the broker does not let us in", "logging in"),
            model,
            *keys,
            Check("name", self._check_name, ("login",), doing="listening for other daemons"),
            Check("catalogue", self._check_catalogue, ("login",), lost),
        ]
        return rows if self.family.family is not None else rows[:-1]

    def settings_beside(self, patience: float = waiting.DOCTOR_BROKER) -> LinkSettings:
        """Settings of a link beside the daemon's: with an id of its own, and nothing that stays at the broker."""
        return replace(
            self.settings,
            client_id=f"{self.settings.client_id}-doctor-{secrets.token_hex(3)}",
            session_expiry=0,
            will=None,
            birth=no_birth,
            subscriptions=(),
            give_up_after=patience,
        )

    async def _log_in(self, report: Report) -> None:
        user = self.settings.username
        # Of the attempts only the last error is told.
        link = mqtt_link(self.settings_beside(), on_wait=lambda _waiting: None)
        try:
            self.link = await self._stack.enter_async_context(link)
            await self.link.wait_up(2 * waiting.DOCTOR_BROKER)
        except LinkError as error:
            refused = isinstance(error, LinkRefused)
            advice = error.hint or "look into the broker's log"
            if user is None and refused:
                advice = f"give --username and --password-file; {advice}"
            report.fail("login refused" if refused else "broker down", error.message, advice)
            with suppress(LinkError):  # told just now
                await self._stack.aclose()
            return
        report.ok(f"as {user or 'nobody: this broker asks for no login'}")
        await self._stack.enter_async_context(running(self.watch.run(self.link), "watch"))

    async def _check_name(self, report: Report) -> None:
        await self.watch.listen()
        statuses.check_name(report, self.watch, self.here)

    async def _check_keys(self, report: Report) -> None:
        """Check whether the deployment's statement is at the broker, and for how long the newest one holds."""
        assert self.trust is not None  # noqa: S101  or there is no such check
        topic, why = topics.statement_topic(), ""
        try:
            await self.link.subscribe(topic)
            async with asyncio.timeout(waiting.RETAINED):
                self.trust.take((await self.watch.next_of(topic)).payload)
        except LinkRefused:
            self.forbidden(report, f"read {topic}", "nobody would learn who was revoked")
            return
        except KeysRefused as error:
            why = error.message
        except TimeoutError:
            why = "no statement of the deployment came from the broker"
        statement, now = self.trust.dated, time.time()
        if lapsed := statement.over(now):
            report.fail("expired", lapsed, statement.advice)
            return
        if why:
            report.warn(why, "what the file says goes on; does `flexspec-broker run DIR` run there?")
        elif words := statement.warning(now):
            report.warn(words, statement.advice)
        else:
            report.ok(f"statement {self.trust.statement.serial} holds until {statement.last_day}")

    async def _check_catalogue(self, report: Report) -> None:
        catalogue = await check_family(report, self.family, self.watch, self.link, self.forbidden)
        if catalogue is not None:
            self.version = naming.stable(catalogue).name

    async def may_publish(self, topic: str, payload: bytes) -> int:
        """Publish, and return the reason code: 0, 0x10 (nobody subscribes) or 0x87 (the access rules forbid it).

        Raises:
            LinkError: it failed for another reason.
        """
        try:
            await self.link.publish(topic, payload, qos=1)
        except PublishRefused as refused:
            if refused.reason_code in (NO_SUBSCRIBERS, NOT_AUTHORIZED):
                return refused.reason_code
            raise
        return 0

    def forbidden(self, report: Report, what: str, loss: str) -> None:
        """Report that the access rules lack something."""
        user = self.settings.username
        who = f"user {user!r}" if user is not None else "an anonymous client"
        let = repr(user) if user is not None else "anonymous"
        advice = (
            f"the access rules of `flexspec-broker` allow it; on a broker of your own, let user {let} {what}"
        )
        if user is not None and user != self.name:
            advice = (
                f"we are named {self.name!r} and log in as {user!r}, and users may use the topics of their own name "
                f"only: leave --edge or --worker out, or name us as the user; else {advice}"
            )
        report.fail("ACL refusal", f"the broker does not let {who} {what}: {loss}", advice)

    async def check_exposure(self, report: Report) -> None:
        """Warn of everything that lets in who should not be: from the network, this machine, or other clients."""
        host, user = self.settings.host, self.settings.username
        if not is_loopback(host):
            if self.settings.tls is None:
                plain = f"what goes to {host} can be read and changed on the way: it has no TLS"
                report.warn(plain, _DEPLOY, _OPEN)
            if user is None:
                report.warn("the broker lets in anybody, without a login", _DEPLOY, _OPEN)
            if self.keys is None:
                forged = "whoever runs the broker can read texts and forge answers, as any worker can: no keys are used"
                advice = (
                    "give --keys the keys.json of this daemon; `flexspec-broker init DIR --keys` makes them"
                )
                report.warn(forged, advice, _OPEN)
        for path in (*self.secrets, self.keys):
            if path is not None and path.exists() and path.stat().st_mode & 0o077:
                report.warn(f"others on this machine can read {path}", f"chmod 600 {path}", _OPEN)
        # A message that says nothing; an edge's status is for that edge alone to write.
        strange = topics.edge_status_topic(topics.NOBODY)
        if user is not None and await self.may_publish(strange, b"") != NOT_AUTHORIZED:
            rules = f"the broker lets user {user!r} write where only another may: {strange}"
            report.warn(rules, f"give it access rules for each user: {_DEPLOY}", _OPEN)
        if user is not None and self.public_group:
            group = "any device of this broker can take sessions away: the workers' group has the name that all know"
            report.warn(group, "give --share-groups, a file of `flexspec-broker add-worker`", _OPEN)
        if not report.findings:
            how = (
                "only this machine reaches the broker"
                if is_loopback(host)
                else "over TLS, with a login and keys"
            )
            report.ok(f"{how}; nothing is open that should not be, as far as can be seen from here")
