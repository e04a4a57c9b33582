"""``flexspec-broker check``: is the broker that is there already good enough?"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path

from broker.files import read_text
from flexspec_mq.doctor.findings import Finding, Findings, State
from flexspec_mq.errors import UsageError
from flexspec_mq.transport.arguments import broker_at
from flexspec_mq.transport.base import LinkSettings, TlsSettings

_MARKS = {State.OK: "ok  ", State.WARNING: "warn", State.FAILED: "FAIL"}


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
        BrokerError, LinkError: a file cannot be used; the broker stopped answering half-way.
    """
    from flexspec_mq.doctor.qualities import USEFUL, check_broker, own_prefix  # it loads the MQTT client

    findings = Findings("", lambda _text: None)
    topic = (options.topic or own_prefix(options.username)).strip("/")
    asyncio.run(check_broker(findings, _settings(options), topic))
    failed = any(one.state is State.FAILED for one in findings.all)
    if options.json:
        rows = [_row(one, USEFUL) for one in findings.all]
        sys.stdout.write(json.dumps({"ok": not failed, "findings": rows}) + "\n")
        return int(failed)
    for one in findings.all:
        sys.stdout.write(f"{_MARKS[one.state]}  {one.name}: {one.detail}\n")
        if one.advice:
            sys.stdout.write(f"      → {one.advice}\n")
    return int(failed)


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


def _row(one: Finding, useful: Sequence[str]) -> dict[str, str | bool]:
    return {
        "name": one.name,
        "ok": one.state is State.OK,
        "needed": one.state is State.FAILED or one.name not in useful,
        "detail": one.detail,
        "advice": one.advice,
    }
