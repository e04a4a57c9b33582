"""``flexspec-broker``: render a configuration, run a broker, check one, stop one."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path
from types import FrameType

import msgspec

from broker.certificates import files_in, make_certificates
from broker.check import Target, check
from broker.config import render
from broker.errors import BrokerError, RefusedError
from broker.handing_out import hand_out
from broker.launcher import PrivateBroker, end_with_parent
from broker.running import announced, stop
from broker.settings import PROGRAM, BrokerConfig, BrokerSettings, ListenerOptions, Role, ServerTls, User
from flexspec_mq import settings as documents
from flexspec_mq.settings import Loaded, SettingError

_CREDENTIALS = "credentials.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 a check failed, 2 usage, 4 a broker error."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except SettingError as error:
        sys.stderr.write(f"flexspec-broker: {error.message}\n  → {error.hint}\n")
        return RefusedError.exit_code
    except BrokerError as error:
        sys.stderr.write(f"flexspec-broker: {error}\n")
        return error.exit_code
    except OSError as error:  # a folder or a file that the user named, or a full disk
        sys.stderr.write(f"flexspec-broker: {error}\n")
        return BrokerError.exit_code
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flexspec-broker", description="Mosquitto for FlexSpec MQ.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("render", help="write a Mosquitto configuration into a directory")
    command.add_argument("directory", type=Path)
    documents.add_flags(
        command,
        PROGRAM,
        defaults={"port": 1883, "persistence": True},
        without=("credentials", "persistence"),
    )
    command.set_defaults(run=_render)

    command = commands.add_parser("run", help="run a broker in the foreground, in a private directory")
    documents.add_flags(command, PROGRAM)
    command.add_argument("--ready-json", action="store_true", help="one JSON line when it answers")
    command.add_argument("--parent-death", action="store_true", help="end when the parent process ends")
    command.set_defaults(run=_run)

    command = commands.add_parser("config", help="print what is in force for `run`, and where it comes from")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    command = actions.add_parser("show", help="all settings, their values and origins")
    documents.add_flags(command, PROGRAM)
    command.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    command.set_defaults(run=_show)

    command = commands.add_parser("check", help="is this broker good enough?")
    command.add_argument("address", metavar="HOST:PORT")
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
    command.set_defaults(run=_check)

    command = commands.add_parser("stop", help="stop brokers that `run` started as this user")
    command.add_argument("--port", type=int, help="only the one on this port")
    command.set_defaults(run=_stop)
    return parser


def _load(options: argparse.Namespace) -> Loaded[BrokerConfig]:
    return documents.load(PROGRAM, options)


def _settings(listener: ListenerOptions, credentials: Path) -> BrokerSettings:
    tls: ServerTls | None = None
    if listener.certificates is not None:
        tls = files_in(listener.certificates) or make_certificates(listener.certificates, listener.name)
    users = _users(listener, credentials)
    if listener.hand_out is not None:
        hand_out(listener.hand_out, users, tls)
    return BrokerSettings(
        host=listener.host,
        port=listener.port,
        tls=tls,
        users=users,
        insecure_anywhere=listener.insecure_anywhere,
        persistence=listener.persistence,
        max_inflight=listener.max_inflight,
        max_queued=listener.max_queued,
        max_packet=listener.max_packet,
        session_expiry=listener.session_expiry,
    )


def _users(listener: ListenerOptions, credentials: Path) -> tuple[User, ...]:
    """Users with passwords: known ones from `credentials`, else random; all are written back."""
    wanted: dict[str, Role] = {}
    for role in Role:
        for name in getattr(listener, role.value):
            if name in wanted:
                raise RefusedError(
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
    descriptor = os.open(credentials, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        # Others stay: a user who is left out today may come back, with the password that the device knows.
        json.dump(known | {user.name: user.password for user in users}, file, indent=2)
    sys.stderr.write(f"flexspec-broker: passwords are in {credentials}\n")
    return users


def _passwords(credentials: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(_read(credentials), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise BrokerError(
            f"{credentials} is no JSON object of names and passwords: {error}",
            hint="mend it, or remove it to have all passwords drawn anew",
        ) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerError(f"{path} cannot be read: {error}", hint="give another file") from error


def _render(options: argparse.Namespace) -> int:
    listener = _load(options).settings.listener
    config = render(_settings(listener, options.directory / _CREDENTIALS), options.directory)
    sys.stdout.write(f"{config}\n")
    return 0


def _show(options: argparse.Namespace) -> int:
    loaded = _load(options)
    sys.stdout.write(documents.as_json(loaded) if options.json else documents.as_table(loaded))
    return 0


def _run(options: argparse.Namespace) -> int:
    listener = _load(options).settings.listener
    parent = os.getppid()
    if options.parent_death:
        end_with_parent(signal.SIGTERM)()
        if os.getppid() != parent:
            return 0  # it ended before we asked to be told
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    settings = _settings(listener, listener.credentials)
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
    if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 2**16:
        raise RefusedError(f"{options.address!r} is not HOST:PORT", hint="for example 127.0.0.1:1883")
    if not 0 < options.timeout < inf:
        raise RefusedError(f"a timeout of {options.timeout} s is none", hint="for example --timeout 5")
    if options.ca is not None:
        _read(options.ca)
    topic = options.topic or ("f1/check" if options.username is None else f"f1/r/{options.username}")
    password = None if options.password_file is None else _read(options.password_file).partition("\n")[0]
    findings = check(
        Target(
            host.strip("[]"),
            int(port),
            options.username,
            password,
            options.ca,
            topic.strip("/"),
            options.timeout,
        )
    )
    failed = any(f.needed and not f.ok for f in findings)
    if options.json:
        rows = [
            {"name": f.name, "ok": f.ok, "needed": f.needed, "detail": f.detail, "advice": f.advice}
            for f in findings
        ]
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
