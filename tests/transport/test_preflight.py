"""What no patience mends is said before a model is loaded; what may change ends nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.deployment.certificates import make_certificates
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, ServerTls
from flexspec_mq.errors import LinkRefused
from flexspec_mq.transport.base import LinkSettings, TlsSettings
from flexspec_mq.transport.diagnosis import preflight
from lab.testbed.deployment import free_port
from tests.doctor.setups import answering

NO_NAME = "broker..example"
"""No server of names can know it, whether there is one or not."""
OLDER_CONNACK = bytes((0x20, 2, 0, 1))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    return make_certificates(tmp_path_factory.mktemp("tls"), ["broker.example"])


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
    assert "it is for broker.example, and we connect to 127.0.0.1" in refused.value.message
    assert f"--broker broker.example:{broker.port}" in refused.value.hint


def test_so_are_files_of_ours_and_a_broker_that_is_too_old(broker: PrivateBroker, tmp_path: Path) -> None:
    with pytest.raises(LinkRefused, match="cannot be used"):
        told(broker.port, tls=TlsSettings(ca=tmp_path / "none"))
    with answering(OLDER_CONNACK) as port, pytest.raises(LinkRefused, match="does not speak MQTT 5"):
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
        began = time.monotonic()
        assert told(silent.getsockname()[1], daemon=False) == []
        assert time.monotonic() - began < 4.0


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
    code, said = ended("--broker", f"{NO_NAME}:1883")
    assert f"the host name {NO_NAME} is not known here" in said
    assert code == (4 if "ask" in arguments else 3), said
