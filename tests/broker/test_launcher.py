"""Private brokers start, end and leave nothing behind; whoever runs one publishes by a socket of its own."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from broker.announcing import Announcer
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User, hashed
from flexspec_mq import waiting
from flexspec_mq.errors import BrokerError
from flexspec_mq.transport.base import Inbound, LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from tests.daemons import until


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def test_it_listens_on_loopback_only() -> None:
    with PrivateBroker() as broker:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        wanted = f":{broker.port:04X}"
        listening = [line.split()[1] for line in lines if line.split()[1].endswith(wanted) and " 0A " in line]
        assert listening == [f"0100007F{wanted}"]


def test_it_may_have_as_many_files_open_as_connections(caplog: pytest.LogCaptureFixture) -> None:
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    try:
        for connections, warns in ((300, False), (most, True)):
            with PrivateBroker(BrokerSettings(connections=connections)) as broker:
                assert broker.pid is not None
                assert resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)[0] >= connections
            assert ("raise the limit" in caplog.text) is warns
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (now, most))


def test_a_taken_port_is_told_and_not_mistaken_for_ours() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match=f"listens on 127.0.0.1:{port} already"):
            PrivateBroker(BrokerSettings(port=port)).start()


def test_a_broker_that_ends_at_once_says_why() -> None:
    with pytest.raises(BrokerError, match="ended with code") as failed:
        PrivateBroker(BrokerSettings(port=0, session_expiry="soon")).start()
    assert "persistent_client_expiration" in failed.value.hint


def test_it_ends_with_a_parent_that_crashes(tmp_path: Path) -> None:
    code = (
        "import os; from broker.launcher import PrivateBroker\n"
        "broker = PrivateBroker(); broker.start(); print(broker.port, broker.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    port, _pid = (int(word) for word in done.stdout.split())
    asyncio.run(until(lambda: not answers(port)))


ALICE = User("alice", Role.EDGE, hashed("of-alice"))


async def test_what_it_publishes_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with Announcer() as announcer:
        settings = BrokerSettings(
            port=0, users=(ALICE, announcer.user), own_socket=announcer.socket, max_packet=1024
        )
        broker = PrivateBroker(settings)
        # It may be asked before Mosquitto is there.
        early = threading.Thread(target=announcer.publish, args=("f1/i", b"first"))
        early.start()
        with broker:
            early.join(20)
            as_alice = LinkSettings(port=broker.port, client_id="c", username="alice", password="of-alice")  # noqa: S106
            async with mqtt_link(as_alice) as link:
                await link.subscribe("f1/i", 1)
                found = []
                async for event in link.events():
                    if isinstance(event, Inbound):
                        found.append((event.payload, event.retain))
                        if len(found) == 2:
                            break
                        announcer.publish("f1/i", b"second")
            assert found == [(b"first", True), (b"second", False)]
            with pytest.raises(
                BrokerError, match="refused what is to be published on f1/v/alice: Not authorized"
            ):
                announcer.publish("f1/v/alice", b"forged")
            monkeypatch.setattr(waiting, "CONNECT", 3600.0)  # which is not waited for
            with pytest.raises(BrokerError, match="did not take 2000 bytes") as too_large:
                announcer.publish("f1/i", bytes(2000))
            assert "max_packet" in too_large.value.hint
        monkeypatch.setattr(waiting, "CONNECT", 0.1)
        with pytest.raises(BrokerError, match="cannot be reached"):
            announcer.publish("f1/i", b"third")
    assert not announcer.socket.parent.exists()


def test_a_mosquitto_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "CONNECT", 0.3)
    with Announcer() as announcer, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(announcer.socket))
        silent.listen()
        with pytest.raises(BrokerError, match="did not take"):
            announcer.publish("f1/i", b"x")
