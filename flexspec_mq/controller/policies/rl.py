"""A plan from a small network that was trained in the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from flexspec_mq.controller.features import features
from flexspec_mq.controller.network import Network, read_network, shipped_network
from flexspec_mq.controller.plan import Observation
from flexspec_mq.controller.policies.acting import ActingPolicy
from flexspec_mq.errors import ModelError


@dataclass(slots=True)
class RlPolicy(ActingPolicy):
    """The action with the highest score, held for a few tokens.

    Attributes:
        network: gives the scores.
        stays: another action has to score higher than the one before by so much.
    """

    network: Network = field(default_factory=shipped_network)
    stays: float = 0.1

    def act(self, seen: Observation, able: Sequence[int]) -> int:
        """The best of those allowed."""
        scores = self.network.scores(features(seen))
        best = max(able, key=scores.__getitem__)
        before = self._action
        if before is not None and before in able and scores[best] <= scores[before] + self.stays:
            return before
        return best


@cache
def network_of(weights: Path) -> Network:
    """The network of a file that `flexspec policy train` wrote, read once.

    Raises:
        ModelError: it cannot be read, or is of something else.
    """
    try:
        text = weights.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the weights {weights} cannot be read: {error}") from error
    return read_network(text, str(weights))
