"""``flexspec-broker run``: a Mosquitto as a child, and for a deployment its clients as they come and go.

For a deployment with keys it publishes the signed statement, which it can neither make nor change.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from broker.announcing import Announcer
from broker.config import DATABASE
from broker.deployment.applied_state import RUN
from broker.deployment.folder import Deployment
from broker.launcher import PrivateBroker
from broker.saving import Saving
from broker.settings import (
    CENTRE_NAME,
    BrokerConfig,
    BrokerSettings,
    ClientLimits,
    Listener,
    Role,
    User,
)
from broker.watching.rates import Guard, Traffic
from broker.watching.refusals import MosquittoLog
from flexspec_mq import topics, waiting
from flexspec_mq.daemon import logs, systemd
from flexspec_mq.daemon.dated import Dated, ExpiryLog
from flexspec_mq.daemon.probes import MetricsOptions
from flexspec_mq.daemon.signals import ending_interrupts
from flexspec_mq.daemon.streams import never_fails
from flexspec_mq.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.watching.figures import Figures

_log = logging.getLogger(__name__)
_mosquitto = logging.getLogger("mosquitto")

_LEVELS = ((("Error", "OpenSSL Error"), logging.ERROR), ("Warning", logging.WARNING))
_RELOADS = "Reloading config."
_PACKETS = 1000
"""Packets after which rates are looked at without waiting, as somebody may be flooding the broker."""
_OF_THE_SOCKET = "Warning: Unable to set TCP_NODELAY."
"""Said of the Unix socket, which has no such option."""


class DeploymentServer:
    """The broker of a deployment, which takes up what its commands change.

    Raises:
        BrokerError: a file of the deployment cannot be used.
    """

    def __init__(
        self, deployment: Deployment, listener: Listener, limits: ClientLimits, announcer: Announcer
    ) -> None:
        self._deployment = deployment
        self._announcer = announcer
        self._stamp = deployment.stamp()
        self._known = deployment.load()
        self._published = b""
        self._bridged = True
        self._packets = 0
        self._again = 0.0
        self._dated: tuple[Dated, ...] = ()
        self._dates = ExpiryLog()
        self._reloaded = threading.Event()
        self._mosquitto_log = MosquittoLog(self._heard, end_connection=self._end_connection)
        connections = self._mosquitto_log.connections
        self._traffic = Traffic(connections)
        self._guard = Guard(limits, self._traffic, connections, time.monotonic())
        self._know()
        settings = BrokerSettings(
            tls=deployment.tls(self._known),
            users=self._users(),
            own_socket=announcer.socket,
            bridge=deployment.bridge(self._known),
            **asdict(listener),
        )
        directory = deployment.directory / RUN
        self.broker = PrivateBroker(
            settings, heard=self._mosquitto_log.line, packets=self._taken, directory=directory
        )
        self._saving = Saving(
            directory / DATABASE,
            lambda: self.broker.signal(signal.SIGUSR1),
            lambda said: announcer.publish(topics.saved_topic(), said),
        )

    def begin(self) -> None:
        """Publish the statement once the broker answers; if it does not take it, `look` tries again."""
        try:
            if self.broker.settings.persistence:
                self._saving.begin()
            self._publish()
        except BrokerError as error:
            self._again = time.monotonic() + waiting.CONNECT
            _log.error("the statement is not published: %s", error)
            return
        self._deployment.applied.note(self._known.revision)

    def look(self) -> None:
        """Take up what has changed; what cannot be used is logged, and the clients stay those that they were.

        Who went beyond a limit is banned, and let in again when its time is over.
        """
        self._dates.look(self._dated, time.time())
        self._look_bridge()
        try:
            if self.broker.settings.persistence:
                self._saving.look()
            self._ban()
            stamp = self._deployment.stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                self._take_up()
            elif self._unpublished and time.monotonic() > self._again:
                self._publish()
            else:
                return
            self._deployment.applied.note(self._known.revision)
        except (BrokerError, OSError) as error:
            self._again = time.monotonic() + waiting.CONNECT
            _log.error("a change of the clients was not taken up: %s", error)
            return
        _log.info("revision %d of the clients is in force", self._known.revision)

    @property
    def pause(self) -> float:
        """Seconds until it is time to `look`, unless the broker is woken before."""
        return waiting.LOOK if self._saving.busy else 4 * waiting.LOOK

    def figures(self) -> Figures:
        """Figures of now; may be called on any thread."""
        statement = self._known.keys.read() if self._known.keys else None
        return {
            "refused": dict(self._mosquitto_log.counts),
            "connections": self._mosquitto_log.connections.counts(),
            "messages": dict(self._traffic.messages),
            "payload_bytes": dict(self._traffic.payload),
            "clients": len(self._known.clients),
            "revision": self._known.revision,
            "statement": statement.serial if statement else 0,
            "statement_expires_seconds": statement.expires if statement else 0,
            "revoked_credentials": len(statement.revoked) if statement else 0,
            "put_out": len(self._guard.banned),
        }

    def _look_bridge(self) -> None:
        """Say when the bridge comes and goes; what it does to come back is to take no more than seconds."""
        up = self._mosquitto_log.connections.counts()[CENTRE_NAME] > 0
        if not up:
            self.broker.quicken_bridge()
        if not self._known.site or up is self._bridged:
            return
        self._bridged = up
        if up:
            _log.info("the central broker at %s is reached", self._known.centre)
        else:
            _log.warning(
                "the central broker at %s is not reached: what is for it waits here", self._known.centre
            )

    def _check_bridge(self) -> None:
        """Say so if Mosquitto would need other bridges, which it reads at its start only."""
        if self._deployment.bridge(self._known) != self.broker.settings.bridge:
            _log.warning(
                "a login or the versions of workers here are new: restart this broker for its bridge"
            )

    def _take_up(self) -> None:
        self._known = self._deployment.load()
        self._know()
        self._check_bridge()
        try:
            self._publish()  # first: who is banned has been told why
        finally:
            self._let_in()

    def _know(self) -> None:
        self._mosquitto_log.know(self._known.users, self._known.groups)
        self._guard.know(self._known.users)

    def _let_in(self) -> None:
        self._reloaded.clear()
        self.broker.let_in(self._users())
        if not self._reloaded.wait(waiting.CONNECT):
            raise BrokerError("Mosquitto did not read its files again")

    def _ban(self) -> None:
        before = set(self._guard.banned)
        for user, kind, what in self._guard.look(time.monotonic()):
            self._mosquitto_log.refused(user, kind, what)
        if set(self._guard.banned) != before:
            self._let_in()

    @property
    def _unpublished(self) -> bool:
        return self._known.keys is not None and self._known.keys.statement != self._published

    def _publish(self) -> None:
        """Have the statement on its topic, if there is a new one."""
        keys = self._known.keys
        if keys is None or not self._unpublished:
            return
        statement = keys.read()
        self._dated = (Dated("the statement", statement.expires, "`flexspec-broker renew DIR`"),)
        self._announcer.publish(topics.statement_topic(), keys.statement)
        self._published = keys.statement
        _log.info(
            "statement %d is published; it revokes %d credentials", statement.serial, len(statement.revoked)
        )

    def _users(self) -> tuple[User, ...]:
        return (
            *(user for user in self._known.users if user.name not in self._guard.banned),
            self._announcer.user,
            *((User(CENTRE_NAME, Role.CENTRE, self._announcer.user.password),) if self._known.site else ()),
        )

    def _taken(self, line: bytes) -> None:
        self._traffic.line(line)
        self._packets += 1
        if self._saving.line(line) or self._packets % _PACKETS == 0:
            self.broker.wake()

    def _end_connection(self, host: str, port: int) -> bool:
        return self.broker.end_connection(host, port)

    def _heard(self, line: str) -> None:
        if line == _RELOADS:
            self._reloaded.set()
        if line != _OF_THE_SOCKET:
            _log_line(line)


def serve(config: BrokerConfig, server: DeploymentServer | None = None, *, ready_json: bool) -> int:
    """Run a broker until SIGTERM or Ctrl-C; returns the exit code. It is a private one without a server.

    Raises:
        BrokerError: it cannot start, or ended by itself.
        UsageError: its figures cannot be shown there.
    """
    never_fails("stdout")
    if server is None:
        broker = PrivateBroker(BrokerSettings(**asdict(config.listener)), heard=_log_line)
    else:
        broker = server.broker
    with ending_interrupts(), broker, _figures(server, config.metrics):
        try:
            if server is not None:
                server.begin()
            _say_ready(broker, as_json=ready_json)
            while (code := broker.wait(None if server is None else server.pause)) is None:
                if server is not None:
                    server.look()
        except KeyboardInterrupt:
            systemd.stopping("ending")
            return 0
        raise BrokerError(f"mosquitto ended by itself with code {code}", hint=broker.last_words())


@contextmanager
def _figures(server: DeploymentServer | None, metrics: MetricsOptions) -> Iterator[None]:
    if metrics.metrics_port is None:
        yield
        return
    from broker.watching.figures import shown

    with shown(server.figures if server else dict, metrics) as port:
        logs.tell(f"figures at http://{metrics.metrics_host}:{port}/metrics")
        yield


def _log_line(line: str) -> None:
    """A line of Mosquitto's as one of our log; what is neither error nor warning, its notices, is of level info."""
    level = next((level for begins, level in _LEVELS if line.startswith(begins)), logging.INFO)
    _mosquitto.log(level, "%s", line)


def _say_ready(broker: PrivateBroker, *, as_json: bool) -> None:
    if as_json:
        line = json.dumps({"host": broker.host, "port": broker.port, "pid": broker.pid})
    else:
        line = f"broker ready on {broker.host}:{broker.port}; Ctrl-C ends it"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    systemd.ready(f"listens on {broker.host}:{broker.port}")
