"""``flexspec-broker``: render a configuration, run a broker, check one, stop one."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import FrameType

import msgspec

from broker import check
from broker.certificates import files_in, make_certificates
from broker.config import render, write_private
from broker.handing_out import hand_out
from broker.launcher import PrivateBroker
from broker.running import announced, stop
from broker.settings import PROGRAM, BrokerSettings, Listener, ListenerOptions, Role, ServerTls, User
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.children import end_with_parent
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import BrokerError, UsageError
from flexspec_mq.settings import add_flags, add_show_command, load, show

_CREDENTIALS = "credentials.json"
_TITLES = {"log": "log"}
_LEVELS = ((("Error", "OpenSSL Error"), logging.ERROR), ("Warning", logging.WARNING))
_mosquitto = logging.getLogger("mosquitto")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 a check failed, 2 usage, 4 a broker error."""
    return run_main(_main, argv)


def _main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    try:
        code: int = options.run(options)
    except OSError as error:  # a folder or a file that the user named, or a full disk
        raise BrokerError(str(error)) from error
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flexspec-broker", description="Mosquitto for FlexSpec MQ.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("render", help="write a Mosquitto configuration into a directory")
    command.add_argument("directory", type=Path)
    add_flags(
        command,
        PROGRAM,
        defaults={"port": 1883, "persistence": True},
        without=("credentials", "persistence", "log_level", "log_format"),
    )
    command.set_defaults(run=_render)

    command = commands.add_parser("run", help="run a broker in the foreground, in a private directory")
    add_flags(command, PROGRAM, titles=_TITLES)
    logs.add_verbose(command)
    command.add_argument("--ready-json", action="store_true", help="one JSON line when it answers")
    command.add_argument("--parent-death", action="store_true", help="end when the parent process ends")
    command.set_defaults(run=_run)

    command = add_show_command(commands)
    add_flags(command, PROGRAM, titles=_TITLES)
    logs.add_verbose(command)
    command.set_defaults(run=_show)

    command = commands.add_parser("check", help="is this broker good enough?")
    check.add_arguments(command)
    command.set_defaults(run=check.run)

    command = commands.add_parser("stop", help="stop brokers that `run` started as this user")
    command.add_argument("--port", type=int, help="only the one on this port")
    command.set_defaults(run=_stop)
    return parser


def _settings(listener: ListenerOptions, credentials: Path) -> BrokerSettings:
    tls: ServerTls | None = None
    if listener.certificates is not None:
        tls = files_in(listener.certificates) or make_certificates(listener.certificates, listener.name)
    users = _users(listener, credentials)
    if listener.hand_out is not None:
        hand_out(listener.hand_out, users, tls)
    same = {field.name: getattr(listener, field.name) for field in fields(Listener)}
    return BrokerSettings(tls=tls, users=users, **same)


def _users(listener: ListenerOptions, credentials: Path) -> tuple[User, ...]:
    """Users with passwords: known ones from `credentials`, else random; all are written back."""
    wanted: dict[str, Role] = {}
    for role in Role:
        for name in getattr(listener, role.value):
            if name in wanted:
                raise UsageError(
                    f"user {name} is given twice, as {wanted[name].value} and as {role.value}",
                    hint="one user has one role: topics and access rules go by the name",
                )
            wanted[name] = role
    if not wanted:
        return ()
    known = _passwords(credentials) if credentials.exists() else {}
    users = tuple(
        User(name, role, known.get(name) or secrets.token_urlsafe(18)) for name, role in wanted.items()
    )
    credentials.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Others stay: a user who is left out today may come back, with the password that the device knows.
    written = known | {user.name: user.password for user in users}
    write_private(credentials, json.dumps(written, indent=2))
    logs.tell(f"passwords are in {credentials}")
    return users


def _passwords(credentials: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(check.read(credentials), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise BrokerError(
            f"{credentials} is no JSON object of names and passwords: {error}",
            hint="mend it, or remove it to have all passwords drawn anew",
        ) from error


def _render(options: argparse.Namespace) -> int:
    listener = load(PROGRAM, options).settings.listener
    config = render(_settings(listener, options.directory / _CREDENTIALS), options.directory)
    sys.stdout.write(f"{config}\n")
    return 0


def _show(options: argparse.Namespace) -> int:
    show(load(PROGRAM, options), json=options.json)
    return 0


def _run(options: argparse.Namespace) -> int:
    config = load(PROGRAM, options).settings
    logs.configure(config.log)
    listener = config.listener
    parent = os.getppid()
    if options.parent_death:
        end_with_parent(signal.SIGTERM)()
        if os.getppid() != parent:
            return 0  # it ended before we asked to be told
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    settings = _settings(listener, listener.credentials)
    with PrivateBroker(settings, heard=_log_line) as broker:
        try:
            with announced(broker.port):
                _say_ready(broker, as_json=options.ready_json)
                code = broker.wait()
        except KeyboardInterrupt:
            return 0
        raise BrokerError(f"mosquitto ended by itself with code {code}", hint=broker.last_words())


def _log_line(line: str) -> None:
    """A line of Mosquitto's as one of our log; what is neither error nor warning, its notices, is of level info."""
    level = next((level for begins, level in _LEVELS if line.startswith(begins)), logging.INFO)
    _mosquitto.log(level, "%s", line)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the wait for Mosquitto; leaving the context then ends it and removes its files."""
    raise KeyboardInterrupt


def _say_ready(broker: PrivateBroker, *, as_json: bool) -> None:
    if as_json:
        line = json.dumps({"host": broker.host, "port": broker.port, "pid": broker.pid})
    else:
        line = f"broker ready on {broker.host}:{broker.port}; Ctrl-C ends it"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _stop(options: argparse.Namespace) -> int:
    ports = stop(options.port)
    sys.stdout.write(f"stopped the broker on port {', '.join(str(p) for p in ports)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
