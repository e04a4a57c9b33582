"""``flexspec-broker run``: a Mosquitto as a child, and for a deployment its clients as they come and go."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from dataclasses import fields
from types import FrameType
from typing import Any

from broker.deployment import RUN, Deployment
from broker.launcher import PrivateBroker
from broker.refusals import Refusals
from broker.running import announced
from broker.settings import BrokerSettings, Listener
from flexspec_mq.daemon import systemd
from flexspec_mq.errors import BrokerError

_log = logging.getLogger(__name__)
_mosquitto = logging.getLogger("mosquitto")

_LEVELS = ((("Error", "OpenSSL Error"), logging.ERROR), ("Warning", logging.WARNING))
_LOOK_EVERY = 0.25
"""Seconds between two looks at a deployment's clients."""
_RELOADS = "Reloading config."
_RELOAD_PATIENCE = 5.0


class PrivateServer:
    """A broker for this machine only, without users.

    Args:
        listener: its settings.
    """

    def __init__(self, listener: Listener) -> None:
        self.broker = PrivateBroker(BrokerSettings(**_same(listener)), heard=_log_line)

    def begin(self) -> None:
        """The broker answers."""

    def look(self) -> None:
        """Time has passed."""


class DeploymentServer:
    """The broker of a deployment, which takes up what its commands change.

    Args:
        deployment: made by `init`.
        listener: its settings.

    Raises:
        BrokerError: a file of the deployment cannot be used.
    """

    def __init__(self, deployment: Deployment, listener: Listener) -> None:
        self._deployment = deployment
        self._stamp = deployment.stamp()
        self._known = deployment.load()
        self._reloaded = threading.Event()
        self._refusals = Refusals(self._heard)
        self._refusals.know(self._known.users, self._known.groups)
        settings = BrokerSettings(tls=deployment.tls(self._known), users=self._known.users, **_same(listener))
        self.broker = PrivateBroker(settings, heard=self._refusals.line, directory=deployment.directory / RUN)

    def begin(self) -> None:
        """The broker answers."""
        self._deployment.note_applied(self._known)

    def look(self) -> None:
        """Take up what has changed; what cannot be used is logged, and the clients stay those that they were."""
        try:
            stamp = self._deployment.stamp()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._take_up()
        except (BrokerError, OSError) as error:
            _log.error("a change of the clients was not taken up: %s", error)
            return
        _log.info("revision %d of the clients is in force", self._known.revision)

    def _take_up(self) -> None:
        self._known = self._deployment.load()
        self._refusals.know(self._known.users, self._known.groups)
        self._reloaded.clear()
        self.broker.let_in(self._known.users)
        if not self._reloaded.wait(_RELOAD_PATIENCE):
            raise BrokerError("Mosquitto did not read its files again")
        self._deployment.note_applied(self._known)

    def _heard(self, line: str) -> None:
        if line == _RELOADS:
            self._reloaded.set()
        _log_line(line)


def serve(server: PrivateServer | DeploymentServer, *, ready_json: bool) -> int:
    """Run a broker until SIGTERM or Ctrl-C; returns the exit code.

    Raises:
        BrokerError: it cannot start, or ended by itself.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    with server.broker as broker:
        try:
            with announced(broker.port):
                server.begin()
                _say_ready(broker, as_json=ready_json)
                while (code := broker.wait(_LOOK_EVERY)) is None:
                    server.look()
        except KeyboardInterrupt:
            systemd.stopping("ending")
            return 0
        raise BrokerError(f"mosquitto ended by itself with code {code}", hint=broker.last_words())


def _same(listener: Listener) -> dict[str, Any]:
    return {field.name: getattr(listener, field.name) for field in fields(Listener)}


def _log_line(line: str) -> None:
    """A line of Mosquitto's as one of our log; what is neither error nor warning, its notices, is of level info."""
    level = next((level for begins, level in _LEVELS if line.startswith(begins)), logging.INFO)
    _mosquitto.log(level, "%s", line)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the wait for Mosquitto; leaving the context then ends it and removes its files."""
    raise KeyboardInterrupt


def _say_ready(broker: PrivateBroker, *, as_json: bool) -> None:
    if as_json:
        line = json.dumps({"host": broker.host, "port": broker.port, "pid": broker.pid})
    else:
        line = f"broker ready on {broker.host}:{broker.port}; Ctrl-C ends it"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    systemd.ready(f"listens on {broker.host}:{broker.port}")
