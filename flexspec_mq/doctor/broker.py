"""Checks of a broker, tried over the wire with connections of their own, as any client could."""

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Final

import msgspec

from flexspec_mq import waiting
from flexspec_mq.daemon.tasks import on_thread, running
from flexspec_mq.doctor import checks
from flexspec_mq.doctor.checks import Fault, Skipped, Warned
from flexspec_mq.errors import FlexSpecError, LinkError, LinkRefused
from flexspec_mq.topics import worker_status_topic
from flexspec_mq.transport.base import NO_SUBSCRIBERS, Inbound, LinkSettings, Outbound, no_birth
from flexspec_mq.transport.connection import MqttConnection
from flexspec_mq.transport.diagnosis import LOGIN_REFUSED, diagnose
from flexspec_mq.transport.silence import LinkSilence

_LACKING, _POOR = "broker lacking", "broker slow or silent"
"""Faults: FlexSpec does not work with this broker; it works, but."""
_ROUNDS, _ROUNDS_COUNTED = 29, 9
_DELAYED_ACK = 0.035
"""Seconds by which QoS 1 is slower than QoS 0 where acknowledgements are delayed."""
_FAILURE = 0x80
_NEED_SHARES = "workers need shared subscriptions: use another broker"
_MESSAGES: Final = 64
"""Messages that wait until somebody wants them, the newest; more than one check sends."""


class Forbidden(FlexSpecError):
    """The broker refused a publish, with a reason code, or a subscription, with 0."""

    def __init__(self, message: str, topic: str, reason_code: int = 0) -> None:
        may = f"{topic.rpartition('/')[0]}/#"
        super().__init__(message, hint=f"give a user that may write and read {may}, or another --topic")
        self.reason_code = reason_code


def beside(settings: LinkSettings) -> LinkSettings:
    """Settings of a link beside a daemon's: with an id of its own, and nothing that stays at the broker."""
    own = f"{settings.client_id}-doctor-{secrets.token_hex(3)}"
    return replace(settings, client_id=own, session_expiry=0, will=None, birth=no_birth, subscriptions=())


