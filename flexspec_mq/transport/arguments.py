"""Settings of a link, the same for every daemon."""

from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf
from pathlib import Path
from typing import Annotated

from flexspec_mq import waiting
from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Setting, verify
from flexspec_mq.settings.values import address, is_loopback
from flexspec_mq.transport.base import LinkSettings, TlsSettings

_PORTS = {"mqtt": 1883, "mqtts": 8883}
"""Schemes of a broker's URL, and their usual ports."""


def broker_at(value: str, tls: TlsSettings | None = None) -> tuple[str, int, TlsSettings | None]:
    """Host, port and TLS of a broker: of ``host``, or of a URL ``mqtt://host`` or ``mqtts://host``.

    Args:
        value: may have a port, which is the usual one otherwise; ``mqtts`` turns TLS on, with the authorities of the
            system unless `tls` has one.
        tls: as the other settings ask for it.

    Raises:
        UsageError: it is something else, or asks for no TLS where `tls` is given.
    """
    scheme, url, at = value.partition("://")
    if not url:
        bare = value and not set(value.rpartition("]")[2]) & {":", "/", " "}
        return (*address(f"{value}:{_PORTS['mqtts' if tls else 'mqtt']}" if bare else value), tls)
    port = _PORTS.get(scheme.lower())
    if "@" in at:  # the value is not repeated, as it may hold a password
        raise UsageError(
            "the address of the broker holds a user",
            hint="give it by username, and password_file or password",
        )
    at = at.removesuffix("/")
    if port is None or "/" in at:
        raise UsageError(
            f"{value!r} is no address of a broker of MQTT over TCP",
            hint="for example 127.0.0.1:1883, mqtt://127.0.0.1:1883, or mqtts://broker.example:8883 for TLS",
        )
    if scheme.lower() == "mqtt" and tls is not None:
        raise UsageError(
            f"{value} is without TLS, and the TLS files that are given ask for it", hint="write mqtts://"
        )
    secure = tls or TlsSettings() if scheme.lower() == "mqtts" else None
    return (*address(at if ":" in at.rpartition("]")[2] else f"{at}:{port}"), secure)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """How to reach the broker, and who we are there; `Setting.help` has the words."""

    broker: Annotated[
        str, Setting(help="host, host:port, or a URL: mqtt://host, or mqtts://host for TLS", check=broker_at)
    ] = "127.0.0.1:1883"
    username: Annotated[str | None, Setting(help="MQTT user name")] = None
    password: Annotated[str | None, Setting(help="MQTT password; file and environment only", secret=True)] = (
        field(default=None, repr=False)
    )
    password_file: Annotated[
        Path | None, Setting(help="file with the MQTT password on its first line", replaces="password")
    ] = None
    tls_ca: Annotated[Path | None, Setting(help="certificate authority to trust; turns TLS on")] = None
    tls_cert: Annotated[Path | None, Setting(help="client certificate; turns TLS on")] = None
    tls_key: Annotated[Path | None, Setting(help="key of the client certificate")] = None
    insecure: Annotated[
        bool,
        Setting(
            help="connect to a broker on another machine without TLS: whoever is on the way reads and forges"
        ),
    ] = False
    answer_timeout: Annotated[
        float,
        Setting(
            help="seconds within which broker and workers answer, as long as no round trip was measured; other waits "
            "for the network are factors of it, over a satellite it is twice the round trip",
            unit="seconds",
            least=0.1,
            most=60,
        ),
    ] = waiting.ANSWER
    give_up_after: Annotated[
        float | None,
        Setting(
            help="seconds without a connection before failing; inf is never",
            unit="seconds",
            above=0,
            default="never",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse what no link can be made of.

        Raises:
            UsageError: naming the setting that cannot be used.
        """
        verify(self)
        if self.tls_key and not self.tls_cert:
            raise UsageError(
                "--tls-key needs --tls-cert", hint="give the certificate that belongs to the key"
            )
        if self.password is not None and self.password_file is not None:
            raise UsageError("password and password_file are both set", hint="leave one of them out")


def link_settings(options: LinkOptions, client_id: str) -> LinkSettings:
    """Settings of a link.

    Args:
        options: a section of a daemon's settings.
        client_id: unique at the broker. With a password a part is added that only its owners know: otherwise any
            device with a login of its own could take the id, and the connection, of any other.

    Raises:
        UsageError: naming the setting that cannot be used.
    """
    files = None
    if options.tls_ca or options.tls_cert:
        files = TlsSettings(options.tls_ca, options.tls_cert, options.tls_key)
    host, port, tls = broker_at(options.broker, files)
    if tls is None and not (options.insecure or is_loopback(host)):
        raise UsageError(
            f"the broker {host} is another machine, and the link to it is without TLS",
            hint="mqtts://HOST trusts the system's authorities, --tls-ca another one, which `flexspec-broker init` "
            "makes; --insecure connects without",
        )
    password = options.password if options.password_file is None else _password(options.password_file)
    return LinkSettings(
        host=host,
        port=port,
        client_id=client_id if not password else f"{client_id}-{_known_to_owners(client_id, password)}",
        username=options.username,
        password=password,
        tls=tls,
        answer_timeout=options.answer_timeout,
        connect_timeout=5 * options.answer_timeout,
        publish_timeout=10 * options.answer_timeout,
        give_up_after=None if options.give_up_after == inf else options.give_up_after,
    )


def _known_to_owners(client_id: str, password: str) -> str:
    """12 characters, the same at every start, that nobody without the password can guess."""
    return blake2b(client_id.encode(), key=blake2b(password.encode()).digest(), digest_size=6).hexdigest()


def _password(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").split("\n", 1)[0]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--password-file {path} cannot be read: {error}") from error
