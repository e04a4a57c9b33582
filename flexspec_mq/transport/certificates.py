"""Faults of a broker's certificate, with its names and dates."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flexspec_mq.transport.base import LinkSettings, TlsSettings

if TYPE_CHECKING:
    from cryptography import x509


_NOT_YET_VALID, _EXPIRED = 9, 10
_WRONG_NAME = (62, 64)
_SELF_SIGNED = (18, 19)


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
        when = shown.not_valid_after_utc if code == _EXPIRED else shown.not_valid_before_utc
        word = "expired on" if code == _EXPIRED else "is not valid before"
        return (
            f"{who} {word} {_date(when)}, and this machine's clock says {_date(datetime.now(UTC))}",
            (
                "if the clock is wrong, set it (`timedatectl`, or NTP); if it is right, make a new certificate for "
                "the broker and restart it"
            ),
        )
    if code in _WRONG_NAME and shown is not None:
        names = _names(shown)
        first = f" with --broker {names[0]}:{settings.port}" if names else ""
        right = ", ".join(names) or "no name at all"
        return (
            f"{who} is for another host name: it is for {right}, and we connect to {settings.host}",
            (
                f"connect by a name that it is for{first}; or have one made for this name: `flexspec-broker init` "
                "with a --name for each makes another broker"
            ),
        )
    issuer = None if shown is None else _issuer(shown)
    by = f", signed by {issuer!r}" if issuer else ""
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


def read_certificate(settings: LinkSettings) -> x509.Certificate | None:
    """The certificate that a broker shows, believed or not; None if none can be had."""
    from cryptography import x509  # for an error message alone

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with suppress(OSError, ValueError):
        address, timeout = (settings.host, settings.port), settings.connect_timeout
        with (
            socket.create_connection(address, timeout) as plain,
            context.wrap_socket(plain, server_hostname=settings.host) as secured,
        ):
            return x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    return None


def _names(certificate: x509.Certificate) -> list[str]:
    """Host names and addresses that a certificate is for."""
    from cryptography import x509

    with suppress(x509.ExtensionNotFound, ValueError):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = names.get_values_for_type(x509.IPAddress)
        return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]
    return []


def _issuer(certificate: x509.Certificate) -> str | None:
    """Common name of who signed a certificate."""
    from cryptography.x509.oid import NameOID

    return next(
        (str(name.value) for name in certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)), None
    )


def _date(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")