class Probe(MqttConnection):
    """A connection of the doctor's own, with what it receives in a queue unless `take` wants it."""

    def __init__(self, settings: LinkSettings, take: Callable[[Inbound], bool] = lambda _: False) -> None:
        self.received = asyncio.Queue[Inbound]()

        def deliver(inbound: Inbound) -> None:
            if not take(inbound):
                self.received.put_nowait(inbound)
            if self.received.qsize() > _MESSAGES:
                self.received.get_nowait()

        super().__init__(beside(settings), lambda _topic, _size: True, deliver, LinkSilence(0.0))

    async def put(self, topic: str, payload: bytes = b"", *, qos: int = 1, retain: bool = False) -> int:
        """Publish and return the acknowledgement's reason code.

        Raises:
            Forbidden: the broker refused it.
        """
        code = await self.send(Outbound(topic, payload, qos, retain))
        if code >= _FAILURE:
            raise Forbidden(f"publishing was refused (0x{code:02x})", topic, code)
        return code

    async def listen(self, topic: str) -> None:
        """Subscribe.

        Raises:
            Forbidden: the access rules forbid it.
        """
        try:
            await self.subscribe_all({topic: 1})
        except LinkRefused as error:
            raise Forbidden(error.message, topic) from error

    async def echo(self, topic: str, qos: int) -> None:
        """Send back on `topic` whatever comes; until cancelled, or the connection fails."""
        while True:
            await self.put(topic, (await self.received.get()).payload, qos=qos)

    async def next(self, *topics: str, within: float | None = None) -> Inbound | None:
        """Return the next message on these topics, or on any, and drop others; None if none comes in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within or self.settings.publish_timeout):
                while True:
                    inbound = await self.received.get()
                    if not topics or inbound.topic in topics:
                        return inbound
        return None


@asynccontextmanager
async def _probing(settings: LinkSettings, count: int = 1) -> AsyncIterator[list[Probe]]:
    """Probes that are connected."""
    probes = [Probe(settings) for _ in range(count)]
    try:
        for probe in probes:
            await probe.open()
        yield probes
    finally:
        for probe in probes:
            await probe.close()


async def reach(settings: LinkSettings) -> str:
    """Check name, TCP, TLS and MQTT 5, one after the other."""
    cause = await on_thread(diagnose, settings)
    if cause is not None and cause.fault != LOGIN_REFUSED:
        raise Fault(cause.fault, cause.detail, cause.advice)
    how = "without TLS" if settings.tls is None else "over TLS, with a certificate that is trusted"
    return f"{settings.address} speaks MQTT 5, {how}"


async def log_in(probe: Probe) -> str:
    """Check whether the broker lets us in; the probe stays connected."""
    user = probe.settings.username
    try:
        await probe.open()
    except LinkError as error:
        refused = isinstance(error, LinkRefused)
        advice = error.hint or "look into the broker's log"
        if user is None and refused:
            advice = f"give --username and --password-file; {advice}"
        raise Fault("login refused" if refused else "broker down", error.message, advice) from error
    return f"as {user or 'nobody: this broker asks for no login'}"


async def _check_login(settings: LinkSettings) -> str:
    probe = Probe(settings)
    try:
        return await log_in(probe)
    finally:
        await probe.close()


async def _check_retained(settings: LinkSettings, topic: str) -> str:
    kept, every = b"kept", f"{topic.rpartition('/')[0]}/+"
    async with _probing(settings, 2) as (writer, reader):
        await writer.put(topic, kept, retain=True)
        try:
            await reader.listen(every)
            message = await reader.next(topic)
        finally:
            await writer.put(topic, retain=True)
    if message is None or not message.retain or message.payload != kept:
        advice = "workers are found by those on f1/w/+: turn retained messages on, or use another broker"
        raise Fault(_LACKING, f"none was delivered to {every}", advice)
    return f"kept, and delivered to {every}"


async def _check_shares(settings: LinkSettings, topic: str) -> str:
    sent = 4
    async with _probing(settings, 3) as (writer, *members):
        if not writer.limits.shares:
            raise Fault(_LACKING, "the broker says that it has none", _NEED_SHARES)
        try:
            for member in members:
                await member.listen(f"$share/check/{topic}")
        except Forbidden as error:
            raise Fault(_LACKING, error.message, _NEED_SHARES) from error
        for number in range(sent):
            await writer.put(topic, bytes((number,)))
        end = time.monotonic() + settings.publish_timeout
        while sum(member.received.qsize() for member in members) < sent and time.monotonic() < end:  # noqa: ASYNC110  two queues
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # a broker without shares would deliver each message twice
        got = [member.received.qsize() for member in members]
    detail = f"{sent} messages: {got[0]} + {got[1]}"
    if sum(got) != sent:
        raise Fault(_LACKING, detail, _NEED_SHARES)
    return detail


async def _check_reasons(settings: LinkSettings, topic: str) -> str:
    async with _probing(settings) as (writer,):
        code = await writer.put(topic, b"anybody?")
    if code != NO_SUBSCRIBERS:
        detail = f"does not tell when nobody subscribes (0x{code:02x})"
        raise Warned(detail, "a missing worker is then noticed by a time-out only", _POOR)
    return "tells when nobody subscribes"


async def _check_round_trip(settings: LinkSettings, topic: str) -> str:
    """Time out and back again between two clients, as drafts and verdicts travel.

    A sender with Nagle's algorithm on waits for the acknowledgement of its last small packet, and a receiver
    with nothing to say delays that by 40 ms, once the kernel has left its quick start of some 16 packets.
    """
    medians = []
    async with _probing(settings, 2) as (near, far):
        await near.listen(f"{topic}b")
        await far.listen(f"{topic}a")
        for qos in (0, 1):
            async with running(far.echo(f"{topic}b", qos), "echo"):
                times = []
                for _ in range(_ROUNDS):
                    start = time.perf_counter()
                    await near.put(f"{topic}a", b"x" * 40, qos=qos)
                    if await near.next() is None:
                        raise LinkError("an answer did not arrive")
                    times.append(time.perf_counter() - start)
            medians.append(statistics.median(times[-_ROUNDS_COUNTED:]))
    detail = f"QoS 0 {medians[0] * 1e3:.1f} ms, QoS 1 {medians[1] * 1e3:.1f} ms"
    if medians[1] - medians[0] >= _DELAYED_ACK:
        advice = "its sockets wait for delayed acknowledgements: in Mosquitto, `set_tcp_nodelay true`"
        raise Warned(detail, advice, _POOR)
    return detail


class _WorkerStatus(msgspec.Struct):
    """Fields of a worker's status that say whether it lives."""

    state: str
    at: float
    worker: str


async def _check_workers(settings: LinkSettings) -> str:
    """Name the workers by their statuses, which come from behind a bridge as well, and say how old these are."""
    ages: dict[str, float] = {}
    async with _probing(settings) as (probe,):
        with suppress(TimeoutError, Forbidden):
            async with asyncio.timeout(0.3 * waiting.ANSWER):
                await probe.listen(worker_status_topic("+"))
                while True:
                    with suppress(msgspec.MsgspecError):
                        status = msgspec.json.decode((await probe.received.get()).payload, type=_WorkerStatus)
                        if status.state == "online":
                            ages[status.worker] = abs(time.time() - status.at)
    if not ages:
        raise Skipped("no worker is online here, or this user may not read f1/w/+")
    online = ", ".join(f"{name} {age:.0f} s ago" for name, age in sorted(ages.items()))
    if min(ages.values()) >= waiting.STALE:
        advice = "all have ended, or are behind a bridge that is down: the log of the site's broker tells"
        raise Warned(f"nobody has renewed a status: {online}", advice, _POOR)
    return f"said 'online': {online}"


_QUALITIES: Final = {
    "retained messages": _check_retained,
    "shared subscriptions": _check_shares,
    "reason codes": _check_reasons,
    "round trip": _check_round_trip,
}


def broker_probes(settings: LinkSettings, topic: str) -> Mapping[str, checks.Probe]:
    """Probes of a broker by the names of their checks, on topics below a prefix that nobody uses."""
    # Access rules spell out the topics that a user may write, so those of a user have fixed names.
    mark = "check" if settings.username is not None else secrets.token_hex(4)
    return {
        "broker": partial(reach, settings),
        "login": partial(_check_login, settings),
        **{name: partial(probe, settings, f"{topic}/{mark}") for name, probe in _QUALITIES.items()},
        "workers": partial(_check_workers, settings),
    }
