"""Names that can be asked for: a version by its name, or with a family also the family itself and its channels.

With a family, a name is looked up in the catalogue when a text opens. Where the version that it means has no worker
yet, or no more, the family's name goes to one that has: an announcement may be here before a worker has its head.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING

from edge_node.fleet.directory import TargetVersion, WorkerDirectory
from flexspec_mq.catalogue import naming
from flexspec_mq.daemon.expiring import LogThrottle
from flexspec_mq.errors import WorkerError
from flexspec_mq.models.fingerprint import Difference
from schemas.catalogue import Catalogue, CatalogueVersion, VersionState
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from edge_node.fleet.catalogue import FamilyCatalogue

_log = logging.getLogger(__name__)


class NoCatalogue(WorkerError):
    """The family's catalogue has not come yet, or its key set has expired."""


class Models:
    """Names to versions, for one node.

    Args:
        directory: which versions have workers.
        own: version of a text that asks for none, without a family.
        followed: the family's catalogue; None without a family.
    """

    def __init__(self, directory: WorkerDirectory, own: str, followed: FamilyCatalogue | None) -> None:
        self._directory = directory
        self._own = own
        self.followed = followed
        self._throttle = LogThrottle(inf)

    @property
    def default(self) -> str:
        """The name that a text means which asks for nothing."""
        return self._own if self.followed is None else self.followed.family

    async def settled(self) -> None:
        """Wait until what the broker keeps of the family has come; not for long."""
        if self.followed is not None:
            await self.followed.settled()

    def resolve(self, model: str | None, key: bytes) -> TargetVersion:
        """The version that a text opens on now.

        Args:
            model: name that it asks for; None is the default.
            key: names its conversation.

        Raises:
            NoSuchVersion: nothing goes by that name, or only a retired version.
            NoCatalogue: there is no catalogue yet.
        """
        if self.followed is None:
            return TargetVersion(model or self._own)
        catalogue, family = self._catalogue(self.followed), self.followed.family
        model = model or family
        meant = naming.resolve(catalogue, model, key)
        choices = (meant, *_instead(catalogue, model))
        version = next((choice for choice in choices if self._since(choice) is not None), meant)
        return _target(version)

    def is_online(self, target: TargetVersion) -> bool:
        """Whether the status of a worker says that it serves a version."""
        return self._directory.since(target) is not None

    def listed(self) -> list[tuple[str, int, CatalogueVersion]]:
        """Names of the family that have a worker, since when (ms since the Unix epoch), and the version that they mean.

        None without a family or catalogue.
        """
        if self.followed is None or self.followed.lapsed or (catalogue := self.followed.catalogue) is None:
            return []
        names: list[tuple[str, int, CatalogueVersion]] = []
        for name in naming.names(catalogue):
            version = (
                naming.stable(catalogue) if name == catalogue.family else naming.resolve(catalogue, name, b"")
            )
            for choice in (version, *_instead(catalogue, name)):
                if (since := self._since(choice)) is not None:
                    names.append((name, since, choice))
                    break
        return names

    def warn_of_difference(self, status: WorkerStatus) -> None:
        """Say once how the tokenizer of a target that may be asked for differs from the draft's."""
        differs = self._directory.compare(status)
        words = differs.fatal or differs.harmless
        names = self.meant(status)
        if not words or not names or status.state != "online" or not self._throttle.due("", words, 0.0):
            return
        what = (
            f"the tokenizer of {', '.join(names)} at worker {status.worker} is not quite the draft's: {words}"
        )
        if differs.fatal:
            what = f"{what}; no text of it can be written with this draft"
        _log.warning("%s", what)

    def not_ready(self) -> str:
        """Why no text can be written now; empty when it can, as far as anybody knows."""
        if self._directory.blind and (self.followed is None or self.followed.catalogue is not None):
            return ""
        if self.followed is None:
            if self._own not in self._directory.versions():
                return f"no worker of {self._own} is known to be online"
        elif lapsed := self.followed.lapsed:
            return lapsed
        elif self.followed.catalogue is None:
            return f"no catalogue of the family {self.followed.family} has come"
        elif not self.listed():
            return f"no worker of any version of {self.followed.family} is known to be online"
        fatal = [differs.fatal for differs in self._differences()]
        return f"the draft is for another tokenizer than the target's: {fatal[0]}" if all(fatal) else ""

    def differing(self) -> str:
        """How the tokenizer of a target that can be asked for differs from the draft's; empty if it does not."""
        words = (differs.fatal or differs.harmless for differs in self._differences())
        return next((difference for difference in words if difference), "")

    def meant(self, status: WorkerStatus) -> list[str]:
        """Versions of a worker on which a text that asks for nothing could open."""
        return [version.name for version in status.ready if self._may_mean(version.name)]

    def _may_mean(self, version: str) -> bool:
        """Whether a text that asks for nothing could open on a version."""
        if self.followed is None:
            return version == self._own
        catalogue = self.followed.catalogue
        return catalogue is not None and any(known.name == version for known in catalogue.versions)

    def _differences(self) -> list[Difference]:
        """Differences of the tokenizers of what can be asked for, of at least one version."""
        versions = [version.name for _, _, version in self.listed()] or [self._own]
        return [self._directory.difference(version) for version in versions]

    def _catalogue(self, followed: FamilyCatalogue) -> Catalogue:
        if lapsed := followed.lapsed:
            raise NoCatalogue(
                f"{lapsed}, so its catalogue is not believed for a new text",
                hint="the owner of the root key signs a later one with `flexspec head trust`",
            )
        if followed.catalogue is None:
            raise NoCatalogue(
                f"no catalogue of the family {followed.family} has come"
                + (f" that holds ({followed.why})" if followed.why else ""),
                hint="its operator publishes one with `flexspec head publish`; `flexspec-edge doctor` says more",
            )
        return followed.catalogue

    def _since(self, version: CatalogueVersion) -> int | None:
        return self._directory.since(_target(version))


def _target(version: CatalogueVersion) -> TargetVersion:
    return TargetVersion(version.name, version.digest.hex())


def _instead(catalogue: Catalogue, model: str) -> Iterator[CatalogueVersion]:
    """Versions that the family or its stable channel may go to, the best first; a named version goes nowhere else."""
    if model == catalogue.family:
        yield naming.stable(catalogue)
        yield from (known for known in catalogue.versions if known.state is VersionState.CANARY)
    if model in (catalogue.family, f"{catalogue.family}:stable"):
        yield from (known for known in reversed(catalogue.versions) if known.state is VersionState.DRAINING)
