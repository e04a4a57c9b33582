"""Topic names. Short, because they are paid for on every publish.

`f1/o/<version>/<edge>` opens, `f1/d/<worker>/<edge>` drafts, polls and closes, `f1/v/<edge>` verdicts,
`f1/r/<edge>/<session>` answers that are kept for an edge, `f1/w/<worker>` worker status, `f1/t/<worker>` how its
target's texts are written, `f1/g/<holder>/<asker>` an edge gets a blob such as a tokenizer from a worker, or a worker a
long request from an edge, `f1/b/<edge>` and `f1/b/<worker>/<edge>` its pieces, `f1/e/<edge>` edge status,
`f1/h/<family>` catalogue, `f1/k/<family>` key set, `f1/i` the deployment's statement of its keys, `f1/s` what the
broker has on its disk; `f1/ask/<edge>/<user>` texts that a client asks an edge for, `f1/answer/<user>/<edge>` the
answers, `f1/a/<edge>` the edge's figures for those who ask.
"""

import re
from typing import NamedTuple

from flexspec_mq.errors import UsageError

ROOT = "f1"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
BRIDGED = frozenset("odvrewtgbhki")
"""Letters of the topics that brokers of a deployment carry to each other; asks and their answers stay at a site."""
_LEVELS = 8
"""Levels of a topic that a client may name for its answer."""


def checked(kind: str, name: str) -> str:
    """Return `name` if it can stand in a topic level.

    Raises:
        UsageError: it is empty, too long, or holds a character such as ``/``, ``+`` or ``#``.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{kind} name {name!r} cannot stand in a topic",
            hint="use 1 to 64 letters, digits, dots, dashes and underscores",
        )
    return name


def open_topic(version: str, edge: str) -> str:
    """Where an edge asks any worker of `version`."""
    return f"{ROOT}/o/{version}/{edge}"


def open_share(version: str, group: str) -> str:
    """The shared subscription that the workers of `version` share, in the group that `ShareGroups` names."""
    return f"$share/{group}/{ROOT}/o/{version}/+"


def draft_topic(worker: str, edge: str) -> str:
    """Where an edge sends drafts, polls and closes to the worker that holds its session."""
    return f"{ROOT}/d/{worker}/{edge}"


def draft_filter(worker: str) -> str:
    """Subscriptions of a worker."""
    return f"{ROOT}/d/{worker}/+"


def verdict_topic(edge: str) -> str:
    """Where workers answer an edge."""
    return f"{ROOT}/v/{edge}"


def delivery_topic(edge: str, session: int) -> str:
    """Retained answer of a session whose edge was away when it was written."""
    return f"{ROOT}/r/{edge}/{session}"


def delivery_filter(edge: str) -> str:
    """Subscription of an edge to the answers that are kept for it."""
    return f"{ROOT}/r/{edge}/+"


def session_of_delivery(topic: str, edge: str) -> int | None:
    """The session whose answer a topic carries; None for any other topic."""
    name = topic.removeprefix(delivery_filter(edge)[:-1])
    session = int(name) if _NUMBER.fullmatch(name) else -1
    return session if 0 <= session < 2**32 and name != topic else None


def worker_status_topic(worker: str) -> str:
    """Retained status of a worker."""
    return f"{ROOT}/w/{worker}"


def target_text_topic(worker: str) -> str:
    """Retained description of how the texts of a worker's target are written and read."""
    return f"{ROOT}/t/{worker}"


def blob_request_topic(holder: str, asker: str) -> str:
    """Where a client asks another one for some bytes of a blob."""
    return f"{ROOT}/g/{holder}/{asker}"


def blob_topic(asker: str) -> str:
    """Where the pieces come that a client has asked for."""
    return f"{ROOT}/b/{asker}"


def request_topic(worker: str, edge: str) -> str:
    """Where the pieces come that a worker has asked an edge for: nobody else can write them in its name."""
    return f"{ROOT}/b/{worker}/{edge}"


def edge_of_request(topic: str, worker: str) -> str | None:
    """The edge whose pieces a topic carries to a worker; None for any other topic."""
    edge = topic.removeprefix(request_topic(worker, ""))
    return edge if edge != topic and _NAME.fullmatch(edge) else None


