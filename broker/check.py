"""``flexspec-broker check``: is the broker that is there already good enough?"""

from __future__ import annotations

import argparse
import asyncio
import time
from math import inf
from pathlib import Path

from broker.files import read_text
from flexspec_mq.doctor.checks import run_checks
from flexspec_mq.doctor.command import print_findings
from flexspec_mq.errors import UsageError
from flexspec_mq.transport.arguments import broker_at
from flexspec_mq.transport.base import LinkSettings, TlsSettings


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    command.add_argument("address", metavar="HOST:PORT", help="or a URL: mqtt://host, or mqtts://host")
    command.add_argument("--username")
    command.add_argument("--password-file", type=Path, help="its first line is the password")
    command.add_argument("--ca", type=Path, help="TLS: certificate authority to trust")
    command.add_argument(
        "--topic", help="prefix to test under (default: f1/r/USERNAME, or f1/check without a user)"
    )
    command.add_argument(
        "--timeout", type=float, default=5.0, help="seconds per answer (default: %(default)s)"
    )
    command.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Check a broker and print what was found; 1 if something that is needed is missing.

    Raises:
        UsageError: no address, or no time.
        BrokerError: a file cannot be used.
    """
    from flexspec_mq.doctor.qualities import broker_checks  # it loads the MQTT client

    began = time.monotonic()
    # Topics that our access rules let any user write and read, and on which nobody lives.
    own = "f1/check" if options.username is None else f"f1/r/{options.username}"
    topic = (options.topic or own).strip("/")
    findings = asyncio.run(run_checks(broker_checks(_settings(options), topic)))
    return min(1, print_findings(findings, time.monotonic() - began, as_json=options.json))


def _settings(options: argparse.Namespace) -> LinkSettings:
    files = None if options.ca is None else TlsSettings(options.ca)
    host, port, tls = broker_at(options.address, files)
    if not 0 < options.timeout < inf:
        raise UsageError(f"a timeout of {options.timeout} s is none", hint="for example --timeout 5")
    from flexspec_mq.transport.sockets import tls_context

    if tls is not None:
        tls_context(tls)
    password = None
    if options.password_file is not None:
        password = read_text(options.password_file).partition("\n")[0]
    return LinkSettings(
        host=host,
        port=port,
        client_id="flexspec-check",
        username=options.username,
        password=password,
        tls=tls,
        connect_timeout=options.timeout,
        publish_timeout=options.timeout,
    )
