"""``flexspec-broker``: make a deployment, let clients in and out, run a broker, check one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from broker import check, commands
from broker.announcing import Announcer
from broker.deployment.folder import Deployment
from broker.serving import DeploymentServer, PrivateServer, serve
from broker.settings import PROGRAM
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import BrokerError
from flexspec_mq.settings import add_flags, add_show_command, load, show

_TITLES = {"limits": "limits of one client", "metrics": "metrics", "log": "log"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 a check failed, 2 usage, 4 a broker error."""
    return run_main(_main, argv)


def _main(argv: Sequence[str]) -> int:
    options = build_parser().parse_args(argv)
    try:
        code: int = options.run(options)
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
    check.add_arguments(command)
    command.set_defaults(run=check.run)

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
    logs.configure(config.log)
    if deployment is None:
        return serve(PrivateServer(config.listener), config.metrics, ready_json=options.ready_json)
    with deployment.applied.running(), Announcer() as announcer:
        server = DeploymentServer(deployment, config.listener, config.limits, announcer)
        return serve(server, config.metrics, ready_json=options.ready_json)


if __name__ == "__main__":
    sys.exit(main())
