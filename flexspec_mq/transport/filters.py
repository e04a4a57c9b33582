"""Topic filters by MQTT's rules."""

from flexspec_mq.errors import UsageError

_LONGEST = 65_535


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic under the filter `narrow` falls under the filter `wide`.

    A leading wildcard does not match topics that start with ``$``.
    """
    if narrow.startswith("$") and wide[:1] in ("+", "#"):
        return False
    wanted, levels = wide.split("/"), narrow.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(levels) or levels[i] == "#" or level not in ("+", levels[i]):
            return False
    return len(wanted) == len(levels)


def split_share(topic_filter: str) -> tuple[str | None, str]:
    """Split ``$share/<group>/<filter>`` into group and filter; the group is None for a plain filter."""
    if not topic_filter.startswith("$share/"):
        return None, topic_filter
    _, group, plain = topic_filter.split("/", 2)
    return group, plain


def check_topic(topic: str) -> None:
    """Refuse what cannot be published on.

    Raises:
        UsageError: empty, too long, or with a wildcard or a NUL.
    """
    if not topic or len(topic.encode()) > _LONGEST or any(c in topic for c in "+#\0"):
        raise UsageError(f"{topic!r} is not a topic to publish on")


def check_filter(topic_filter: str) -> None:
    """Refuse what cannot be subscribed to.

    Raises:
        UsageError: empty, too long, a wildcard inside a level, ``#`` before the end, or a broken ``$share``.
    """
    parts = topic_filter.split("/")
    if parts[0] == "$share":
        if len(parts) < 3 or not parts[1] or any(c in parts[1] for c in "+#"):
            raise UsageError(f"{topic_filter!r} is not $share/<group>/<filter>")
        parts = parts[2:]
    good = all(p in ("+", "#") or not any(c in p for c in "+#\0") for p in parts) and "#" not in parts[:-1]
    if not good or not any(parts) or len(topic_filter.encode()) > _LONGEST:
        raise UsageError(f"{topic_filter!r} is not a topic filter")
