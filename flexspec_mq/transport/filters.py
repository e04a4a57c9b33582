"""Topic filters by MQTT's rules."""


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
