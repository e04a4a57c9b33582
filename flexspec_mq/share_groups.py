"""Names of the groups in which the workers of a version share its opens.

Whoever joins the group gets opens in turn, and Mosquitto lets anybody join who knows its name: it asks its access
file only when it delivers, and what a member may not read is lost. So on a broker with users the name is known to the
workers of that version alone. `flexspec-broker add-worker` gives each a file: lines of a version and its group, or
``*`` and the key from which the group of any version follows. Without a file all workers are in the group ``w``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from flexspec_mq import topics
from flexspec_mq.errors import UsageError

_PUBLIC = "w"
_ANY = "*"


@dataclass(frozen=True, slots=True)
class ShareGroups:
    """Knowledge of the groups' names.

    Attributes:
        key: hexadecimal; from it follow all groups. Empty if not known.
        groups: version → group, for those who know some only.
    """

    key: str = field(default="", repr=False)
    groups: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def public(self) -> bool:
        """Whether the group has the name that everybody knows."""
        return not self.key and not self.groups

    def group_of(self, version: str) -> str:
        """The group of a version.

        Raises:
            UsageError: it is not known.
        """
        if self.public:
            return _PUBLIC
        if self.key:
            return blake2b(version.encode(), key=bytes.fromhex(self.key), digest_size=16).hexdigest()
        group = self.groups.get(version)
        if group is None:
            raise UsageError(
                f"the file of --share-groups has no group for version {version}",
                hint=f"the broker lets this worker serve {', '.join(self.groups)}: `flexspec-broker add-worker` "
                "with --version for each version writes a new file",
            )
        return group

    def only(self, versions: Iterable[str]) -> ShareGroups:
        """Knowledge for a worker of these versions; all if there are none."""
        groups = {version: self.group_of(version) for version in versions}
        return ShareGroups("", groups) if groups else self

    def text(self) -> str:
        """As a file."""
        known = {_ANY: self.key} if self.key else self.groups
        return "".join(f"{version} {group}\n" for version, group in known.items())


def new_groups() -> ShareGroups:
    """Groups that nobody knows yet."""
    return ShareGroups(secrets.token_hex(32))


def read_groups(path: Path | None) -> ShareGroups:
    """The groups in a file; without one, the group that everybody knows.

    Raises:
        UsageError: the file cannot be read, or is none of these.
    """
    if path is None:
        return ShareGroups()
    try:
        groups = dict(_line(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, ValueError, UsageError) as error:
        raise UsageError(
            f"--share-groups {path} cannot be used: {error}",
            hint="give the file of `flexspec-broker add-worker`",
        ) from error
    if not groups:
        raise UsageError(f"--share-groups {path} is empty", hint="copy it again from the broker's identities")
    key = groups.pop(_ANY, "")
    return ShareGroups(key, groups)


def _line(line: str) -> tuple[str, str]:
    version, _, group = line.strip().partition(" ")
    if version == _ANY:
        bytes.fromhex(group)
    else:
        topics.checked("version", version)
    return version, topics.checked("group", group)
