"""Who may read and write which topics: the table of rules, and Mosquitto's access file made from it.

Rules go by the name of the user, so a device can neither read another's verdicts nor draft in its name. A worker
reads the opens of its versions and the drafts addressed to it. Where the deployment says which versions and workers
there are, every topic that a device may write is spelled out, which bounds what it can have retained; but for its
answers to those who may ask it.

Mosquitto does not look at this file when somebody subscribes, only when it delivers: a message that a member of a
group may not read is lost when its turn comes. So the name of the workers' group is a secret of theirs
(`flexspec_mq.share_groups`). `overheard` tells which subscriptions are none of a user's. The letters of
topics are explained in `flexspec_mq/topics.py`.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from broker.settings import Role, User
from flexspec_mq import topics
from flexspec_mq.share_groups import ShareGroups
from flexspec_mq.transport.filters import covers, split_share


class AccessRule(NamedTuple):
    """A permission of a role; a will is a write.

    The topic is a filter with ``{name}`` of the user, and for each of them ``{version}``, which a worker may serve,
    ``{asked}``, a version that devices may ask for, which is any if some worker serves any, ``{worker}``, ``{edge}``,
    which may be asked, and ``{asker}``, who may ask; ``{family}`` is any, for who is bound to no version.
    """

    verb: Literal["read", "write", "readwrite"]
    topic: str


_SELF = (
    AccessRule(
        "read", "f1/r/{name}/+"
    ),  # a device's answers; its worker clears them, or it could fill the broker
    AccessRule("write", "f1/r/{name}/check"),  # for `flexspec-broker check`
    AccessRule("write", "f1/r/{name}/checka"),
    AccessRule("write", "f1/r/{name}/checkb"),
)
_ALL = (
    AccessRule("read", "f1/w/+"),
    AccessRule("read", "f1/t/+"),
    AccessRule("read", "f1/h/+"),
    AccessRule("read", "f1/k/+"),
    AccessRule("read", "f1/i"),
    *_SELF,
)

RULES: dict[Role, tuple[AccessRule, ...]] = {
    Role.EDGE: (
        *_ALL,
        AccessRule("write", "f1/o/{asked}/{name}"),
        AccessRule("write", "f1/d/{worker}/{name}"),
        AccessRule("read", "f1/v/{name}"),
        AccessRule("write", "f1/g/{worker}/{name}"),
        AccessRule("read", "f1/b/{name}"),
        AccessRule("read", "f1/g/{name}/+"),  # the other way round: its long requests, which a worker fetches
        AccessRule("write", "f1/b/{worker}/{name}"),
        AccessRule("readwrite", "f1/e/{name}"),  # read, to see whether another device goes by the same name
        AccessRule("read", "f1/ask/{name}/#"),
        AccessRule("write", "f1/answer/{asker}/{name}/#"),  # which says who answers
        AccessRule("write", "f1/a/{name}"),
        AccessRule("read", "homeassistant/status"),
        AccessRule("write", "homeassistant/device/flexspec-{name}/config"),
    ),
    Role.WORKER: (
        *_ALL,
        AccessRule("read", "f1/o/{version}/+"),
        AccessRule("read", "f1/d/{name}/+"),
        AccessRule("read", "f1/g/{name}/+"),
        AccessRule("write", "f1/v/+"),
        AccessRule("write", "f1/b/+"),
        AccessRule("write", "f1/g/+/{name}"),
        AccessRule("read", "f1/b/{name}/+"),
        AccessRule("write", "f1/r/+/+"),
        AccessRule("write", "f1/w/{name}"),
        AccessRule("write", "f1/t/{name}"),
        AccessRule("write", "f1/o/{asked}/{name}"),  # as devices may: the doctor writes to itself
        AccessRule("write", "f1/d/{worker}/{name}"),
        AccessRule("read", "f1/v/{name}"),
        AccessRule("write", "f1/h/{family}"),  # to put back what the broker lost
        AccessRule("write", "f1/k/{family}"),
    ),
    Role.PUBLISHER: (
        *_ALL,
        AccessRule("write", "f1/h/{family}"),
        AccessRule("write", "f1/k/{family}"),
        AccessRule("read", "f1/s"),
        AccessRule("read", "f1/e/+"),
    ),
    Role.OPERATOR: (*_ALL, AccessRule("read", "f1/e/+"), AccessRule("read", "$SYS/#")),
    Role.ASKER: (
        *_SELF,
        AccessRule("write", "f1/ask/{edge}/{name}"),  # which says who asks, and so who may be answered
        AccessRule("read", "f1/answer/{name}/#"),
        AccessRule("read", "f1/a/{edge}"),
        AccessRule("read", "homeassistant/#"),  # where the asker is a Home Assistant
        AccessRule("write", "homeassistant/status"),
    ),
    Role.SITE: (),  # those of the clients that connect to its broker
    Role.CENTRE: (AccessRule("readwrite", "f1/#"),),
    Role.DEPLOYMENT: (AccessRule("readwrite", "f1/i"), AccessRule("write", "f1/s")),
}
"""Whatever is not in it is forbidden."""


class AccessRules:
    """Rules of all users of a broker."""

    def __init__(self, users: Iterable[User]) -> None:
        self._users = {user.name: user for user in users}
        workers = [user for user in self._users.values() if user.role is Role.WORKER]
        if any(user.role is Role.CENTRE for user in self._users.values()):
            workers = []  # others serve behind the bridge, and the central broker knows which
        asked = {version for worker in workers for version in worker.versions}
        self._asked = sorted(asked) if all(worker.versions for worker in workers) else ()
        self._workers = sorted(worker.name for worker in workers)
        self._askers = [user for user in self._users.values() if user.role is Role.ASKER]

    def rules_of(self, name: str) -> list[AccessRule]:
        """The rules of a user, with all names filled in; ``+`` stands where any name will do. Nobody has none."""
        user = self._users.get(name)
        if user is None:
            return []
        if user.role is Role.SITE:
            return self._rules_of_site(name)
        askers = [asker.name for asker in self._askers if name in (asker.edges or (name,))]
        return self._filled(user.role, name, askers, user.versions, user.edges)

    def _rules_of_site(self, site: str) -> list[AccessRule]:
        """The rules of a site's clients, as far as their messages cross the bridge: where it has workers, theirs."""
        own = [user for user in self._users.values() if user.site == site]
        acting = [user for user in own if user.role is Role.WORKER] or own
        rules = [rule for user in acting for rule in self.rules_of(user.name)]
        rules += (
            AccessRule("write", topics.edge_status_topic(user.name)) for user in own if user not in acting
        )
        return [rule for rule in dict.fromkeys(rules) if rule.topic.split("/")[1] in topics.BRIDGED]

    def file(self) -> str:
        """Text of the access file; who is not in it has no password.

        Devices share patterns, of which others are denied what is none of theirs. With a block for each of 10,000
        devices, Mosquitto would need many seconds to read the file, and walk through the blocks at each login.
        """
        patterns = self._filled(Role.EDGE, "%u", [asker.name for asker in self._askers if not asker.edges])
        blocks = ["\n".join(f"pattern {rule.verb} {rule.topic}" for rule in patterns)]
        asked_by_name = {edge for asker in self._askers for edge in asker.edges}
        for name, user in self._users.items():
            if user.role is Role.EDGE and name not in asked_by_name:
                continue
            rules = self.rules_of(name)
            shared = [AccessRule(rule.verb, rule.topic.replace("%u", name)) for rule in patterns]
            lines = [f"topic {rule.verb} {rule.topic}" for rule in rules if rule not in shared]
            lines += [f"topic deny {rule.topic}" for rule in shared if not _is_within(rule, rules)]
            blocks.append("\n".join((f"# {user.role.value}", f"user {name}", *lines)))
        return "\n\n".join(blocks) + "\n"

    def _filled(
        self,
        role: Role,
        name: str,
        askers: Iterable[str],
        versions: Iterable[str] = (),
        edges: Iterable[str] = (),
    ) -> list[AccessRule]:
        names_of = {
            "{name}": [name],
            "{family}": [] if versions else ["+"],
            "{version}": versions or ["+"],
            "{asked}": self._asked or ["+"],
            "{worker}": self._workers or ["+"],
            "{edge}": edges or ["+"],
            "{asker}": sorted(askers),
        }
        rules = list(RULES[role])
        for part, names in names_of.items():
            rules = [
                AccessRule(rule.verb, rule.topic.replace(part, name))
                for rule in rules
                for name in (names if part in rule.topic else ("",))
            ]
        return rules


def _is_within(rule: AccessRule, rules: Iterable[AccessRule]) -> bool:
    return any(rule.verb in other.verb and covers(other.topic, rule.topic) for other in rules)


def overheard(rules: Iterable[AccessRule], groups: ShareGroups | None, topic_filter: str) -> str:
    """Why a subscription is none of a user's; empty if it is its own.

    Args:
        rules: rules of the user, as `AccessRules.rules_of` gives them.
        groups: groups of workers; None if the user is none.
        topic_filter: as it was subscribed to.
    """
    group, bare = split_share(topic_filter)
    if not any(covers(rule.topic, bare) for rule in rules if rule.verb != "write"):
        return "it may read a part of that only, or nothing"
    version = topics.version_of_opens(bare)
    if group is not None and version is not None and (groups is None or group != groups.group_of(version)):
        return "it is not in that group of workers"
    return ""
