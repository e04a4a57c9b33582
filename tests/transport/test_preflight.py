"""Preflight: errors that waiting cannot mend, such as an unfit broker, are reported before a model is loaded."""

import asyncio
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.deployment.certificates import make_certificates
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, ServerTls
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.codec import MAX_STATUS_BYTES
from flexspec_mq.errors import LinkRefused
from flexspec_mq.transport.base import LinkSettings, TlsSettings
from flexspec_mq.transport.diagnosis import preflight
from flexspec_mq.transport.mqtt import mqtt_link
from flexspec_mq.transport.needs import FOR_SESSIONS, BrokerLimits
from flexspec_mq.transport.properties import limits_in
from lab.simulator.world import EOS, FINGERPRINT
from lab.testbed.deployment import free_port
from schemas.messages import MAX_IN_FLIGHT
from tests.daemons import PATIENCE, FakeDrafter, FakeEngine
from tests.doctor.setups import answering
from tests.transport.reading import linked
from tests.transport.test_mqtt_strangers import CONNACK_311_TOO_NEW, stranger

NO_NAME = "broker..example"
"""No server of names can know it, whether there is one or not."""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    return make_certificates(tmp_path_factory.mktemp("tls"), ["broker.example", "10.9.8.7"])


@pytest.fixture(scope="module")
def broker(elsewhere: ServerTls) -> Iterator[PrivateBroker]:
    with PrivateBroker(BrokerSettings(port=0, tls=elsewhere)) as running:
        yield running


def told(
    port: int, host: str = "127.0.0.1", *, tls: TlsSettings | None = None, daemon: bool = True
) -> list[str]:
    said: list[str] = []
    preflight(LinkSettings(host=host, port=port, tls=tls, client_id="p"), said.append, daemon=daemon)
    return said


@pytest.mark.parametrize("daemon", [True, False])
def test_a_certificate_for_another_host_is_final_and_the_name_that_fits_is_said(
    broker: PrivateBroker, elsewhere: ServerTls, daemon: bool
) -> None:
    with pytest.raises(LinkRefused) as refused:
        told(broker.port, tls=TlsSettings(ca=elsewhere.ca), daemon=daemon)
    assert "it is for broker.example, 10.9.8.7, and we connect to 127.0.0.1" in refused.value.message
    assert f"--broker broker.example:{broker.port}" in refused.value.hint


def test_so_are_files_of_ours_and_a_broker_that_is_too_old(broker: PrivateBroker, tmp_path: Path) -> None:
    with pytest.raises(LinkRefused, match="cannot be used"):
        told(broker.port, tls=TlsSettings(ca=tmp_path / "none"))
    with answering(CONNACK_311_TOO_NEW) as port, pytest.raises(LinkRefused, match="does not speak MQTT 5"):
        told(port)


def test_an_unknown_name_ends_a_command_and_is_told_by_a_daemon() -> None:
    (line,) = told(1883, NO_NAME)
    assert f"the host name {NO_NAME} is not known here" in line
    with pytest.raises(LinkRefused, match="is not known here") as refused:
        told(1883, NO_NAME, daemon=False)
    assert "spelling of --broker" in refused.value.hint


@pytest.mark.parametrize("daemon", [True, False])
def test_a_broker_that_is_down_is_no_matter(daemon: bool) -> None:
    assert told(free_port(), daemon=daemon) == []


def test_what_may_change_is_told_only(broker: PrivateBroker, mosquitto: PrivateBroker) -> None:
    (line,) = told(broker.port)
    assert "speaks TLS, and we were told to connect without" in line
    assert told(mosquitto.port) == []


def test_it_is_bounded() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        assert told(silent.getsockname()[1], daemon=False) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("cloud_worker", "--target", "/no/such/model"),
        ("edge_node", "serve", "--draft", "/no/such/model", "--api-port", "0"),
        ("edge_node", "ask", "--draft", "/no/such/model", "hello"),
    ],
)
def test_commands_say_it_before_they_look_at_a_model(
    broker: PrivateBroker, elsewhere: ServerTls, arguments: tuple[str, ...]
) -> None:
    """A model that is missing has another exit code."""
    command = [sys.executable, "-m", *arguments]

    def ended(*flags: str) -> tuple[int, str]:
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=100, check=False)
        return done.returncode, done.stderr

    code, said = ended("--broker", f"127.0.0.1:{broker.port}", "--tls-ca", str(elsewhere.ca))
    assert (code, "it is for broker.example" in said) == (4, True), said
    code, said = ended("--broker", f"{NO_NAME}:1883", "--insecure")
    assert f"the host name {NO_NAME} is not known here" in said
    assert code == (4 if "ask" in arguments else 3), said


