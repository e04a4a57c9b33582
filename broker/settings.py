"""Settings of our Mosquitto, and which of them are refused."""

import hashlib
import re
import secrets
from base64 import b64encode
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, NewType

from flexspec_mq import topics
from flexspec_mq.daemon.logs import LogOptions
from flexspec_mq.daemon.probes import MetricsOptions
from flexspec_mq.errors import BrokerError, UsageError
from flexspec_mq.settings import Program, Section, Setting
from flexspec_mq.settings.values import is_loopback
from flexspec_mq.transport.base import LinkSettings

CENTRE_NAME = "flexspec-centre"
"""User at a site's broker in whose name its bridge brings messages in; no client may have it."""
_ROUNDS = 101
"""Rounds of hashing, as Mosquitto has it: passwords are random and long, so guessing is hopeless anyway."""


class Role(Enum):
    """Roles of users; `broker.access` has their rules."""

    EDGE = "edge"
    WORKER = "worker"
    PUBLISHER = "publisher"
    OPERATOR = "operator"
    ASKER = "asker"
    SITE = "site"
    """A broker of the same deployment, which carries for its own clients as a bridge."""
    CENTRE = "centre"
    """At a site's broker: whatever its bridge brings in; no client has it."""
    DEPLOYMENT = "deployment"
    """Whoever runs the broker, to publish what the deployment signed; no client has it."""


PasswordHash = NewType("PasswordHash", str)
"""A password as Mosquitto's password file has it, from which nobody gets it back."""


def hashed(password: str) -> PasswordHash:
    """Hash a password: PBKDF2 with SHA-512, salted.

    Raises:
        BrokerError: it is empty, or holds a line break.
    """
    if not password or "\n" in password:
        raise BrokerError("a user has an empty password, or one with a line break")
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS)
    return PasswordHash(f"$7${_ROUNDS}${b64encode(salt).decode()}${b64encode(digest).decode()}")


@dataclass(frozen=True, slots=True)
class User:
    """A user of the broker. An edge's or worker's name is also its name in topics.

    Attributes:
        password: hash of the password, see `hashed`.
        versions: versions that a worker may serve; empty is any.
        edges: devices that an asker may ask; empty is any.
        site: site to whose broker a device or worker connects; empty is this broker.
    """

    name: str
    role: Role
    password: PasswordHash = field(repr=False)
    versions: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    site: str = ""

    def __post_init__(self) -> None:
        """Refuse names that could reach beyond their own topics.

        Raises:
            UsageError: a name holds other characters than letters, digits, dots, dashes, underscores.
        """
        topics.checked("user", self.name)
        for version in self.versions:
            topics.checked("version", version)
        for edge in self.edges:
            topics.checked("device", edge)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files of the listener.

    Attributes:
        revoked: list of clients' certificates that are not taken any more; with it clients need one of the same CA.
    """

    ca: Path
    certificate: Path
    key: Path
    revoked: Path | None = None


@dataclass(frozen=True, slots=True)
class Bridge:
    """Connections of a site's broker to the central one.

    Attributes:
        to: settings by which any client of that name would connect there.
        shares: shared subscriptions of the workers that connect to this broker, by which opens come in; empty without.
    """

    to: LinkSettings
    shares: tuple[str, ...]


def _expiry(value: str) -> None:
    if not re.fullmatch(r"[1-9][0-9]*[hdwmy]", value):
        hint = "a number and h, d, w, m or y, for example 1h"
        raise UsageError(f"session_expiry {value!r} is no time", hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Settings that Mosquitto is told as they are; `Setting.help` has the words."""

    host: Annotated[str, Setting(help="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Setting(help="to listen on; 0 lets `run` find a free one", least=0, most=65535)] = 0
    insecure_anywhere: Annotated[bool, Setting(help="listen beyond this machine without TLS and users")] = (
        False
    )
    persistence: Annotated[
        bool,
        Setting(
            help="keep sessions and what is retained across crashes: written every 5 s, catalogues and key sets at once"
        ),
    ] = False
    max_inflight: Annotated[int, Setting(help="unacknowledged messages per client", least=1, most=65535)] = (
        200
    )
    max_queued_mb: Annotated[
        int,
        Setting(
            help="MB of messages that wait for a client that is away or slow, 10,000 at most",
            unit="MB",
            least=1,
        ),
    ] = 64
    max_packet: Annotated[int, Setting(help="bytes of one packet", least=1024, most=268_435_456)] = 262_144
    memory_mb: Annotated[
        int,
        Setting(
            help="MB of memory that the broker may take; it refuses what would need more; 0 is no bound",
            unit="MB",
            least=0,
        ),
    ] = 1024
    connections: Annotated[
        int, Setting(help="clients at a time; each takes an open file of the system's limit", least=1)
    ] = 16_384
    session_expiry: Annotated[
        str,
        Setting(
            help="longest that the session of an absent client is kept; a number and h, d, w, m or y",
            check=_expiry,
        ),
    ] = "1h"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits(Section):
    """Limits of one client of a deployment; who goes beyond is banned for a while."""

    client_messages: Annotated[
        int,
        Setting(
            help="messages a second that a client may publish, in the mean of 10 s, and as many other packets; a "
            "worker may publish a tenth of these beyond what devices ask of it; 0 is no bound",
            least=0,
        ),
    ] = 2000
    client_kb: Annotated[
        int,
        Setting(
            help="kB a second that a client which is no worker may publish, in the same way",
            unit="kB",
            least=0,
        ),
    ] = 2000
    client_connections: Annotated[
        int,
        Setting(
            help="connections that a client may have at a time, and make a second in the same mean; 0 is no bound",
            least=0,
        ),
    ] = 32
    put_out: Annotated[
        float,
        Setting(
            help="seconds for which a client that went beyond one of these is not let in",
            unit="seconds",
            above=0,
        ),
    ] = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings(Listener):
    """Settings of one Mosquitto.

    Attributes:
        tls: files of the listener; None is plain TCP.
        users: users that may connect. None: anybody, which is allowed on loopback only.
        own_socket: Unix socket on which it listens too, for whoever runs it; None without.
        bridge: connections to the central broker; None for that one itself.
    """

    tls: ServerTls | None = None
    users: tuple[User, ...] | None = None
    own_socket: Path | None = None
    bridge: Bridge | None = None

    def check(self) -> None:
        """Refuse settings that would let strangers in.

        Raises:
            UsageError: beyond loopback without TLS or without users.
            BrokerError: two users share a name.
        """
        names = [user.name for user in self.users or ()]
        if len(set(names)) < len(names):
            raise BrokerError(f"two users share a name: {', '.join(sorted(names))}")
        if is_loopback(self.host) or self.insecure_anywhere:
            return
        missing = [what for what, given in (("TLS", self.tls), ("users", self.users)) if given is None]
        if missing:
            raise UsageError(
                f"other machines can reach a broker on {self.host}, and it has no {' and no '.join(missing)}",
                hint="`flexspec-broker init DIR` makes both, for `flexspec-broker run DIR`; "
                "or --insecure-anywhere if you mean it",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """All settings of ``flexspec-broker run``."""

    listener: Listener
    limits: ClientLimits
    metrics: MetricsOptions
    log: LogOptions


PROGRAM = Program("broker", BrokerConfig)
"""``broker.toml`` and ``FLEXSPEC_BROKER_…``."""
