"""The broker as a daemon would meet it: reachable, secure, willing to let us in and to take our messages."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from flexspec_mq.codec import Codec
from flexspec_mq.daemon.tasks import running
from flexspec_mq.doctor import qualities, statuses
from flexspec_mq.doctor.findings import Findings, State
from flexspec_mq.doctor.threads import on_thread
from flexspec_mq.errors import LinkError, LinkRefused, PublishRefused
from flexspec_mq.transport.base import NO_SUBSCRIBERS, NOT_AUTHORIZED, no_birth
from flexspec_mq.transport.diagnosis.diagnose import LOGIN_REFUSED, diagnose
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.messages import NO_SESSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from flexspec_mq.daemon.retry import Waiting
    from flexspec_mq.doctor.watching import Watch
    from flexspec_mq.transport.base import Link, LinkSettings

NOT_A_SESSION = Codec().encode(NO_SESSION)
PATIENCE = 5.0
"""Seconds for one answer of the broker."""
_CHECK_SECONDS = 25.0

_RULES = "the access rules of `flexspec-broker` allow it; on a broker of your own, let user {user} {what}"


def as_doctor(settings: LinkSettings, patience: float) -> LinkSettings:
    """Settings of a link beside the daemon's: with an id of its own, and nothing that stays at the broker."""
    return replace(
        settings,
        client_id=f"{settings.client_id}-doctor-{secrets.token_hex(3)}",
        session_expiry=0,
        will=None,
        birth=no_birth,
        subscriptions=(),
        give_up_after=patience,
    )


async def reach(findings: Findings, settings: LinkSettings) -> bool:
    """Whether a broker of MQTT 5 answers, over the TLS that we were told."""
    findings.tell(f"looking for the broker at {settings.address}")
    cause = await on_thread(lambda: diagnose(settings))
    if cause is not None and cause.fault != LOGIN_REFUSED:
        findings.fail("broker", cause.fault, cause.detail, cause.advice)
        return False
    how = "without TLS" if settings.tls is None else "over TLS, with a certificate that is trusted"
    findings.ok("broker", f"{settings.address} speaks MQTT 5, {how}")
    return True


@asynccontextmanager
async def logged_in(findings: Findings, settings: LinkSettings) -> AsyncIterator[Link | None]:
    """A link of the doctor's own; None if the broker does not let us in, which is then among the findings."""
    findings.tell("logging in")
    async with contextlib.AsyncExitStack() as stack:
        try:
            link = await stack.enter_async_context(mqtt_link(as_doctor(settings, PATIENCE), on_wait=quietly))
            await link.wait_up(2 * PATIENCE)
        except LinkError as error:
            fault = "login refused" if isinstance(error, LinkRefused) else "broker down"
            advice = error.hint or "look into the broker's log"
            if settings.username is None and isinstance(error, LinkRefused):
                advice = f"give --username and --password-file; {advice}"
            findings.fail("login", fault, error.message, advice)
            # What the link raises on leaving has been told just now.
            with contextlib.suppress(LinkError):
                await stack.aclose()
            yield None
            return
        findings.ok("login", f"as {settings.username or 'nobody: this broker asks for no login'}")
        yield link


async def examine_broker(
    findings: Findings,
    settings: LinkSettings,
    behind: Sequence[str],
    watch: Watch,
    topic: str,
    look: Callable[[Link], Awaitable[str]],
) -> None:
    """Reach the broker, log in and look around there; then its qualities, and whether our name is ours alone.

    Args:
        findings: to add to.
        settings: of the daemon's link.
        behind: names of the checks that need the broker, ``login`` first.
        watch: runs meanwhile.
        topic: of the daemon's status.
        look: checks what only this daemon needs, until its model is loaded; returns `here` of `statuses.check_name`.
    """
    if not await reach(findings, settings):
        findings.skip(behind, "the broker cannot be used")
        return
    async with logged_in(findings, settings) as link:
        if link is None:
            findings.skip(behind[1:], "the broker does not let us in")
            return
        async with running(watch.run(link), "watch"):
            try:
                here = await look(link)
                # The model is loaded now: nothing of ours takes the time that a round trip is said to need.
                await check_qualities(findings, settings)
                await watch.settled(topic)
                statuses.check_name(findings, watch, topic, here)
            except LinkError as error:
                advice = error.hint or "try again; look into the broker's log meanwhile"
                findings.fail("link", "link lost", error.message, advice)


async def may_publish(link: Link, topic: str, payload: bytes) -> int:
    """The reason code of a publish: 0, 0x10 (nobody subscribes) or 0x87 (the access rules forbid it).

    Raises:
        LinkError: it failed for another reason.
    """
    try:
        await link.publish(topic, payload, qos=1)
    except PublishRefused as refused:
        if refused.reason_code in (NO_SUBSCRIBERS, NOT_AUTHORIZED):
            return refused.reason_code
        raise
    return 0


def forbidden(findings: Findings, daemon: str, user: str | None, what: str, loss: str) -> None:
    """The access rules lack something.

    Args:
        findings: to add to.
        daemon: its name on topics.
        user: at the broker.
        what: ``publish on …`` or ``read …``.
        loss: what does not work without it.
    """
    who = f"user {user!r}" if user is not None else "an anonymous client"
    advice = _RULES.format(user=repr(user) if user is not None else "anonymous", what=what)
    if user is not None and user != daemon:
        advice = (
            f"we are named {daemon!r} and log in as {user!r}, and users may use the topics of their own name only: "
            f"leave --edge or --worker out, or name us as the user; else {advice}"
        )
    findings.fail("access", "ACL refusal", f"the broker does not let {who} {what}: {loss}", advice)


async def check_qualities(findings: Findings, settings: LinkSettings) -> None:
    """What `flexspec-broker check` says of the broker, in one finding if nothing is wrong."""
    findings.tell("trying the broker's qualities")
    name, found = "qualities", Findings(findings.part, findings.tell)
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await qualities.check_qualities(
                found, as_doctor(settings, _CHECK_SECONDS), qualities.own_prefix(settings.username)
            )
    except TimeoutError:
        findings.warn(
            name, f"not finished within {_CHECK_SECONDS:g} s", "a slow link; try `flexspec-broker check`"
        )
        return
    except LinkError as error:
        findings.warn(name, error.message, error.hint)
        return
    lacking = [one for one in found.all if one.state is not State.OK]
    for one in lacking:
        what = f"{one.name}: {one.detail}"
        if one.state is State.FAILED:
            findings.fail(name, one.fault, what, one.advice)
        else:
            findings.warn(name, what, one.advice, one.fault)
    if not lacking:
        findings.ok(name, "; ".join(f"{one.name}: {one.detail}" for one in found.all))


def quietly(_waiting: Waiting) -> None:
    """The last error is told, not each."""
