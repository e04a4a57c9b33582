"""``flexspec-broker check``: is the broker that is there already good enough?"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from flexspec_mq.doctor.checks import run_checks
from flexspec_mq.doctor.command import print_findings
from flexspec_mq.transport.arguments import LinkOptions, link_settings


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    command.add_argument("address", metavar="HOST:PORT", help="or a URL: mqtt://host, or mqtts://host")
    command.add_argument("--username")
    command.add_argument("--password-file", type=Path, help="its first line is the password")
    command.add_argument("--ca", type=Path, help="TLS: certificate authority to trust")
    command.add_argument(
        "--topic", help="prefix to test under (default: f1/r/USERNAME, or f1/check without a user)"
    )
    command.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Check a broker and print what was found; 1 if something that is needed is missing.

    Raises:
        UsageError: no address, or a file cannot be used.
    """
    from flexspec_mq.doctor.qualities import broker_checks  # it loads the MQTT client
    from flexspec_mq.transport.sockets import tls_context

    began = time.monotonic()
    at = LinkOptions(
        broker=options.address,
        username=options.username,
        password_file=options.password_file,
        tls_ca=options.ca,
    )
    link = link_settings(at, "flexspec-check")
    if link.tls is not None:
        tls_context(link.tls)  # or its files cannot be used
    # Topics that our access rules let any user write and read, and on which nobody lives.
    own = "f1/check" if options.username is None else f"f1/r/{options.username}"
    topic = (options.topic or own).strip("/")
    findings = asyncio.run(run_checks(broker_checks(link, topic)))
    return min(1, print_findings(findings, time.monotonic() - began, as_json=options.json))
