"""Publishing what the deployment signed, retained, as a user of whoever runs the broker.

It comes in by a Unix socket of its own, in a folder that nobody else can look into: so it needs no certificate, also
where clients need one, and no name by which this machine could reach itself.
"""

import secrets
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from broker.settings import Role, User, hashed
from flexspec_mq import waiting
from flexspec_mq.errors import BrokerError

OWN_NAME = "flexspec-broker"
"""No client may have it."""


class Announcer:
    """Publishes as a user that may do nothing else; its password is drawn for this run and known to nobody.

    Attributes:
        user: user that Mosquitto must know.
        socket: path on which Mosquitto must listen.
    """

    def __init__(self) -> None:
        # Short, as the path of a socket must be, wherever the deployment is.
        self._folder = tempfile.TemporaryDirectory(prefix="flexspec-own-")
        self.socket = Path(self._folder.name) / "mqtt"
        self._password = secrets.token_urlsafe(24)
        self.user = User(OWN_NAME, Role.DEPLOYMENT, hashed(self._password))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._folder.cleanup()

    def publish(self, topic: str, payload: bytes) -> None:
        """Have Mosquitto keep `payload` on `topic`; returns when it does.

        It connects for that only: what is retained stays.

        Raises:
            BrokerError: it did not take it.
        """
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            f"{OWN_NAME}-{secrets.token_hex(6)}",
            protocol=paho.MQTTv5,
            transport="unix",
        )
        client.username_pw_set(OWN_NAME, self._password)
        answers: list[ReasonCode] = []

        def connected(_client: paho.Client, _data: Any, _flags: Any, code: ReasonCode, _more: Any) -> None:
            if code.is_failure:
                answers.append(code)
            else:
                client.publish(topic, payload, qos=1, retain=True)

        def published(
            _client: paho.Client, _data: Any, _id: int, code: ReasonCode, _more: Properties
        ) -> None:
            answers.append(code)

        client.on_connect, client.on_publish = connected, published
        end = time.monotonic() + waiting.CONNECT
        try:
            self._connect(client, end)
            up = MQTTErrorCode.MQTT_ERR_SUCCESS
            while not answers and up == MQTTErrorCode.MQTT_ERR_SUCCESS and time.monotonic() < end:
                up = client.loop(0.1)
        except OSError as error:
            raise BrokerError(f"Mosquitto cannot be reached to publish {topic}: {error}") from error
        finally:
            client.disconnect()
        if not answers:
            size = f"{len(payload)} bytes"
            raise BrokerError(f"Mosquitto did not take {size} on {topic}", hint="is `max_packet` too small?")
        if answers[0].is_failure:
            raise BrokerError(f"Mosquitto refused what is to be published on {topic}: {answers[0]}")

    def _connect(self, client: paho.Client, end: float) -> None:
        """Mosquitto opens this socket a moment after the one by which it is known to answer."""
        while True:
            with socket.socket(socket.AF_UNIX) as tried:  # paho would leave one open that is refused
                try:
                    tried.connect(str(self.socket))
                    break
                except OSError:
                    if time.monotonic() > end:
                        raise
            time.sleep(0.005)
        client.connect(str(self.socket))
