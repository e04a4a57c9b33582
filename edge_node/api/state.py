"""State that the routes share: settings, texts, and which versions can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_node.api.errors import ApiError
from schemas.openai import Model, ModelVersion

if TYPE_CHECKING:
    from edge_node.api.refusals import ClientRefusals
    from edge_node.api.request_body import Bodies
    from edge_node.api.settings import ApiSettings
    from edge_node.completion.metrics import Metrics
    from edge_node.completion.store import CompletionStore
    from edge_node.node import EdgeNode


@dataclass(frozen=True, slots=True)
class Api:
    """State that the routes share.

    Attributes:
        bodies: bodies of the requests that are being read.
        since: seconds since the Unix epoch at which the app was made.
    """

    settings: ApiSettings
    texts: CompletionStore
    node: EdgeNode
    metrics: Metrics
    refusals: ClientRefusals
    bodies: Bodies
    since: int

    def versions(self) -> dict[str, int]:
        """Versions that can be asked for, and since when; the node's own also while no worker is known."""
        own = self.node.version
        online = {version: epoch // 1000 for version, epoch in self.node.directory.versions().items()}
        return {own: online.get(own, self.since)} | online

    def models(self) -> dict[str, Model]:
        """All that can be asked for now, by id."""
        if self.node.models.followed is None:
            return {name: Model(id=name, created=since) for name, since in sorted(self.versions().items())}
        return {
            name: Model(
                id=name,
                created=since // 1000,
                flexspec=ModelVersion(
                    version=found.name,
                    state=found.state.name.lower(),
                    digest=found.digest.hex(),
                    share=found.share,
                    draft="independent" if found.base else "shared",
                ),
            )
            for name, since, found in self.node.models.listed()
        }

    def model(self, asked: str) -> Model:
        """A model by its id.

        Raises:
            ApiError: 404.
        """
        known = self.models()
        if asked not in known:
            raise _unknown(asked, sorted(known))
        return known[asked]

    def version(self, asked: str | None) -> str | None:
        """The version that a request means; with a family what it asks for, which means one when its text opens.

        Raises:
            ApiError: 404.
        """
        if self.node.models.followed is not None:
            return asked
        if asked is None:
            return self.node.version
        known = self.versions()
        if asked not in known:
            raise _unknown(asked, sorted(known))
        return asked

    def not_ready(self) -> str | None:
        """Why no text can be written now; None when it can."""
        if not self.node.link.is_up:
            return "the edge node has no link to its broker"
        return self.node.models.not_ready() or None


def _unknown(asked: str, known: list[str]) -> ApiError:
    return ApiError(
        404,
        f"there is no model {asked!r} here",
        code="model_not_found",
        param="model",
        hint=f"there is {', '.join(known) or 'none now'}",
    )
