"""Faults of a broker's certificate, with its names and dates."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexspec_mq.transport.base import LinkSettings, TlsSettings

_NOT_YET_VALID, _EXPIRED = 9, 10
_WRONG_NAME = (62, 64)
_SELF_SIGNED = (18, 19)
_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Contents of a certificate.

    Attributes:
        names: host names and addresses that it is for.
        issuer: common name of who signed it.
        since: seconds since the Unix epoch.
        until: seconds since the Unix epoch.
    """

    names: tuple[str, ...]
    issuer: str
    since: float
    until: float


def complaint_about(
    settings: LinkSettings, tls: TlsSettings, error: ssl.SSLCertVerificationError
) -> tuple[str, str]:
    """Say what is wrong with the broker's certificate, and what to do.

    Args:
        settings: address of the broker.
        tls: settings by which it was judged.
        error: the judgement.
    """
    shown = read_certificate(settings)
    who = f"the certificate of the broker at {settings.address}"
    code = error.verify_code
    if code in (_EXPIRED, _NOT_YET_VALID) and shown is not None:
        when = shown.until if code == _EXPIRED else shown.since
        word = "expired on" if code == _EXPIRED else "is not valid before"
        return (
            f"{who} {word} {_date(when)}, and this machine's clock says {_date(time.time())}",
            (
                "if the clock is wrong, set it (`timedatectl`, or NTP); if it is right, make a new certificate for "
                "the broker and restart it"
            ),
        )
    if code in _WRONG_NAME and shown is not None:
        names = ", ".join(shown.names) or "no name at all"
        first = f" with --broker {shown.names[0]}:{settings.port}" if shown.names else ""
        return (
            f"{who} is for another host name: it is for {names}, and we connect to {settings.host}",
            (
                f"connect by a name that it is for{first}; or have one made for this name: `flexspec-broker init` "
                "with a --name for each makes another broker"
            ),
        )
    by = f", signed by {shown.issuer!r}" if shown is not None and shown.issuer else ""
    trusted = f"the authority in {tls.ca}" if tls.ca is not None else "any authority of this system"
    return (
        (
            f"{who}{by}, is not trusted: it was not signed by {trusted}"
            f"{' (it is self-signed)' if code in _SELF_SIGNED and tls.ca is None else ''}: {error.verify_message}"
        ),
        (
            "give the broker's own authority with --tls-ca: its ca.crt, which `flexspec-broker add-device` and "
            "`add-worker` lay beside the client's other files"
        ),
    )


def read_certificate(settings: LinkSettings) -> Certificate | None:
    """The certificate that a broker shows, believed or not; None if none can be had."""
    try:
        anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anything.check_hostname = False
        anything.verify_mode = ssl.CERT_NONE
        with _open(settings, anything) as secured:
            raw = secured.getpeercert(binary_form=True)
        if raw is None:
            return None
        # The ssl module decodes only what it has verified: so this very certificate is trusted, whatever its dates.
        itself = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        itself.check_hostname = False
        itself.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
        itself.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(raw))
        with _open(settings, itself) as secured:
            return _decoded(secured.getpeercert() or {})
    except (OSError, ValueError, KeyError):
        return None


def _open(settings: LinkSettings, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection((settings.host, settings.port), timeout=settings.connect_timeout)
    try:
        return context.wrap_socket(plain, server_hostname=settings.host)
    except BaseException:
        plain.close()
        raise


def _decoded(fields: Any) -> Certificate:
    issuer = {name: value for part in fields.get("issuer", ()) for name, value in part}
    return Certificate(
        names=tuple(value for _, value in fields.get("subjectAltName", ())),
        issuer=issuer.get("commonName", ""),
        since=ssl.cert_time_to_seconds(fields["notBefore"]),
        until=ssl.cert_time_to_seconds(fields["notAfter"]),
    )


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
