"""Names of daemons on topics: the rule for them, and the name of a daemon that was given none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from flexspec_mq import topics
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.declare import Complaint, complaint
from flexspec_mq.settings.load import Loaded

C = TypeVar("C")


def topic_name(kind: str) -> Callable[[str], Complaint | None]:
    """The rule of names that stand in topics, for `Setting.check`."""
    return lambda value: complaint(topics.checked, kind, value)


def named_after_user(loaded: Loaded[C], section: str, kind: str) -> Loaded[C]:
    """Settings of a daemon that was given no name of its own: it is named as its MQTT user, if there is one.

    Args:
        loaded: settings of a daemon with a section ``link``.
        section: name of the section that holds the name.
        kind: ``edge`` or ``worker``, which is also the key of the name.

    Raises:
        UsageError: the user's name cannot stand in a topic.
    """
    config: Any = loaded.settings
    if loaded.origins[kind].kind != "default" or config.link.username is None:
        return loaded
    try:
        name = topics.checked(kind, config.link.username)
    except UsageError as error:
        raise UsageError(error.message, hint=f"give one with --{kind}; {error.hint}") from error
    return replace(
        loaded,
        settings=replace(config, **{section: replace(getattr(config, section), **{kind: name})}),
        values={**loaded.values, kind: name},
        origins={**loaded.origins, kind: loaded.origins["username"]},
    )
