"""Checks of a broker, tried over the wire with connections of their own, as any client could."""

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import msgspec

from flexspec_mq import waiting
from flexspec_mq.daemon.tasks import on_thread, running
from flexspec_mq.doctor.checks import Check, Report
from flexspec_mq.errors import LinkError, LinkRefused
from flexspec_mq.topics import worker_status_topic
from flexspec_mq.transport.base import NO_SUBSCRIBERS, Inbound, LinkSettings, Outbound
from flexspec_mq.transport.connection import MqttConnection
from flexspec_mq.transport.diagnosis import LOGIN_REFUSED, diagnose
from flexspec_mq.transport.silence import Silence

_LACKING, _POOR = "broker lacking", "broker slow or silent"
"""Faults: FlexSpec does not work with this broker; it works, but."""
_ROUNDS, _ROUNDS_COUNTED = 29, 9
_DELAYED_ACK = 0.035
"""Seconds by which QoS 1 is slower than QoS 0 where acknowledgements are delayed."""
_FAILURE = 0x80
_NEED_SHARES = "workers need shared subscriptions: use another broker"
_MESSAGES = 64
"""More than one check sends."""


class _Forbidden(LinkRefused):
    """The access rules do not let us try it."""


class Probe(MqttConnection):
    """A connection to a broker under test, with what it receives in a queue."""

    def __init__(self, settings: LinkSettings) -> None:
        self.received: asyncio.Queue[Inbound] = asyncio.Queue(_MESSAGES)
        mine = replace(settings, client_id=f"flexspec-check-{secrets.token_hex(4)}")
        super().__init__(mine, lambda _topic, _size: True, self.received.put_nowait, Silence(0.0))

    async def send_to(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        """Publish and return the acknowledgement's reason code.

        Raises:
            LinkRefused: the access rules forbid it.
        """
        code = await self.send(Outbound(topic, payload, qos, retain))
        if code >= _FAILURE:
            raise _Forbidden(f"publishing was refused (0x{code:02x})")
        return code

    async def listen(self, topic: str) -> None:
        """Subscribe.

        Raises:
            LinkRefused: the access rules forbid it.
        """
        try:
            await self.subscribe_all({topic: 1})
        except LinkRefused as error:
            raise _Forbidden(error.message) from error

    async def echo(self, topic: str, qos: int) -> None:
        """Send back on `topic` whatever comes; until cancelled, or the connection fails."""
        while True:
            await self.send_to(topic, (await self.received.get()).payload, qos=qos)

    async def next(self) -> Inbound | None:
        """Return the next message; None if none comes in time."""
        try:
            async with asyncio.timeout(self.settings.publish_timeout):
                return await self.received.get()
        except TimeoutError:
            return None


@asynccontextmanager
async def _probe(settings: LinkSettings) -> AsyncIterator[Probe]:
    """A probe that is connected.

    Raises:
        LinkError: it could not connect.
    """
    probe = Probe(settings)
    try:
        await probe.open()
        yield probe
    finally:
        await probe.close()


async def reach(settings: LinkSettings, report: Report) -> None:
    """Check name, TCP, TLS and MQTT 5, one after the other."""
    cause = await on_thread(lambda: diagnose(settings))
    if cause is not None and cause.fault != LOGIN_REFUSED:
        report.fail(cause.fault, cause.detail, cause.advice)
        return
    how = "without TLS" if settings.tls is None else "over TLS, with a certificate that is trusted"
    report.ok(f"{settings.address} speaks MQTT 5, {how}")


async def _log_in(settings: LinkSettings, report: Report) -> None:
    try:
        async with _probe(settings):
            report.ok(settings.username or "anonymous")
    except LinkRefused as refused:
        advice = "give --username and --password-file" if settings.username is None else refused.hint
        report.fail("login refused", refused.message, advice)


_Quality = Callable[[Report, LinkSettings, str], Awaitable[None]]


async def _allowed(probe: _Quality, settings: LinkSettings, topic: str, report: Report) -> None:
    try:
        await probe(report, settings, topic)
    except _Forbidden as error:
        prefix = topic.rpartition("/")[0]
        advice = f"give a user that may write and read {prefix}/#, or another --topic"
        report.fail(_LACKING, error.message, advice)


async def _check_retained(report: Report, settings: LinkSettings, topic: str) -> None:
    kept = b"kept"
    every = f"{topic.rpartition('/')[0]}/+"
    async with _probe(settings) as writer, _probe(settings) as reader:
        await writer.send_to(topic, kept, retain=True)
        try:
            await reader.listen(every)
            while (message := await reader.next()) is not None and message.topic != topic:
                pass  # of another check
        finally:
            await writer.send_to(topic, b"", retain=True)
    if message is not None and message.retain and message.payload == kept:
        report.ok(f"kept, and delivered to {every}")
    else:
        advice = "workers are found by those on f1/w/+: turn retained messages on, or use another broker"
        report.fail(_LACKING, f"none was delivered to {every}", advice)


async def _check_shares(report: Report, settings: LinkSettings, topic: str) -> None:
    sent = 4
    async with _probe(settings) as writer, _probe(settings) as first, _probe(settings) as second:
        if not first.limits.shares:
            report.fail(_LACKING, "the broker says that it has none", _NEED_SHARES)
            return
        try:
            for member in (first, second):
                await member.subscribe_all({f"$share/check/{topic}": 1})
        except LinkRefused as error:
            report.fail(_LACKING, error.message, _NEED_SHARES)
            return
        for number in range(sent):
            await writer.send_to(topic, bytes((number,)))
        end = time.monotonic() + settings.publish_timeout
        while first.received.qsize() + second.received.qsize() < sent and time.monotonic() < end:  # noqa: ASYNC110  two queues
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # a broker without shares would deliver each message twice
        shares = first.received.qsize(), second.received.qsize()
    detail = f"{sent} messages: {shares[0]} + {shares[1]}"
    if sum(shares) == sent:
        report.ok(detail)
    else:
        report.fail(_LACKING, detail, _NEED_SHARES)


async def _check_reasons(report: Report, settings: LinkSettings, topic: str) -> None:
    async with _probe(settings) as writer:
        code = await writer.send_to(topic, b"anybody?")
    if code == NO_SUBSCRIBERS:
        report.ok("tells when nobody subscribes")
    else:
        detail = f"does not tell when nobody subscribes (0x{code:02x})"
        report.warn(detail, "a missing worker is then noticed by a time-out only", _POOR)


async def _check_round_trip(report: Report, settings: LinkSettings, topic: str) -> None:
    """Time out and back again between two clients, as drafts and verdicts travel.

    A sender with Nagle's algorithm on waits for the acknowledgement of its last small packet, and a receiver
    with nothing to say delays that by 40 ms, once the kernel has left its quick start of some 16 packets.
    """
    medians = []
    async with _probe(settings) as near, _probe(settings) as far:
        await near.listen(f"{topic}b")
        await far.listen(f"{topic}a")
        for qos in (0, 1):
            async with running(far.echo(f"{topic}b", qos), "echo"):
                times = []
                for _ in range(_ROUNDS):
                    start = time.perf_counter()
                    await near.send_to(f"{topic}a", b"x" * 40, qos=qos)
                    if await near.next() is None:
                        raise LinkError("an answer did not arrive")
                    times.append(time.perf_counter() - start)
            medians.append(statistics.median(times[-_ROUNDS_COUNTED:]))
    detail = f"QoS 0 {medians[0] * 1e3:.1f} ms, QoS 1 {medians[1] * 1e3:.1f} ms"
    if medians[1] - medians[0] < _DELAYED_ACK:
        report.ok(detail)
    else:
        advice = "its sockets wait for delayed acknowledgements: in Mosquitto, `set_tcp_nodelay true`"
        report.warn(detail, advice, _POOR)


class _WorkerStatus(msgspec.Struct):
    """Fields of a worker's status that say whether it lives."""

    state: str
    at: float
    worker: str


async def _check_workers(settings: LinkSettings, report: Report) -> None:
    """Name the workers by their statuses, which come from behind a bridge as well, and say how old these are."""
    ages: dict[str, float] = {}
    async with _probe(settings) as probe:
        with suppress(TimeoutError, _Forbidden):
            async with asyncio.timeout(waiting.STATUS_RETAINED):
                await probe.listen(worker_status_topic("+"))
                while True:
                    with suppress(msgspec.MsgspecError):
                        status = msgspec.json.decode((await probe.received.get()).payload, type=_WorkerStatus)
                        if status.state == "online":
                            ages[status.worker] = abs(time.time() - status.at)
    online = ", ".join(f"{name} {age:.0f} s ago" for name, age in sorted(ages.items()))
    if not ages:
        report.skip("no worker is online here, or this user may not read f1/w/+")
    elif min(ages.values()) < waiting.STALE:
        report.ok(f"said 'online': {online}")
    else:
        advice = "all have ended, or are behind a bridge that is down: the log of the site's broker tells"
        report.warn(f"nobody has renewed a status: {online}", advice, _POOR)


_QUALITIES: dict[str, _Quality] = {
    "retained messages": _check_retained,
    "shared subscriptions": _check_shares,
    "reason codes": _check_reasons,
    "round trip": _check_round_trip,
}


def broker_checks(settings: LinkSettings, topic: str) -> list[Check]:
    """All checks of a broker.

    It answers, lets us in, keeps messages, shares them, tells reasons, answers at once; and who is behind it.
    """
    # Access rules spell out the topics that a user may write, so those of a user have fixed names.
    mark = "check" if settings.username is not None else secrets.token_hex(4)
    return [
        Check("broker", partial(reach, settings), without="the broker cannot be used"),
        Check("login", partial(_log_in, settings), ("broker",), "it does not let us in"),
        *(
            Check(name, partial(_allowed, probe, settings, f"{topic}/{mark}"), ("login",))
            for name, probe in _QUALITIES.items()
        ),
        Check("workers", partial(_check_workers, settings), ("login",)),
    ]
