"""Planted faults on the way to the broker, and what is open there that should not be."""

import shutil
import socket
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker.deployment.certificates import (
    files_in,
    make_certificates,
    make_client_certificate,
    make_server_certificate,
)
from broker.files import write_private
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, ServerTls
from flexspec_mq.catalogue.options import FamilyOptions
from flexspec_mq.doctor.checks import State
from flexspec_mq.doctor.daemon import DaemonDoctor
from flexspec_mq.transport.base import LinkSettings, TlsSettings
from flexspec_mq.transport.diagnosis import diagnose
from lab.testbed.deployment import free_port
from tests.doctor.setups import answering, at, look, named, the_fault


def the_cause(fault: str, detail: str, advice: str, port: int, **settings: Any) -> None:
    """Whatever keeps a link with these settings from a broker is this."""
    cause = diagnose(LinkSettings(port=port, client_id="d", **settings))
    assert cause is not None
    assert cause.fault == fault
    assert detail in cause.detail
    assert advice in cause.advice


async def test_broker_down() -> None:
    findings = await look(f"127.0.0.1:{free_port()}")
    the_fault(findings, "broker down", "nothing listens", advice=["flexspec-broker run"])
    skipped = {finding.name for finding in findings if finding.state is State.SKIPPED}
    assert skipped == {"login", "name", "access", "exposure", "worker", "tokenizer", "clock", "text"}
    assert named(findings, "model").state is State.OK  # what can be checked is checked all the same


def test_a_host_that_is_not_known_or_does_not_answer() -> None:
    the_cause("broker down", "no-such-host.invalid is not known", "DNS", 1883, host="no-such-host.invalid")
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # the kernel drops what it has no room for, as a firewall does
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        port = full.getsockname()[1]
        the_cause("broker down", "did not answer within 0.5 s", "firewall", port, connect_timeout=0.5)


@pytest.mark.parametrize(
    ("answer", "fault", "detail", "advice"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "wrong port", "as a web server does", "usually 1883"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "wrong port", "as an SSH server does", "usually 1883"),
        (b"\x20\x02\x00\x01", "3.1.1 only", "does not speak MQTT 5", "Mosquitto"),
        (b"\x20\x03\x00\x84\x00", "3.1.1 only", "does not speak MQTT 5", "Mosquitto"),
    ],
    ids=["HTTP", "SSH", "3.1.1", "5 is refused"],
)
def test_what_is_no_broker_of_mqtt_5(answer: bytes, fault: str, detail: str, advice: str) -> None:
    with answering(answer) as port:
        the_cause(fault, detail, advice, port)


# TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    return make_certificates(tmp_path_factory.mktemp("tls"), ["localhost", "127.0.0.1"])


def test_tls_mismatch(mosquitto: PrivateBroker, tls: ServerTls, tmp_path: Path) -> None:
    other = make_certificates(tmp_path / "other", ["localhost"])
    (tmp_path / "none.crt").write_text("this is no certificate\n")
    with PrivateBroker(BrokerSettings(port=0, tls=tls)) as secured:
        for broker, ca, detail, advice in (
            (secured, None, "speaks TLS", "--tls-ca"),
            (mosquitto, tls.ca, "a port without TLS", "8883"),
            (secured, other.ca, "signed by 'FlexSpec private CA', is not trusted", "ca.crt"),
            (secured, tmp_path / "none.crt", "cannot be used", "PEM"),
        ):
            the_cause("TLS mismatch", detail, advice, broker.port, tls=ca and TlsSettings(ca=ca))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (datetime(2018, 1, 1, tzinfo=UTC), "expired on 2020-04-05 00:00 UTC, and this machine's clock says 20"),
        (datetime(2099, 1, 1, 0, 5, tzinfo=UTC), "is not valid before 2099-01-01 00:00 UTC, and this machine's"),
    ],
)  # fmt: skip
def test_tls_mismatch_dates(
    tls: ServerTls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: datetime, words: str
) -> None:
    folder = shutil.copytree(tls.ca.parent, tmp_path / "tls")
    with monkeypatch.context() as patch:
        patch.setattr("broker.deployment.certificates.datetime", SimpleNamespace(now=lambda _zone: made))
        make_server_certificate(folder, ["localhost", "127.0.0.1"])
    with PrivateBroker(BrokerSettings(port=0, tls=files_in(folder))) as broker:
        the_cause(
            "TLS mismatch",
            words,
            "if it is right, make a new certificate",
            broker.port,
            tls=TlsSettings(ca=tls.ca),
        )


async def test_tls_mismatch_the_broker_wants_a_certificate_of_ours(tls: ServerTls, tmp_path: Path) -> None:
    other = make_certificates(tmp_path / "other", ["device"])
    certificate, key = tmp_path / "device.crt", tmp_path / "device.key"
    make_client_certificate(tls.ca.parent, "device", certificate, key)
    strict = files_in(tls.ca.parent, client_certificates=True)
    with PrivateBroker(BrokerSettings(port=0, tls=strict)) as broker:
        for files, detail, advice in (
            ((), "asks for a client certificate, and we have none", "--tls-cert"),
            ((other.certificate, other.key), "does not accept our client certificate", "sign a new one"),
        ):
            the_cause("TLS mismatch", detail, advice, broker.port, tls=TlsSettings(tls.ca, *files))
        flags = ("--tls-ca", str(tls.ca), "--tls-cert", str(certificate), "--tls-key", str(key))
        findings = await look(at(broker), *flags)
        assert (named(findings, "broker").state, named(findings, "login").state) == (State.OK, State.OK)


def as_truck(**more: Any) -> LinkSettings:
    return LinkSettings(client_id="c", username="truck", password="x", **more)  # noqa: S106  no secret


def warnings(settings: LinkSettings, *files: Path, **more: Any) -> list[str]:
    """All that is open in a setup, at a broker that lets a user write where only another may."""
    doctor = DaemonDoctor("truck", settings, "f1/e/truck", "base", FamilyOptions(), listening=0.0)
    vars(doctor).update(secrets=files, **more)
    found = doctor.exposures("" if settings.username is None else "f1/e/another")
    assert {warned.fault for warned in found} <= {"open deployment"}
    return [warned.message for warned in found]


def test_a_private_broker_is_not_open() -> None:
    assert warnings(LinkSettings(client_id="c")) == []


def test_beyond_this_machine() -> None:
    plain, anonymous, unkeyed = warnings(LinkSettings(client_id="c", host="broker.example"))
    assert "has no TLS" in plain
    assert "lets in anybody" in anonymous
    assert "no keys are used" in unkeyed
    over_tls = as_truck(host="broker.example", tls=TlsSettings())
    (rules,) = warnings(over_tls, keys=Path("/no/such/keys.json"))
    assert "write where only another may" in rules
    assert len(warnings(over_tls)) == 2


def test_secrets_that_others_can_read(tmp_path: Path) -> None:
    hidden, shown = tmp_path / "hidden", tmp_path / "shown"
    write_private(hidden, "x")
    shown.write_text("x")
    shown.chmod(0o640)
    assert warnings(LinkSettings(client_id="c"), hidden, shown) == [
        f"others on this machine can read {shown}"
    ]


def test_the_group_that_everybody_knows() -> None:
    assert any("take sessions away" in said for said in warnings(as_truck(), public_group=True))
    assert warnings(LinkSettings(client_id="c"), public_group=True) == []
