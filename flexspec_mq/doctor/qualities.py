"""Is a broker good enough? Tried over the wire, with connections of their own, as any client could."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from flexspec_mq.daemon.tasks import running
from flexspec_mq.doctor.findings import Findings
from flexspec_mq.errors import LinkError, LinkRefused
from flexspec_mq.transport.base import NO_SUBSCRIBERS, NOT_AUTHORIZED, Inbound, LinkSettings, Outbound
from flexspec_mq.transport.connection import Connection
from flexspec_mq.transport.diagnosis.diagnose import LOGIN_REFUSED, diagnose
from flexspec_mq.transport.silence import Silence

_LACKING, _POOR = "broker lacking", "broker slow or silent"
"""Faults: FlexSpec does not work with this broker; it works, but."""
_ROUNDS, _ROUNDS_COUNTED = 29, 9
_DELAYED_ACK = 0.035
"""Seconds by which QoS 1 is slower than QoS 0 where acknowledgements are delayed."""
_FAILURE = 0x80
_NO_LIMITS = "no limits announced"
_NEED_SHARES = "workers need shared subscriptions: use another broker"
USEFUL = ("reason codes", "round trip")
"""Without which FlexSpec works."""
_MESSAGES = 64
"""More than one check sends."""


class Probe(Connection):
    """One connection to a broker under test, with what it receives in a queue.

    Args:
        settings: where, and as whom; the client id is one of its own.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self.received: asyncio.Queue[Inbound] = asyncio.Queue(_MESSAGES)
        mine = replace(settings, client_id=f"flexspec-check-{secrets.token_hex(4)}")
        super().__init__(mine, lambda _topic, _size: True, self.received.put_nowait, Silence(0.0))

    async def publish_code(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        """Publish and return the acknowledgement's reason code."""
        return await self.send(Outbound(topic, payload, qos, retain))

    async def echo(self, topic: str, qos: int) -> None:
        """Send back on `topic` whatever comes; until cancelled, or the connection fails."""
        while True:
            message = await self.received.get()
            await self.publish_code(topic, message.payload, qos=qos)

    def limits_in_words(self) -> str:
        """What the broker announced in its CONNACK, under the names of the standard."""
        said = (
            ("ReceiveMaximum", self.limits.receive_maximum, 65_535),
            ("MaximumPacketSize", self.limits.packet_size, None),
            ("MaximumQoS", self.limits.qos, 2),
        )
        return ", ".join(f"{name} {value}" for name, value, unsaid in said if value != unsaid) or _NO_LIMITS

    async def next(self) -> Inbound | None:
        """The next message; None if none comes in time."""
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


async def check_broker(findings: Findings, settings: LinkSettings, topic: str) -> None:
    """Whether a broker answers, speaks MQTT 5, lets us in and has all qualities; ends early where it does not.

    Args:
        findings: to add to.
        settings: where, as whom, and for how long to wait for each answer.
        topic: prefix that this user may write to and read.

    Raises:
        LinkError: it stopped answering half-way.
    """
    cause = await asyncio.to_thread(diagnose, settings)
    if cause is not None and not cause.reached:
        findings.fail("reachable", cause.fault, cause.detail, cause.advice)
        return
    findings.ok("reachable", settings.address)
    if cause is not None and cause.fault != LOGIN_REFUSED:
        findings.fail("MQTT 5", cause.fault, cause.detail, cause.advice)
        return
    try:
        async with _probe(settings) as probe:
            findings.ok("MQTT 5", probe.limits_in_words())
            findings.ok("login", settings.username or "anonymous")
    except LinkRefused as error:
        findings.ok("MQTT 5", _NO_LIMITS)
        advice = "give --username and --password-file" if settings.username is None else error.hint
        findings.fail("login", "login refused", error.message, advice)
        return
    await check_qualities(findings, settings, topic)


async def check_qualities(findings: Findings, settings: LinkSettings, topic: str) -> None:
    """Whether a broker that lets us in keeps messages, shares, tells reasons and answers at once.

    Args: as `check_broker` has them.

    Raises:
        LinkError: it stopped answering half-way.
    """
    done = "login"
    # Access rules spell out the topics that a user may write, so those of a user have fixed names.
    mark = "check" if settings.username is not None else secrets.token_hex(4)
    for name, check in _CHECKS.items():
        try:
            await check(findings, settings, f"{topic}/{mark}")
        except LinkError as error:
            raise LinkError(
                f"the broker at {settings.address} stopped answering after: {done} ({error.message})",
                hint="look into its log; give it more time on a slow network",
            ) from error
        done = name


async def _check_retained(findings: Findings, settings: LinkSettings, topic: str) -> None:
    name, kept = "retained messages", b"kept"
    async with _probe(settings) as writer, _probe(settings) as reader:
        code = await writer.publish_code(topic, kept, retain=True)
        if code >= _FAILURE:
            _forbidden(findings, name, topic, code)
            return
        message = None
        try:
            await reader.subscribe_all({topic: 1})
            message = await reader.next()
        except LinkRefused as error:
            _forbidden(findings, name, topic, error.message)
            return
        finally:
            await writer.publish_code(topic, b"", retain=True)
    if message is not None and message.retain and message.payload == kept:
        findings.ok(name, "kept and delivered")
    else:
        findings.fail(name, _LACKING, "not delivered", "turn retained messages on")


async def _check_shares(findings: Findings, settings: LinkSettings, topic: str) -> None:
    name, sent = "shared subscriptions", 4
    async with _probe(settings) as writer, _probe(settings) as one, _probe(settings) as two:
        try:
            for member in (one, two):
                await member.subscribe_all({f"$share/check/{topic}": 1})
        except LinkRefused as error:
            findings.fail(name, _LACKING, error.message, _NEED_SHARES)
            return
        for i in range(sent):
            code = await writer.publish_code(topic, bytes((i,)))
            if code >= _FAILURE:
                _forbidden(findings, name, topic, code)
                return
        end = time.monotonic() + settings.publish_timeout
        while one.received.qsize() + two.received.qsize() < sent and time.monotonic() < end:  # noqa: ASYNC110  two queues
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # a broker without shares would deliver each message twice
        shares = one.received.qsize(), two.received.qsize()
    detail = f"{sent} messages: {shares[0]} + {shares[1]}"
    if sum(shares) == sent:
        findings.ok(name, detail)
    else:
        findings.fail(name, _LACKING, detail, _NEED_SHARES)


async def _check_reasons(findings: Findings, settings: LinkSettings, topic: str) -> None:
    name = "reason codes"
    async with _probe(settings) as writer:
        code = await writer.publish_code(topic, b"anybody?")
    if code == NOT_AUTHORIZED:
        _forbidden(findings, name, topic, code)
    elif code == NO_SUBSCRIBERS:
        findings.ok(name, "tells when nobody subscribes")
    else:
        detail = f"does not tell when nobody subscribes (0x{code:02x})"
        findings.warn(name, detail, "a missing worker is then noticed by a time-out only", _POOR)


async def _check_round_trip(findings: Findings, settings: LinkSettings, topic: str) -> None:
    """Time out and back again between two clients, as drafts and verdicts travel.

    A sender with Nagle's algorithm on waits for the acknowledgement of its last small packet, and a receiver
    with nothing to say delays that by 40 ms, once the kernel has left its quick start of some 16 packets.
    """
    name = "round trip"
    async with _probe(settings) as here, _probe(settings) as there:
        await here.subscribe_all({f"{topic}b": 1})
        await there.subscribe_all({f"{topic}a": 1})
        medians = []
        for qos in (1, 0):
            async with running(there.echo(f"{topic}b", qos), "echo"):
                times = []
                for _ in range(_ROUNDS):
                    start = time.perf_counter()
                    code = await here.publish_code(f"{topic}a", b"x" * 40, qos=qos)
                    if code >= _FAILURE:
                        _forbidden(findings, name, topic, code)
                        return
                    if await here.next() is None:
                        raise LinkError("an answer did not arrive")
                    times.append(time.perf_counter() - start)
            medians.append(statistics.median(times[-_ROUNDS_COUNTED:]))
    detail = f"QoS 0 {medians[1] * 1e3:.1f} ms, QoS 1 {medians[0] * 1e3:.1f} ms"
    if medians[0] - medians[1] < _DELAYED_ACK:
        findings.ok(name, detail)
    else:
        advice = "its sockets wait for delayed acknowledgements: in Mosquitto, `set_tcp_nodelay true`"
        findings.warn(name, detail, advice, _POOR)


def _forbidden(findings: Findings, name: str, topic: str, why: int | str) -> None:
    """The access rules do not let us try it: the code of a publish that was refused, or words."""
    said = why if isinstance(why, str) else f"publishing was refused (0x{why:02x})"
    prefix = topic.rpartition("/")[0]
    advice = f"give a user that may write and read {prefix}/#, or another --topic"
    findings.fail(name, _LACKING, said, advice)


def own_prefix(username: str | None) -> str:
    """Of the topics that our access rules let any user write and read, and on which nobody lives."""
    return "f1/check" if username is None else f"f1/r/{username}"


_CHECKS: dict[str, Callable[[Findings, LinkSettings, str], Awaitable[None]]] = {
    "retained messages": _check_retained,
    "shared subscriptions": _check_shares,
    "reason codes": _check_reasons,
    "round trip": _check_round_trip,
}
