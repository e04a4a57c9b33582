"""Which user a client id is, and how many connections each has, by Mosquitto's log."""

from __future__ import annotations

import re
from collections import Counter

_MOST_CLIENTS = 20_000
"""Client ids that are kept in mind."""
_CONNECTED = re.compile(r"New client connected from (\S+) as (.*) \(p\d+, c\d, k\d+, u'([^']*)'\)\.")
_ENDED = re.compile(
    r"Client (.*) (?:closed its connection\.|disconnected(?:: .*| due to .*|\.)|has exceeded timeout, disconnecting\."
    r"|been disconnected by administrative action\.)|Bad socket read/write on client (.*): .*"
)


class Connections:
    """Reads Mosquitto's log, line by line, for who comes and goes."""

    def __init__(self) -> None:
        self._users: dict[str, str] = {}
        self._now: set[str] = set()

    def line(self, line: str) -> None:
        """A line of the log, without its time."""
        if found := _CONNECTED.fullmatch(line):
            self._connected(found[2], found[3])
        elif found := _ENDED.fullmatch(line):
            self._now.discard(found[1] or found[2])

    def user_of(self, client: str) -> str | None:
        """The user that a client id is, or was last; None if it is not known."""
        return self._users.get(client)

    def counts(self) -> Counter[str]:
        """Connections of each user that has any, now. A client id has one at most."""
        return Counter(self._users[client] for client in tuple(self._now))

    def _connected(self, client: str, user: str) -> None:
        self._users.pop(client, None)  # the newest come last
        self._users[client] = user
        self._now.add(client)
        if len(self._users) > _MOST_CLIENTS:
            oldest = next(iter(self._users))
            del self._users[oldest]
            self._now.discard(oldest)
