"""Publishing as whoever runs the broker: by a socket of its own, which may come late, or refuse."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from broker import announcing
from broker.announcing import Announcer
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User
from flexspec_mq.errors import BrokerError
from flexspec_mq.transport.base import Inbound, LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link

ALICE = User("alice", Role.EDGE, "of-alice")


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
            began = time.monotonic()
            with pytest.raises(BrokerError, match="did not take 2000 bytes") as too_large:
                announcer.publish("f1/i", bytes(2000))
            assert "max_packet" in too_large.value.hint
            assert time.monotonic() - began < 4  # and it is not waited for
        monkeypatch.setattr(announcing, "_PATIENCE", 0.1)
        with pytest.raises(BrokerError, match="cannot be reached"):
            announcer.publish("f1/i", b"third")
    assert not announcer.socket.parent.exists()


def test_a_mosquitto_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcing, "_PATIENCE", 0.3)
    with Announcer() as announcer, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(announcer.socket))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(BrokerError, match="did not take"):
            announcer.publish("f1/i", b"x")
        assert time.monotonic() - began < 10
