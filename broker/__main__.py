"""``flexspec-broker``: make a deployment, let clients in and out, run a broker, check one."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from broker import commands
from broker.announcing import Announcer
from broker.deployment.folder import Deployment
from broker.serving import DeploymentServer, serve
from broker.settings import PROGRAM
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.main import run_main
from flexspec_mq.doctor.checks import run_checks
from flexspec_mq.doctor.command import print_findings
from flexspec_mq.errors import BrokerError, UsageError
from flexspec_mq.settings import add_flags, add_show_command, load, show
from flexspec_mq.transport.arguments import LinkOptions, link_settings

_TITLES = {"limits": "limits of one client", "metrics": "metrics", "log": "log"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 a check failed, 2 usage, 4 a broker error."""
    return run_main(_main, argv, extras="serve")


def _main(argv: Sequence[str]) -> int:
    options = build_parser().parse_args(argv)
    try:
        code: int = options.run(options)
        if (directory := getattr(options, "directory", None)) is not None:
            commands.tell_expiry(directory)
    except OSError as error:  # a folder or a file that the user named, or a full disk
        raise BrokerError(str(error)) from error
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="flexspec-broker", description="Mosquitto for FlexSpec MQ.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_commands(subparsers)

    command = subparsers.add_parser(
        "run", help="run a broker in the foreground: a deployment's, or a private one"
    )
    command.add_argument(
        "deployment",
        nargs="?",
        type=Path,
        metavar="DIR",
        help="folder of `init`, with the settings in its broker.toml; without it a private broker without users",
    )
    add_flags(command, PROGRAM, titles=_TITLES)
    logs.add_verbose(command)
    command.add_argument("--ready-json", action="store_true", help="one JSON line when it answers")
    command.set_defaults(run=_run)

    command = add_show_command(subparsers)
    add_flags(command, PROGRAM, titles=_TITLES)
    logs.add_verbose(command)
    command.set_defaults(run=_show)

    command = subparsers.add_parser("check", help="is this broker good enough?")
    command.add_argument("address", metavar="HOST:PORT", help="or a URL: mqtt://host, or mqtts://host")
    command.add_argument("--username")
    command.add_argument("--password-file", type=Path, help="its first line is the password")
    command.add_argument("--ca", type=Path, help="TLS: certificate authority to trust")
    command.add_argument(
        "--topic", help="prefix to test under (default: f1/r/USERNAME, or f1/check without a user)"
    )
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=_check)

    return parser


def _show(options: argparse.Namespace) -> int:
    show(load(PROGRAM, options), json=options.json)
    return 0


def _run(options: argparse.Namespace) -> int:
    deployment = None if options.deployment is None else Deployment(options.deployment)
    if deployment is not None:
        deployment.load()  # or there is none
        options.config = options.config or deployment.settings_file
    config = load(PROGRAM, options).settings
    if deployment is None and config.listener.persistence:
        raise UsageError(
            "--persistence needs a folder, in which things are kept",
            hint="`flexspec-broker init DIR --host 127.0.0.1`, and `flexspec-broker run DIR`",
        )
    logs.configure(config.log)
    if deployment is None:
        return serve(config, ready_json=options.ready_json)
    with deployment.applied.running(), Announcer() as announcer:
        server = DeploymentServer(deployment, config.listener, config.limits, announcer)
        return serve(config, server, ready_json=options.ready_json)


def _check(options: argparse.Namespace) -> int:
    from flexspec_mq.doctor.broker import broker_probes  # it loads the MQTT client
    from flexspec_mq.transport.sockets import tls_context

    began = time.monotonic()
    at = LinkOptions(
        broker=options.address,
        username=options.username,
        password_file=options.password_file,
        tls_ca=options.ca,
        insecure=True,  # which it then says
    )
    link = link_settings(at, "flexspec-check")
    if link.tls is not None:
        tls_context(link.tls)  # or its files cannot be used
    # Topics that our access rules let any user write and read, and on which nobody lives.
    own = "f1/check" if options.username is None else f"f1/r/{options.username}"
    topic = (options.topic or own).strip("/")
    if not topic or any(character in topic for character in "+#\0"):
        raise UsageError(f"--topic {options.topic} is no beginning of a topic", hint="for example f1/check")
    findings = asyncio.run(run_checks("broker", broker_probes(link, topic)))
    return min(1, print_findings(findings, time.monotonic() - began, as_json=options.json))


if __name__ == "__main__":
    sys.exit(main())
