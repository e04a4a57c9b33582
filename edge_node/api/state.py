"""What the routes share: settings, texts, and which versions can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_node.api.errors import ApiError

if TYPE_CHECKING:
    from edge_node.api.settings import ApiSettings
    from edge_node.completion.metrics import Metrics
    from edge_node.completion.store import CompletionStore
    from edge_node.node import EdgeNode


@dataclass(frozen=True, slots=True)
class Api:
    """What the routes share.

    Attributes:
        since: seconds since the Unix epoch at which the app was made.
    """

    settings: ApiSettings
    texts: CompletionStore
    node: EdgeNode
    metrics: Metrics
    since: int

    def versions(self) -> dict[str, int]:
        """Versions that can be asked for, and since when; the node's own also while no worker is known."""
        own = self.node.version
        online = {version: epoch // 1000 for version, epoch in self.node.directory.versions().items()}
        return {own: online.get(own, self.since)} | online

    def version(self, asked: str | None) -> str:
        """The version that a request means.

        Raises:
            ApiError: 404.
        """
        if asked is None:
            return self.node.version
        known = self.versions()
        if asked not in known:
            raise ApiError(
                404,
                f"there is no model {asked!r} here",
                code="model_not_found",
                param="model",
                hint=f"there is {', '.join(sorted(known))}",
            )
        return asked

    def not_ready(self) -> str | None:
        """Why no text can be written now; None when it can."""
        if not self.node.link_up:
            return "the edge node has no link to its broker"
        if not self.node.directory.blind and self.node.version not in self.node.directory.versions():
            return f"no worker of {self.node.version} is known to be online"
        return None
