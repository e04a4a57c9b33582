"""Mosquitto's log, read for who is connected, and for what was refused to whom, which is logged and counted.

Mosquitto tells of a publish that it denies at level debug only, and names the client id instead of the user. It
grants every subscription, and delivers what the access rules allow, without a word. So this keeps in mind which user
a client id is, tells of what was denied and of subscriptions that are none of the user's, and passes on the rest.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable

from broker.access import AccessRules, overheard
from broker.settings import CENTRE_NAME, Role, User
from flexspec_mq import topics
from flexspec_mq.daemon.expiring import LogThrottle
from flexspec_mq.share_groups import ShareGroups

_log = logging.getLogger(__name__)

_CHATTER = ("No will message", "Will message specified")
"""Beginnings of lines of level debug that do not come with every message."""
_DENIED = re.compile(r"Denied PUBLISH from (.*) \(d\d, q\d, r\d, m\d+, '(.*)', \.\.\. \(\d+ bytes\)\)")
_TRIED = topics.edge_status_topic(topics.NOBODY)
"""Topic on which doctors try whether they are refused."""
_LOGIN = re.compile(r"Client (.*) disconnected, not authorised\.")
_SUBSCRIBED = re.compile(r" [012] ")
_SOMEBODY = "unknown"
_MOST_CLIENTS = 100_000
"""Client ids that are remembered."""
_CONNECTED = re.compile(r"New client connected from (\S+) as (.*) \(p\d+, c\d, k\d+, u'([^']*)'\)\.")
_BRIDGED = re.compile(r"Bridge (local\.\S+) sending SUBSCRIBE .*")
_NAMELESS = re.compile(r"New client connected from (\S+):(\d+) as (?!.* \(p\d+, c\d, k\d+, u'[^']*'\)\.$)")
"""A client id of some 900 characters or more: Mosquitto cuts the line off before the user."""
_ENDED = re.compile(
    r"Client (.*) (?:closed its connection\.|disconnected(?:: .*| due to .*|\.)|has exceeded timeout, disconnecting\."
    r"|been disconnected by administrative action\.)|Bad socket read/write on client (.*): .*"
)


class ClientConnections:
    """Which user a client id is, and how many connections each user has.

    Attributes:
        made: connections of each user since the start, those that ended included.
    """

    def __init__(self) -> None:
        self.made = Counter[str]()
        self._users: dict[str, str] = {}
        self._now: set[str] = set()

    def line(self, line: str) -> None:
        """Read a line of the log, without its time."""
        if match := _CONNECTED.fullmatch(line):
            self._connected(match[2], match[3])
        elif match := _BRIDGED.fullmatch(line):
            if match[1] not in self._now:
                self._connected(match[1], CENTRE_NAME)
        elif match := _ENDED.fullmatch(line):
            self._now.discard(match[1] or match[2])

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
        self.made[user] += 1
        if len(self._users) > _MOST_CLIENTS:
            oldest = next(iter(self._users))
            del self._users[oldest]
            self._now.discard(oldest)


class MosquittoLog:
    """Reads Mosquitto's log, line by line.

    Args:
        heard: called with what is no chatter, as Mosquitto said it.
        clock: gives seconds.
        end_connection: ends the connection from a host and port.

    Attributes:
        counts: refusals since the start by user and kind: ``publish``, ``subscribe``, ``login``, and those that
            `refused` is given. Who was not let in is nobody's user.
        connections: who is connected.
    """

    def __init__(
        self,
        heard: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        end_connection: Callable[[str, int], bool] = lambda _host, _port: False,
    ) -> None:
        self.counts = Counter[tuple[str, str]]()
        self.connections = ClientConnections()
        self._heard = heard
        self._clock = clock
        self._end_connection = end_connection
        self._rules = AccessRules(())
        self._workers: set[str] = set()
        self._sites: set[str] = set()
        self._groups = ShareGroups()
        self._throttle = LogThrottle()

    def know(self, users: Iterable[User], groups: ShareGroups) -> None:
        """Learn the users of the broker, and the groups of its workers."""
        users = tuple(users)
        self._rules = AccessRules(users)
        self._workers = {user.name for user in users if user.role is Role.WORKER}
        self._sites = {user.name for user in users if user.role is Role.SITE}
        self._groups = groups

    def line(self, line: str) -> None:
        """Read a line of the log, without its time."""
        if match := _DENIED.fullmatch(line):
            if match[2] != _TRIED:
                self.refused(self.connections.user_of(match[1]) or _SOMEBODY, "publish", f"on {match[2]}")
        elif match := _LOGIN.fullmatch(line):
            self.refused(_SOMEBODY, "login", f"as client {match[1]!r}, whose name or password is wrong")
        elif (subscribed := self._subscription(line)) is not None:
            self._subscribed(*subscribed)
        elif match := _NAMELESS.match(line):
            self._end_nameless(match[1], int(match[2]))
        elif not line.startswith(_CHATTER):
            self.connections.line(line)
            self._heard(line)

    def _end_nameless(self, host: str, port: int) -> None:
        """End the connection of a client whose id keeps its user from being told: nothing of it could be counted."""
        try:
            done = "its connection was ended" if self._end_connection(host, port) else "it has gone"
        except OSError as error:
            done = f"its connection could not be ended ({error.strerror}), and nothing of it is counted"
        self.refused(_SOMEBODY, "client id", f"of some 900 characters, from {host}:{port}; {done}")

    def _subscription(self, line: str) -> tuple[str, str] | None:
        """User and filter of a line ``CLIENT QOS FILTER``, of which both may hold blanks."""
        for split in reversed(list(_SUBSCRIBED.finditer(line))):
            user = self.connections.user_of(line[: split.start()])
            if user is not None:
                return user, line[split.end() :]
        return None

    def _subscribed(self, user: str, topic_filter: str) -> None:
        if user in self._sites:  # a bridge asks for all, and is sent what its clients may read
            return
        groups = self._groups if user in self._workers else None
        why = overheard(self._rules.rules_of(user), groups, topic_filter)
        if why:
            self.refused(user, "subscribe", f"to {topic_filter}: {why}")

    def refused(self, user: str, kind: str, what: str) -> None:
        """Count a refusal, and log it: the first at once, then at most one a minute for a user and kind."""
        self.counts[user, kind] += 1
        count, times = self.counts[user, kind], self._throttle.due(user, kind, self._clock())
        if not times:
            return
        more = f"; {times} times since the last such line" if times > 1 else ""
        _log.warning(
            "user %s was refused: %s %s (%d of these since the start%s)", user, kind, what, count, more
        )
