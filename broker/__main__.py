"""``flexspec-broker``: render a configuration, run a broker, check one, stop one."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from broker.certificates import files_in, make_certificates
from broker.check import Target, check
from broker.config import render
from broker.errors import BrokerError
from broker.launcher import PrivateBroker, end_with_parent
from broker.running import announced, stop
from broker.settings import BrokerSettings, Role, ServerTls, User

_CREDENTIALS = "credentials.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 a check failed, 2 usage, 4 a broker error."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except BrokerError as error:
        sys.stderr.write(f"flexspec-broker: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flexspec-broker", description="Mosquitto for FlexSpec MQ.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("render", help="write a Mosquitto configuration into a directory")
    command.add_argument("directory", type=Path)
    _add_listener(command, port=1883)
    command.set_defaults(run=_render, persistence=True)

    command = commands.add_parser("run", help="run a broker in the foreground, in a private directory")
    _add_listener(command, port=0)
    command.add_argument(
        "--persistence", action="store_true", help="keep sessions across Mosquitto's crashes"
    )
    command.add_argument(
        "--credentials",
        type=Path,
        default=Path(_CREDENTIALS),
        help="passwords of the users, written there if missing (default: ./%(default)s)",
    )
    command.add_argument("--ready-json", action="store_true", help="one JSON line when it answers")
    command.add_argument("--parent-death", action="store_true", help="end when the parent process ends")
    command.set_defaults(run=_run)

    command = commands.add_parser("check", help="is this broker good enough?")
    command.add_argument("address", metavar="HOST:PORT")
    command.add_argument("--username")
    command.add_argument("--password-file", type=Path, help="its first line is the password")
    command.add_argument("--ca", type=Path, help="TLS: certificate authority to trust")
    command.add_argument("--topic", default="f1/check", help="prefix to test under (default: %(default)s)")
    command.add_argument(
        "--timeout", type=float, default=5.0, help="seconds per answer (default: %(default)s)"
    )
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=_check)

    command = commands.add_parser("stop", help="stop brokers that `run` started as this user")
    command.add_argument("--port", type=int, help="only the one on this port")
    command.set_defaults(run=_stop)
    return parser


def _add_listener(command: argparse.ArgumentParser, *, port: int) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    free = "; 0 finds a free one" if port == 0 else ""
    command.add_argument("--port", type=int, default=port, help=f"default: %(default)s{free}")
    for role in Role:
        command.add_argument(
            f"--{role.value}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"a user that is a {role.value}",
        )
    command.add_argument(
        "--certificates", type=Path, metavar="DIR", help="TLS files; made there if missing, for --name"
    )
    command.add_argument(
        "--name", action="append", default=[], help="host name or address that clients use, for certificates"
    )
    command.add_argument(
        "--insecure-anywhere", action="store_true", help="listen beyond this machine without TLS and users"
    )


def _settings(options: argparse.Namespace, credentials: Path) -> BrokerSettings:
    tls: ServerTls | None = None
    if options.certificates is not None:
        tls = files_in(options.certificates) or make_certificates(options.certificates, options.name)
    return BrokerSettings(
        host=options.host,
        port=options.port,
        tls=tls,
        users=_users(options, credentials),
        insecure_anywhere=options.insecure_anywhere,
        persistence=options.persistence,
    )


def _users(options: argparse.Namespace, credentials: Path) -> tuple[User, ...]:
    """Users with passwords: known ones from `credentials`, else random; all are written back."""
    wanted = {name: role for role in Role for name in getattr(options, role.value)}
    if not wanted:
        return ()
    known: dict[str, str] = json.loads(credentials.read_text()) if credentials.exists() else {}
    users = tuple(
        User(name, role, known.get(name) or secrets.token_urlsafe(18)) for name, role in wanted.items()
    )
    credentials.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(credentials, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({user.name: user.password for user in users}, file, indent=2)
    sys.stderr.write(f"flexspec-broker: passwords are in {credentials}\n")
    return users


def _render(options: argparse.Namespace) -> int:
    config = render(_settings(options, options.directory / _CREDENTIALS), options.directory)
    sys.stdout.write(f"{config}\n")
    return 0


def _run(options: argparse.Namespace) -> int:
    parent = os.getppid()
    if options.parent_death:
        end_with_parent(signal.SIGTERM)()
        if os.getppid() != parent:
            return 0  # it ended before we asked to be told
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    settings = _settings(options, options.credentials)
    with PrivateBroker(settings, output=sys.stderr.buffer) as broker:
        try:
            with announced(broker.port):
                _say_ready(broker, as_json=options.ready_json)
                code = broker.wait()
        except KeyboardInterrupt:
            return 0
    raise BrokerError(f"mosquitto ended by itself with code {code}", hint="see its log above")


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


def _check(options: argparse.Namespace) -> int:
    host, colon, port = options.address.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 2**16:
        raise BrokerError(f"{options.address!r} is not HOST:PORT", hint="for example 127.0.0.1:1883")
    password = None if options.password_file is None else options.password_file.read_text().partition("\n")[0]
    findings = check(
        Target(
            host.strip("[]"),
            int(port),
            options.username,
            password,
            options.ca,
            options.topic.strip("/"),
            options.timeout,
        )
    )
    failed = any(f.needed and not f.ok for f in findings)
    if options.json:
        rows = [{"name": f.name, "ok": f.ok, "needed": f.needed, "detail": f.detail} for f in findings]
        sys.stdout.write(json.dumps({"ok": not failed, "findings": rows}) + "\n")
        return int(failed)
    for finding in findings:
        mark = "ok  " if finding.ok else "FAIL" if finding.needed else "warn"
        sys.stdout.write(f"{mark}  {finding.name}: {finding.detail}\n")
        if not finding.ok and finding.advice:
            sys.stdout.write(f"      → {finding.advice}\n")
    return int(failed)


def _stop(options: argparse.Namespace) -> int:
    ports = stop(options.port)
    sys.stdout.write(f"stopped the broker on port {', '.join(str(p) for p in ports)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
