"""Peers that are no MQTT 5 broker, or say no in unusual ways."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.deployment.certificates import files_in, make_certificates
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings
from flexspec_mq.errors import LinkError, LinkRefused, PublishRefused
from flexspec_mq.transport.base import LinkSettings, Subscription, TlsSettings
from flexspec_mq.transport.diagnosis import preflight
from flexspec_mq.transport.mqtt import mqtt_link
from tests.transport.reading import PATIENCE, linked

VERSION_BYTE = 8
HANG_UP = None
CONNACK_5 = bytes((0x20, 3, 0, 0, 0))
CONNACK_5_POOR = bytes((0x20, 7, 0, 0, 4, 0x24, 0, 0x25, 0))  # Maximum QoS 0, Retain Available 0
CONNACK_311_TOO_NEW = bytes((0x20, 2, 0, 1))
CONNACK_311_WELCOME = bytes((0x20, 2, 0, 0))
CONNACK_5_BUSY = bytes((0x20, 3, 0, 0x89, 0))
SUBACK_NO_SHARES = bytes((0x90, 4, 0, 1, 0, 0x9E))
GOODBYE_NO_SHARES = bytes((0xE0, 2, 0x9E, 0))  # as ejabberd 24.12 does
HTTP = b"HTTP/1.1 400 Bad Request\r\n\r\n"


@asynccontextmanager
async def stranger(*, v5: Sequence[bytes] | None, v311: bytes | None = HANG_UP) -> AsyncIterator[int]:
    """Answer each packet with the next of `v5`, or a CONNECT of 3.1.1 with `v311`; None hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.read(4096)
            old = len(first) > VERSION_BYTE and first[VERSION_BYTE] == 4
            answers = ([v311] if v311 else []) if old else list(v5 or ())
            for answer in answers:
                writer.write(answer)
                await writer.drain()
                if not await reader.read(4096):
                    return
        except ConnectionError:
            return
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def settings_for(port: int, **more: Any) -> LinkSettings:
    return LinkSettings(
        port=port, client_id="guest", backoff=0.02, backoff_max=0.05, connect_timeout=1.0, **more
    )


async def failure_of(settings: LinkSettings) -> LinkError:
    async with mqtt_link(settings) as link:
        with pytest.raises(LinkError) as failed:
            await link.wait_up(PATIENCE)
        assert not link.is_up
    return failed.value


@pytest.mark.parametrize(
    ("v5", "v311"),
    [
        pytest.param([CONNACK_311_TOO_NEW], CONNACK_311_WELCOME, id="says so in 3.1.1"),
        pytest.param(None, CONNACK_311_WELCOME, id="hangs up on version 5"),
    ],
)
async def test_a_broker_that_is_too_old(v5: Sequence[bytes] | None, v311: bytes) -> None:
    async with stranger(v5=v5, v311=v311) as port:
        error = await failure_of(settings_for(port))
    assert isinstance(error, LinkRefused)
    assert "does not speak MQTT 5" in error.message
    assert "Mosquitto" in error.hint


@pytest.mark.parametrize(
    ("v5", "v311", "words"),
    [
        pytest.param(None, HANG_UP, "hung up before CONNACK", id="a load balancer without a broker"),
        pytest.param([CONNACK_5_BUSY], HANG_UP, "busy", id="a busy broker"),
        pytest.param([HTTP], HTTP, "is it an MQTT broker", id="a web server"),
    ],
)
async def test_what_may_be_better_later_is_tried_again(
    v5: Sequence[bytes] | None, v311: bytes | None, words: str
) -> None:
    async with stranger(v5=v5, v311=v311) as port:
        error = await failure_of(settings_for(port, give_up_after=0.3))
    assert not isinstance(error, LinkRefused)
    assert words in error.message + error.hint


async def test_a_broker_that_hung_up_once_is_not_called_too_old() -> None:
    """It speaks both versions, and its connection broke just when we said CONNECT."""
    connects = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connects
        connects += 1
        try:
            first = await reader.read(4096)
            if connects > 1:
                writer.write(CONNACK_311_WELCOME if first[VERSION_BYTE] == 4 else CONNACK_5)
                await reader.read(4096)
        except ConnectionError:
            return
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    settings, said = settings_for(server.sockets[0].getsockname()[1]), list[str]()
    async with server, linked(settings) as link:
        assert link.counters.attempts_failed == 1
        connects = 0
        await asyncio.to_thread(preflight, settings, said.append, daemon=False)
    assert "hangs up when it is asked for MQTT" in said[0]


@pytest.mark.parametrize("answer", [SUBACK_NO_SHARES, GOODBYE_NO_SHARES])
async def test_a_broker_without_shared_subscriptions_is_refused(answer: bytes) -> None:
    wanted = (Subscription("$share/w/f1/o/+"),)
    async with stranger(v5=[CONNACK_5, answer]) as port:
        error = await failure_of(settings_for(port, subscriptions=wanted))
    assert isinstance(error, LinkRefused)
    assert "no shared subscriptions" in error.hint


async def test_a_poor_brokers_limits_are_told_before_sending() -> None:
    async with stranger(v5=[CONNACK_5_POOR]) as port, linked(settings_for(port)) as link:
        for qos, retain, code in ((1, False, 0x9B), (0, True, 0x9A)):
            with pytest.raises(PublishRefused) as refused:
                await link.publish("x", b"", qos=qos, retain=retain)
            assert refused.value.reason_code == code


async def test_tls_is_checked_both_ways(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path / "ours", ["localhost"])
    other = make_certificates(tmp_path / "theirs", ["localhost"])
    with PrivateBroker(BrokerSettings(port=0, tls=tls)) as secure:
        good = settings_for(secure.port, host="localhost", tls=TlsSettings(ca=tls.ca))
        async with linked(good) as link:
            await link.subscribe("s", 1)
            await link.publish("s", bytes(100_000), qos=1)

        error = await failure_of(settings_for(secure.port, host="localhost", tls=TlsSettings(ca=other.ca)))
        assert isinstance(error, LinkRefused)
        assert "not trusted" in error.message

        error = await failure_of(settings_for(secure.port, host="127.0.0.1", tls=TlsSettings(ca=tls.ca)))
        assert isinstance(error, LinkRefused)  # the certificate is for another name

        error = await failure_of(settings_for(secure.port, host="localhost", give_up_after=0.1))
        assert "plain TCP" in error.hint


async def test_tls_to_a_plain_port_and_missing_files(tmp_path: Path, mosquitto: PrivateBroker) -> None:
    ca = make_certificates(tmp_path, ["localhost"]).ca
    error = await failure_of(settings_for(mosquitto.port, tls=TlsSettings(ca=ca), give_up_after=0.1))
    assert "TLS port" in error.hint
    error = await failure_of(settings_for(mosquitto.port, tls=TlsSettings(ca=tmp_path / "missing")))
    assert isinstance(error, LinkRefused)
    assert "missing" in error.message


async def test_a_tls_broker_that_hangs_up_is_asked_again_over_tls(tmp_path: Path) -> None:
    """A broker that requires a client certificate closes the connection just so, after the handshake."""
    tls = make_certificates(tmp_path, ["127.0.0.1"])
    strict = files_in(tls.ca.parent, client_certificates=True)
    with PrivateBroker(BrokerSettings(port=0, tls=strict)) as broker:
        error = await failure_of(settings_for(broker.port, give_up_after=0.3, tls=TlsSettings(tls.ca)))
    assert not isinstance(error, LinkRefused)
    assert "hung up before CONNACK" in error.message