def edge_status_topic(edge: str) -> str:
    """Retained status of an edge."""
    return f"{ROOT}/e/{edge}"


def catalogue_topic(family: str) -> str:
    """Retained catalogue of a family."""
    return f"{ROOT}/h/{family}"


def keys_topic(family: str) -> str:
    """Retained key set of a family."""
    return f"{ROOT}/k/{family}"


def statement_topic() -> str:
    """Retained statement of a deployment on its keys."""
    return f"{ROOT}/i"


def saved_topic() -> str:
    """Retained word of whoever runs the broker: which catalogue or key set is on its disk now, as `saved` has it."""
    return f"{ROOT}/s"


def saved(topic: bytes, client: bytes) -> bytes:
    """Payload on `saved_topic`: a message on `topic` that the client with this id published."""
    return topic + b" " + client


NOBODY = "flexspec-doctor"
"""Edge that there is not: what is sent to it disturbs nobody. A doctor tries there what only the edge itself may."""
ANYBODY = "anybody"
"""User in whose name an ask without a user is taken, where the broker knows none."""


def ask_filter(edge: str) -> str:
    """Subscription of an edge to all that it is asked."""
    return f"{ROOT}/ask/{edge}/#"


def ask_topic(edge: str, user: str) -> str:
    """Where a user asks an edge for a text."""
    return f"{ROOT}/ask/{edge}/{user}"


def client_of_ask(topic: str, edge: str) -> str | None:
    """The user who asks on a topic; `ANYBODY` where the topic names none, None if it is none of the edge's."""
    parts = topic.split("/")
    if parts[:3] != [ROOT, "ask", edge] or len(parts) > 4:
        return None
    user = parts[3] if len(parts) == 4 else ANYBODY
    return user if _NAME.fullmatch(user) else None


def answer_topic(user: str, edge: str, name: str = "") -> str:
    """Where an edge answers a user, and nobody else reads; with the name of the ask if it can stand in a topic."""
    branch = f"{ROOT}/answer/{user}/{edge}"
    return f"{branch}/{name}" if _NAME.fullmatch(name) else branch


def is_answer_topic(topic: str, user: str, edge: str) -> bool:
    """Whether an edge may answer a user on a topic: its own branch of that user's answers, or below it."""
    parts = topic.split("/")
    return (
        parts[:4] == [ROOT, "answer", user, edge]
        and len(parts) <= _LEVELS
        and all(_NAME.fullmatch(part) for part in parts[4:])
    )


def asked_topic(edge: str) -> str:
    """Retained figures of an edge for those who ask it."""
    return f"{ROOT}/a/{edge}"


class TopicSender(NamedTuple):
    """Who published on a topic of a worker's.

    Attributes:
        edge: name of the edge.
        version: target version that an open topic names; None on a draft topic, or one of requests for blobs.
    """

    edge: str
    version: str | None


def sender_of(topic: str) -> TopicSender | None:
    """Who published to a worker: an open, a draft, a request for a blob; None elsewhere, and of no possible name."""
    parts = topic.split("/", 4)
    if len(parts) != 4 or parts[0] != ROOT or not _NAME.fullmatch(parts[3]):
        return None
    if parts[1] == "o" and _NAME.fullmatch(parts[2]):
        return TopicSender(parts[3], parts[2])
    return TopicSender(parts[3], None) if parts[1] in ("d", "g") else None


def version_of_opens(topic_filter: str) -> str | None:
    """The version whose opens a filter takes, or None if it is not one of those."""
    parts = topic_filter.split("/")
    return parts[2] if len(parts) == 4 and parts[:2] == [ROOT, "o"] else None


def worker_of_status(topic: str, letter: str = "w") -> str | None:
    """The worker whose status a topic carries, or None for any other topic.

    With letter ``t`` the worker that tells of its target's texts, with ``e`` the edge whose status it is.
    """
    parts = topic.split("/", 3)
    return parts[2] if len(parts) == 3 and parts[:2] == [ROOT, letter] else None
