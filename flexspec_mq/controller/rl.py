"""A policy that was learned in the simulator: the action with the highest score of a small network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.controller.action_space import ACTIONS, MACRO, WAITING, features, known
from flexspec_mq.controller.adaptive import AdaptivePolicy
from flexspec_mq.controller.network import Network, read_network, shipped_network
from flexspec_mq.errors import ModelError

if TYPE_CHECKING:
    from flexspec_mq.controller.observation import Observation
    from flexspec_mq.controller.plan import Plan

_ALL = tuple(range(len(ACTIONS)))
_STAYS = 0.1
"""Score by which another action has to be better than the one before."""


class ActionPolicy(AdaptivePolicy):
    """Leaves the choice among actions to `act`, within what the user allows; its training does so too.

    Args:
        base: see `AdaptivePolicy`.
        choose_qos: likewise.
        hold: tokens for which an action holds, at least.
    """

    def __init__(self, base: Plan, *, choose_qos: bool = False, hold: int = MACRO) -> None:
        super().__init__(base, choose_qos=choose_qos)
        self._hold = hold
        self._action: int | None = None
        self._since = 0

    def act(self, seen: Observation, able: Sequence[int]) -> int:
        """Choose anew.

        Args:
            seen: observation that is `known`.
            able: numbers of actions that are allowed, in their order.
        """
        raise NotImplementedError

    def plan(self, seen: Observation) -> Plan:
        """Plan the next batch."""
        base = self.base
        self._watch(seen)
        if not base.draft_length or not known(seen):
            self._look_at_qos(seen)
            return self._unknown()
        if self._action is None or seen.committed >= self._since + self._hold:
            self._look_at_qos(seen)
            self._action = self.act(seen, _ALL if base.ahead else WAITING)
            self._since = seen.committed
        action = ACTIONS[self._action]
        asks = not self.worker_alone and self._asks(seen)
        return self._plan_of(action.way, seen, worker=action.worker or asks)


class RlPolicy(ActionPolicy):
    """The action with the highest score, held for a few tokens.

    Args:
        base: see `AdaptivePolicy`.
        choose_qos: likewise.
        network: gives the scores; None is the one that ships.
    """

    def __init__(self, base: Plan, *, choose_qos: bool = False, network: Network | None = None) -> None:
        super().__init__(base, choose_qos=choose_qos)
        self._network = network or shipped_network()

    def act(self, seen: Observation, able: Sequence[int]) -> int:
        """The best of those allowed, or the one before while that is about as good."""
        scores = self._network.scores(features(seen))
        best, before = max(able, key=scores.__getitem__), self._action
        if before is not None and before in able and scores[best] <= scores[before] + _STAYS:
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
