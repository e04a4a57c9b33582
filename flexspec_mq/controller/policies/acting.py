"""Plans from one of a few actions, held for a few tokens: what learned policies and their training have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexspec_mq.controller.actions import ACTIONS, MACRO, WAITING
from flexspec_mq.controller.choices import Choice
from flexspec_mq.controller.features import known
from flexspec_mq.controller.plan import Observation
from flexspec_mq.controller.policies.threshold import ThresholdPolicy

_ALL = tuple(range(len(ACTIONS)))


@dataclass(slots=True)
class ActingPolicy(ThresholdPolicy):
    """Leaves the choice to `act`; all else is as in `ThresholdPolicy`: what the user allows, and asking the worker.

    Attributes:
        hold: tokens for which an action holds, at least.
    """

    hold: int = MACRO
    _action: int | None = None
    _since: int = 0

    def act(self, seen: Observation, able: Sequence[int]) -> int:
        """Choose anew.

        Args:
            seen: `known`.
            able: numbers of actions that are allowed, in their order.
        """
        raise NotImplementedError

    def _choose(self, seen: Observation) -> Choice | None:
        if not known(seen):
            return None
        if self._action is None or seen.committed >= self._since + self.hold:
            self._action = self.act(seen, _ALL if self.base.ahead else WAITING)
            self._since = seen.committed
        action = ACTIONS[self._action]
        self._alone = action.worker and self.base.worker_draft > 0
        choice = action.choice
        most = self.most if seen.granted is None else min(self.most, seen.granted)
        if choice.length > most:
            choice = replace(choice, length=most)
        self._chosen = choice
        return choice
