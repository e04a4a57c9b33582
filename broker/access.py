"""Who may read and write which topics: Mosquitto's access file.

An edge is pinned to the topics that end in its own user name, so no device can read another's verdicts or
draft in its name. A worker reads the opens of all edges and the drafts addressed to it, and answers any edge.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.settings import Role, User

# Mosquitto applies patterns to every user. `%u` is the user name, so they give each user its own topics only. It
# warns of patterns without one, so what all may read is written out for each of them.
_EVERY_USER = (
    "pattern write f1/o/+/%u",
    "pattern write f1/d/+/%u",
    "pattern read f1/v/%u",
    "pattern readwrite f1/e/%u",  # read, to see whether another device goes by the same name
    "pattern readwrite f1/r/%u/+",
)
_READ_BY_ALL = ("topic read f1/w/+", "topic read f1/h/+", "topic read f1/k/+")

_ROLES = {
    Role.EDGE: (),
    Role.WORKER: (
        "topic read f1/o/+/+",
        "topic read f1/d/{name}/+",
        "topic write f1/v/+",
        "topic write f1/r/+/+",
        "topic write f1/w/{name}",
    ),
    Role.PUBLISHER: ("topic write f1/h/+", "topic write f1/k/+", "topic read f1/e/+"),
    Role.OPERATOR: ("topic read f1/e/+", "topic read $SYS/#"),
}


def access_file(users: Iterable[User]) -> str:
    """Text of the access file for `users`."""
    blocks = ["\n".join(_EVERY_USER)]
    for user in users:
        rules = [rule.format(name=user.name) for rule in (*_READ_BY_ALL, *_ROLES[user.role])]
        blocks.append("\n".join([f"# {user.role.value}", f"user {user.name}", *rules]))
    return "\n\n".join(blocks) + "\n"
