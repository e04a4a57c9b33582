"""Whether a deployment is open where it should not be: to the network, to this machine's users, to other clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq import topics
from flexspec_mq.doctor import link as links
from flexspec_mq.settings.hosts import is_loopback
from flexspec_mq.transport.base import NOT_AUTHORIZED

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from flexspec_mq.doctor.findings import Findings
    from flexspec_mq.transport.base import Link, LinkSettings

NAME = "exposure"
FAULT = "open deployment"
_NOBODY = "flexspec-doctor"
_OTHERS = 0o077
_DEPLOY = "`flexspec-broker init` makes a broker with TLS and users"


async def check_exposure(
    findings: Findings,
    link: Link,
    settings: LinkSettings,
    secrets: Iterable[Path | None],
    *,
    public_group: bool = False,
    keyed: bool = False,
) -> None:
    """Warn of everything that lets in who should not be.

    Args:
        findings: to add to.
        link: of the doctor's own, logged in.
        settings: of the daemon's link.
        secrets: files that nobody else should read.
        public_group: this worker shares sessions in the group that any client may join.
        keyed: the daemon has keys, by which it knows whom it talks to.

    Raises:
        LinkError: the link failed.
    """
    loopback = is_loopback(settings.host)
    found: list[tuple[str, str]] = []
    if not loopback and settings.tls is None:
        plain = f"what goes to {settings.host} can be read and changed on the way: it has no TLS"
        found.append((plain, _DEPLOY))
    if not loopback and settings.username is None:
        found.append(("the broker lets in anybody, without a login", _DEPLOY))
    if not loopback and not keyed:
        forged = (
            "whoever runs the broker can read texts and forge answers, as any worker can: no keys are used"
        )
        found.append(
            (forged, "give --keys the keys.json of this daemon; `flexspec-broker init DIR --keys` makes them")
        )
    found += [
        (f"others on this machine can read {path}", f"chmod 600 {path}")
        for path in secrets
        if path is not None and path.exists() and path.stat().st_mode & _OTHERS
    ]
    # A message that says nothing to an edge that nobody is; an edge's status is for that edge alone to write.
    strange = topics.edge_status_topic(_NOBODY)
    if settings.username is not None:
        if await links.may_publish(link, strange, b"") != NOT_AUTHORIZED:
            rules = f"the broker lets user {settings.username!r} write where only another may: {strange}"
            found.append((rules, f"give it access rules for each user: {_DEPLOY}"))
        if public_group:
            group = "any device of this broker can take sessions away: the workers' group has the name that all know"
            found.append((group, "give --share-groups, a file of `flexspec-broker add-worker`"))
    for detail, advice in found:
        findings.warn(NAME, detail, advice, FAULT)
    if not found:
        how = "only this machine reaches the broker" if loopback else "over TLS, with a login and keys"
        findings.ok(NAME, f"{how}; nothing is open that should not be, as far as can be seen from here")
