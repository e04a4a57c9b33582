"""Publishing what the deployment signed, retained, as a user of whoever runs the broker.

It comes in by a Unix socket of its own, in a folder that nobody else can look into: so it needs no certificate, also
where clients need one, and no name by which this machine could reach itself.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from broker.settings import PasswordHash, Role, User
from flexspec_mq.errors import BrokerError

OWN_NAME = "flexspec-broker"
"""No client may have it."""
_log = logging.getLogger(__name__)
_PATIENCE = 5.0
"""Seconds for Mosquitto to take one message."""


class Announcer:
    """One retained message, kept as it should be: also after the connection was lost.

    Its password is drawn anew each time, and known to nobody else.

    Args:
        topic: of the message.

    Attributes:
        user: that Mosquitto must know.
        socket: on which Mosquitto must listen.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        # Short, as the path of a socket must be, wherever the deployment is.
        self._folder = tempfile.TemporaryDirectory(prefix="flexspec-own-")
        self.socket = Path(self._folder.name) / "mqtt"
        password = secrets.token_urlsafe(24)
        self.user = User(OWN_NAME, Role.DEPLOYMENT, PasswordHash.of(password))
        self._payload = b""
        self._taken = threading.Condition()
        self._awaited: int | None = None
        self._refusal: ReasonCode | None = None
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, f"{OWN_NAME}-{secrets.token_hex(6)}",
            protocol=paho.MQTTv5, transport="unix",
        )  # fmt: skip
        self._client.username_pw_set(OWN_NAME, password)
        self._client.reconnect_delay_set(1, 2)
        self._client.on_connect = self._connected
        self._client.on_publish = self._acknowledged

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def publish(self, payload: bytes) -> None:
        """Have Mosquitto keep `payload`; returns when it does.

        Raises:
            BrokerError: it did not take it.
        """
        with self._taken:
            self._payload = payload
            if self._client.is_connected():
                self._send()
            elif not self._client.host:
                self._client.connect_async(str(self.socket))
                self._client.loop_start()
            end = time.monotonic() + _PATIENCE
            while self._awaited != 0:
                if not self._taken.wait(end - time.monotonic()):
                    raise BrokerError(f"Mosquitto does not take what is to be published on {self._topic}")
            if self._refusal is not None:
                raise BrokerError(f"Mosquitto refused what is to be published on {self._topic}: {self._refusal}")

    def close(self) -> None:
        """End the connection; the message stays."""
        self._client.disconnect()
        self._client.loop_stop()
        self._folder.cleanup()