def connack(code: int = 0, **said: int | str) -> bytes:
    """As a broker writes it that says these of itself."""
    properties = Properties(PacketTypes.CONNACK)  # type: ignore[no-untyped-call]
    for name, value in said.items():
        setattr(properties, name, value)
    packed: bytes = properties.pack()  # type: ignore[no-untyped-call]
    rest = bytes((0, code)) + packed
    return bytes((0x20, len(rest))) + rest


POOR = [
    pytest.param(connack(SharedSubscriptionAvailable=0), ["no shared subscriptions"], id="like RabbitMQ"),
    pytest.param(connack(RetainAvailable=0), ["no retained messages"], id="retained"),
    pytest.param(connack(MaximumQoS=0), ["QoS 0 at most, and 1 is needed"], id="QoS"),
    pytest.param(connack(WildcardSubscriptionAvailable=0), ["no wildcards"], id="wildcards"),
    pytest.param(connack(MaximumPacketSize=4096), ["packets of 4096 bytes at most, and 17408"], id="packets"),
    pytest.param(connack(ReceiveMaximum=1), ["1 unacknowledged messages at a time, and 8"], id="in flight"),
    pytest.param(
        connack(SharedSubscriptionAvailable=0, RetainAvailable=0),
        ["no shared subscriptions", "no retained messages"],
        id="all at once",
    ),
    # Mosquitto refuses a will that it cannot keep; then nothing else of it can be told to a stranger.
    pytest.param(connack(0x9A), ["no retained messages"], id="a retained will"),
    pytest.param(connack(0x9B), ["QoS 0 at most"], id="a will at QoS 1"),
]


async def refused_by_worker(base: LinkSettings) -> LinkRefused:
    worker = CloudWorker(WorkerSettings(worker="w1"), FakeEngine())
    with pytest.raises(LinkRefused) as refused:
        await worker.run(mqtt_link, replace(base, client_id="w-w1", give_up_after=PATIENCE))
    assert not worker.ready.is_set()
    return refused.value


async def refused_by_edge(base: LinkSettings) -> LinkRefused:
    node = EdgeNode(EdgeSettings(edge="e1"), FakeDrafter(), FINGERPRINT, (EOS,))
    with pytest.raises(LinkRefused) as refused:
        async with node.running(mqtt_link, replace(base, client_id="e-e1", give_up_after=PATIENCE)):
            pass
    return refused.value


async def refused_by_all(base: LinkSettings) -> list[LinkRefused]:
    """Both daemons, and the look before they load anything."""
    with pytest.raises(LinkRefused) as looked:
        await asyncio.to_thread(preflight, base, print, daemon=True)
    return [looked.value, await refused_by_worker(base), await refused_by_edge(base)]


@pytest.mark.parametrize(("said", "words"), POOR)
async def test_what_a_broker_says_that_it_cannot_do(said: bytes, words: list[str]) -> None:
    async with stranger(v5=[said]) as port:
        for error in await refused_by_all(LinkSettings(port=port, client_id="any")):
            assert [error.message.count(part) for part in words] == [1] * len(words)
            assert f"127.0.0.1:{port} cannot do what is needed: it " in error.message
            assert "flexspec-broker check" in error.hint
            assert error.exit_code == 4


async def test_who_looks_for_what_is_wrong_connects_to_any_broker() -> None:
    poor = connack(SharedSubscriptionAvailable=0, MaximumQoS=0)
    async with stranger(v5=[poor]) as port, linked(LinkSettings(port=port, client_id="doctor")):
        pass


def test_the_needs_are_those_of_sessions_and_statuses() -> None:
    assert FOR_SESSIONS.receive_maximum == MAX_IN_FLIGHT
    assert FOR_SESSIONS.packet_size == MAX_STATUS_BYTES + 1024


def damaged() -> Iterator[bytes]:
    whole = connack(SharedSubscriptionAvailable=0, ReceiveMaximum=9, AssignedClientIdentifier="x" * 20)
    for length in range(len(whole)):
        yield whole[:length]
    draw = random.Random(1)
    for _ in range(2000):
        broken = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        yield bytes(broken)


def test_a_connack_that_cannot_be_read_tells_nothing() -> None:
    said = connack(SharedSubscriptionAvailable=0, ReceiveMaximum=9)
    assert limits_in(said) == BrokerLimits(receive_maximum=9, shares=False)
    assert limits_in(connack(0x87, SharedSubscriptionAvailable=0)) == BrokerLimits()
    assert {type(limits_in(one)) for one in damaged()} == {BrokerLimits}
