"""Planted faults on the way to the broker: it is down, on another port, too old, or speaks TLS in another way."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.deployment.certificates import CA, CA_KEY, make_certificates
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, ServerTls
from flexspec_mq.doctor.checks import State
from flexspec_mq.transport.base import LinkSettings, TlsSettings
from flexspec_mq.transport.diagnosis.diagnose import Cause, diagnose
from lab.testbed.deployment import free_port
from tests.doctor.setups import answering, at, look, named, the_fault


def cause(port: int, host: str = "127.0.0.1", tls: TlsSettings | None = None, wait: float = 3.0) -> Cause:
    found = diagnose(LinkSettings(host=host, port=port, tls=tls, client_id="d", connect_timeout=wait))
    assert found is not None
    return found


# Broker down


async def test_broker_down() -> None:
    findings = await look(f"127.0.0.1:{free_port()}")
    found = the_fault(findings, "broker down")
    assert "nothing listens" in found.detail
    assert "flexspec-broker run" in found.advice
    assert found.exit_code == 4
    skipped = {one.name for one in findings if one.state is State.SKIPPED}
    assert skipped == {
        *("login", "name", "access", "exposure", "worker", "tokenizer", "clock", "text"),
    }
    assert named(findings, "model").state is State.OK  # what can be checked is checked all the same


async def test_a_host_name_that_is_not_known() -> None:
    found = the_fault(await look("no-such-host.invalid:1883"), "broker down")
    assert "no-such-host.invalid is not known" in found.detail
    assert "DNS" in found.advice


def test_a_host_that_does_not_answer() -> None:
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # the kernel drops what it has no room for, as a firewall does
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        found = cause(full.getsockname()[1], wait=0.5)
    assert found.fault == "broker down"
    assert "did not answer within 0.5 s" in found.detail
    assert "firewall" in found.advice


# Wrong port


@pytest.mark.parametrize(
    ("answer", "what"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "web server"), (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH server")],
)
async def test_wrong_port(answer: bytes, what: str) -> None:
    with answering(answer) as port:
        found = the_fault(await look(f"127.0.0.1:{port}"), "wrong port")
    assert "is no MQTT broker" in found.detail
    assert what in found.detail
    assert "1883" in found.advice
    assert found.exit_code == 4


# 3.1.1 only


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00"], ids=["3.1.1", "refuses 5"])
async def test_a_broker_of_mqtt_3_1_1_only(answer: bytes) -> None:
    with answering(answer) as port:
        found = the_fault(await look(f"127.0.0.1:{port}"), "3.1.1 only")
    assert "does not speak MQTT 5" in found.detail
    assert "Mosquitto" in found.advice
    assert found.exit_code == 4


# TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    return make_certificates(tmp_path_factory.mktemp("tls"), ["localhost", "127.0.0.1"])


@pytest.fixture(scope="module")
def secured(tls: ServerTls) -> Iterator[PrivateBroker]:
    with PrivateBroker(BrokerSettings(port=0, tls=tls)) as broker:
        yield broker


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def signed(tls: ServerTls, folder: Path, name: str, *dates: str) -> tuple[Path, Path]:
    """A certificate of the same authority for a name."""
    key, asks, certificate = folder / "k.pem", folder / "k.csr", folder / "k.crt"
    ca = tls.ca.parent
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key))
    openssl("req", "-new", "-key", str(key), "-subj", f"/CN={name}", "-out", str(asks))
    extensions = folder / "ext"
    extensions.write_text(f"subjectAltName=DNS:{name},IP:127.0.0.1\n")
    database = folder / "index.txt"
    database.touch()
    config = folder / "ca.cnf"
    config.write_text(
        f"[ca]\ndefault_ca=c\n[c]\nnew_certs_dir={folder}\ndatabase={database}\ndefault_md=sha256\n"
        "rand_serial=yes\npolicy=p\n[p]\ncommonName=supplied\n"
    )
    times = ("-startdate", dates[0], "-enddate", dates[1]) if dates else ("-days", "30")
    openssl(
        *("ca", "-batch", "-config", str(config), "-cert", str(ca / CA), "-keyfile", str(ca / CA_KEY)),
        *("-in", str(asks), "-out", str(certificate), "-extfile", str(extensions), "-notext", *times),
    )
    return certificate, key


async def test_tls_mismatch(
    secured: PrivateBroker, mosquitto: PrivateBroker, tls: ServerTls, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path / "other", ["localhost"])
    (tmp_path / "none.crt").write_text("this is no certificate\n")
    for broker, ca, detail, advice in (
        (secured, None, "speaks TLS", "--tls-ca"),
        (mosquitto, tls.ca, "a port without TLS", "8883"),
        (secured, other.ca, "was not signed by the authority in", "ca.crt"),
        (secured, tmp_path / "none.crt", "cannot be used", "PEM"),
    ):
        found = the_fault(await look(at(broker), *(("--tls-ca", str(ca)) if ca else ())), "TLS mismatch")
        assert detail in found.detail
        assert advice in found.advice
        assert found.exit_code == 4


async def test_tls_mismatch_another_host_name(tmp_path: Path) -> None:
    elsewhere = make_certificates(tmp_path, ["broker.example"])
    with PrivateBroker(BrokerSettings(port=0, tls=elsewhere)) as broker:
        found = the_fault(await look(at(broker), "--tls-ca", str(elsewhere.ca)), "TLS mismatch")
        assert "it is for broker.example, and we connect to 127.0.0.1" in found.detail
        assert f"--broker broker.example:{broker.port}" in found.advice


@pytest.mark.parametrize(
    ("since", "until", "words"),
    [
        ("20200101000000Z", "20210101000000Z", "expired on 2021-01-01 00:00 UTC"),
        ("20990101000000Z", "21000101000000Z", "is not valid before 2099-01-01 00:00 UTC"),
    ],
)
async def test_tls_mismatch_dates(tls: ServerTls, tmp_path: Path, since: str, until: str, words: str) -> None:
    certificate, key = signed(tls, tmp_path, "localhost", since, until)
    with PrivateBroker(BrokerSettings(port=0, tls=ServerTls(tls.ca, certificate, key))) as broker:
        found = the_fault(await look(at(broker), "--tls-ca", str(tls.ca)), "TLS mismatch")
    assert words in found.detail
    assert "this machine's clock says 20" in found.detail
    assert "timedatectl" in found.advice
    assert "new certificate" in found.advice


async def test_tls_mismatch_the_broker_wants_a_certificate_of_ours(tls: ServerTls, tmp_path: Path) -> None:
    strict = ServerTls(tls.ca, tls.certificate, tls.key, require_client_certificates=True)
    with PrivateBroker(BrokerSettings(port=0, tls=strict)) as broker:
        found = the_fault(await look(at(broker), "--tls-ca", str(tls.ca)), "TLS mismatch")
        assert "asks for a client certificate, and we have none" in found.detail
        assert "--tls-cert" in found.advice
        other = make_certificates(tmp_path / "other", ["device"])
        flags = ("--tls-cert", str(other.certificate), "--tls-key", str(other.key))
        found = the_fault(await look(at(broker), "--tls-ca", str(tls.ca), *flags), "TLS mismatch")
        assert "does not accept our client certificate" in found.detail
        certificate, key = signed(tls, tmp_path, "device")
        flags = ("--tls-cert", str(certificate), "--tls-key", str(key))
        findings = await look(at(broker), "--tls-ca", str(tls.ca), *flags)
        assert named(findings, "broker").state is State.OK
        assert named(findings, "login").state is State.OK
