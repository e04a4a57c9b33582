"""Settings of our daemons; `flexspec_mq.settings` does the work, and its errors become ours.

A daemon's own sections are in its ``settings.py``, the broker's address in `transport.arguments`, logs in `logs`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from flexspec_mq import settings as documents
from flexspec_mq import topics
from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Complaint, Loaded, Program, SettingError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

C = TypeVar("C")


def load(program: Program[C], args: argparse.Namespace) -> Loaded[C]:
    """Settings from the flags, the environment and the file.

    Raises:
        UsageError: an unknown key or an impossible value, with its origin and what is allowed.
    """
    try:
        return documents.load(program, args)
    except SettingError as error:
        raise UsageError(error.message, hint=error.hint) from error


def verify(section: Any) -> None:
    """Refuse a section that breaks a rule of its settings; for ``__post_init__``.

    Raises:
        UsageError: naming the first value that does.
    """
    for message, allowed in documents.complaints(section):
        raise UsageError(message, hint=allowed)


def name(kind: str) -> Callable[[str], Complaint | None]:
    """The rule of names that stand in topics, for `Setting.check`."""

    def check(value: str) -> Complaint | None:
        return complaint(topics.checked, kind, value)

    return check


def complaint(check: Callable[..., object], *values: object) -> Complaint | None:
    """What a function that raises `UsageError` has to say about values."""
    try:
        check(*values)
    except UsageError as error:
        return Complaint(error.message, error.hint)
    return None


def add_show_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add ``config show`` to a command's subcommands; return its parser, which wants the flags of the settings."""
    config = commands.add_parser("config", help="print what is in force, and where it comes from")
    actions = config.add_subparsers(dest="action", metavar="action", required=True)
    shows = actions.add_parser(
        "show", help="all settings, their values and origins; secrets are masked", allow_abbrev=False
    )
    shows.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return shows


def show(loaded: Loaded[Any], *, as_json: bool) -> None:
    """Print what is in force and where each value comes from."""
    sys.stdout.write(documents.as_json(loaded) if as_json else documents.as_table(loaded))


def named_after_user(loaded: Loaded[C], section: str, kind: str) -> Loaded[C]:
    """Settings of a daemon that was given no name of its own: it is named as its MQTT user, if there is one.

    Args:
        loaded: of a daemon with a section ``link``.
        section: that holds the name.
        kind: ``edge`` or ``worker``, which is also the key of the name.

    Raises:
        UsageError: the user's name cannot stand in a topic.
    """
    config: Any = loaded.settings
    if loaded.origins[kind].kind != "default" or config.link.username is None:
        return loaded
    name = user_as_name(kind, config.link.username)
    return replace(
        loaded,
        settings=replace(config, **{section: replace(getattr(config, section), **{kind: name})}),
        values={**loaded.values, kind: name},
        origins={**loaded.origins, kind: loaded.origins["username"]},
    )


def user_as_name(kind: str, username: str) -> str:
    """The name on topics of a daemon that was given none: that of its MQTT user.

    Args:
        kind: ``edge`` or ``worker``.
        username: at the broker.

    Raises:
        UsageError: it cannot stand in a topic.
    """
    try:
        return topics.checked(kind, username)
    except UsageError as error:
        raise UsageError(error.message, hint=f"give one with --{kind}; {error.hint}") from error
