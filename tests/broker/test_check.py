"""`check` tells a good broker from one that is not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from broker.check import Finding, Target, check
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User

pytestmark = pytest.mark.alone


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_ours_is_good(mosquitto: PrivateBroker) -> None:
    findings = check(Target(mosquitto.host, mosquitto.port))
    assert [f.name for f in findings if not f.ok] == []
    assert set(by_name(findings)) == {
        "reachable",
        "MQTT 5",
        "login",
        "retained messages",
        "shared subscriptions",
        "reason codes",
        "round trip",
    }


def test_nagle_at_the_broker_is_noticed() -> None:
    with PrivateBroker(BrokerSettings(port=0, nodelay=False)) as slow:
        finding = by_name(check(Target(slow.host, slow.port)))["round trip"]
    assert not finding.ok
    assert not finding.needed
    assert "set_tcp_nodelay" in finding.advice


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (finding,) = check(Target("127.0.0.1", port))
    assert not finding.ok
    assert "flexspec-broker run" in finding.advice


def test_login_and_access_rules() -> None:
    with PrivateBroker(BrokerSettings(port=0, users=(User("alice", Role.EDGE, "right"),))) as closed:
        refused = check(Target(closed.host, closed.port, "alice", "wrong"))
        assert not refused[-1].ok
        assert refused[-1].name == "login"
        limited = by_name(check(Target(closed.host, closed.port, "alice", "right")))
        assert limited["login"].ok
        assert not limited["retained messages"].ok
        assert "--topic" in limited["retained messages"].advice
        own = by_name(check(Target(closed.host, closed.port, "alice", "right", topic="f1/r/alice")))
        assert own["retained messages"].ok


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A listener that gives every connection the same answer to its first packet, then hangs up."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)
                    connection.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("answer", [bytes((0x20, 2, 0, 1)), bytes((0x20, 3, 0, 0x84, 0))])
def test_a_broker_that_is_too_old(answer: bytes) -> None:
    with answering(answer) as port:
        findings = by_name(check(Target("127.0.0.1", port, timeout=1.0)))
    assert findings["reachable"].ok
    assert not findings["MQTT 5"].ok
    assert "Mosquitto" in findings["MQTT 5"].advice


def test_something_that_is_no_broker() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        findings = by_name(check(Target("127.0.0.1", port, timeout=0.5)))
    assert not findings["MQTT 5"].ok
    assert "MQTT port" in findings["MQTT 5"].advice
