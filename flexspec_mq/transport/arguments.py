"""Command-line flags for a link, the same for every daemon."""

from __future__ import annotations

import argparse
from math import inf
from pathlib import Path

from flexspec_mq.errors import UsageError
from flexspec_mq.transport.base import LinkSettings, TlsSettings


def add_link_arguments(parser: argparse.ArgumentParser, *, give_up_after: float | None = None) -> None:
    """Add the flags that `link_settings` reads.

    Args:
        parser: of a command.
        give_up_after: default of ``--give-up-after`` in seconds; None tries for ever, as daemons do.
    """
    link = parser.add_argument_group("broker")
    link.add_argument("--broker", default="127.0.0.1:1883", help="host:port (default: 127.0.0.1:1883)")
    link.add_argument("--username", help="MQTT user name (default: none)")
    link.add_argument("--password-file", type=Path, help="file with the MQTT password on its first line")
    link.add_argument("--tls-ca", type=Path, help="certificate authority to trust; turns TLS on")
    link.add_argument("--tls-cert", type=Path, help="client certificate")
    link.add_argument("--tls-key", type=Path, help="key of the client certificate")
    usual = "never" if give_up_after is None else f"{give_up_after:g}; inf is never"
    link.add_argument(
        "--give-up-after",
        type=float,
        default=give_up_after,
        help=f"seconds without a connection before failing (default: {usual})",
    )


def link_settings(args: argparse.Namespace, client_id: str) -> LinkSettings:
    """Settings of a link from parsed flags.

    Raises:
        UsageError: naming the flag that cannot be used.
    """
    host, colon, port = args.broker.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise UsageError(f"--broker {args.broker!r} is not host:port", hint="for example 127.0.0.1:1883")
    if args.tls_key and not args.tls_cert:
        raise UsageError("--tls-key needs --tls-cert", hint="give the certificate that belongs to the key")
    tls = None
    if args.tls_ca or args.tls_cert:
        tls = TlsSettings(args.tls_ca, args.tls_cert, args.tls_key)
    return LinkSettings(
        host=host.strip("[]"),
        port=int(port),
        client_id=client_id,
        username=args.username,
        password=_password(args.password_file),
        tls=tls,
        give_up_after=_give_up_after(args.give_up_after),
    )


def _give_up_after(seconds: float | None) -> float | None:
    if seconds is None or seconds == inf:
        return None
    if not seconds > 0:  # nan is not either
        raise UsageError(f"--give-up-after {seconds} is not above 0 seconds", hint="inf is never")
    return seconds


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").split("\n", 1)[0]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--password-file {path} cannot be read: {error}") from error
