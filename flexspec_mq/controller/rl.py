"""A policy that was learned in the simulator: the action with the highest score of a small network.

Features are numbers without a unit, most of them logarithms of ratios. Times count as shares of the target's forward,
so what was learned at one speed holds at another.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from operator import mul
from pathlib import Path
from typing import NamedTuple

from flexspec_mq.controller.adaptive import AdaptivePolicy
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.round_model import NOBODY, ROW, Drafting, worker_reading, worker_tokens
from flexspec_mq.errors import ModelError

FEATURES = (
    "round trip",
    "its deviation",
    "draft's token",
    "row",
    "acceptance, first place",
    "acceptance, next three",
    "acceptance, behind",
    "worker's own token",
    "reading for own drafts",
    "worker drafts",
    "worker was asked",
    "granted",
    "remaining",
    "queue",
    "forwards' deviation",
)
MACRO = 4
"""Tokens for which an action holds, at least."""
FORM = 1
"""Version of the file's format."""
_STAYS = 0.1
"""Score by which another action has to be better than the one before."""


class Action(NamedTuple):
    """A way to make drafts, and whether the worker may draft as well."""

    way: Drafting
    worker: bool = False

    @property
    def name(self) -> str:
        """Name in files of weights."""
        length, window, ahead = self.way.length, self.way.window, self.way.ahead
        if not length:
            return "worker" if self.worker else "nobody"
        words = f"K {length}, W {window}" if ahead else f"K {length}, waiting"
        return f"{words}, and worker" if self.worker else words


ACTIONS = (
    Action(NOBODY, worker=True),
    Action(NOBODY),
    *(Action(Drafting(length, 1, False)) for length in (2, 4, 8)),
    *(
        Action(Drafting(length, window, True))
        for length, window in ((4, 1), (8, 1), (4, 2), (8, 2), (2, 3), (4, 3))
    ),
    *(
        Action(Drafting(length, window, True), worker=True)
        for length, window in ((2, 1), (4, 1), (8, 1), (4, 2), (4, 3))
    ),
)
"""All actions, in the order of a policy's outputs."""
WAITING = tuple(number for number, action in enumerate(ACTIONS) if not action.way.ahead)
"""Numbers of the actions that need no look-ahead."""
_ALL = tuple(range(len(ACTIONS)))


def known(seen: Observation) -> bool:
    """Whether round trip, forward and draft were measured, without which there is nothing to learn from."""
    return seen.rtt is not None and seen.forward > 0.0 and seen.draft_timed


def features(seen: Observation) -> list[float]:
    """The numbers that `FEATURES` names, for an observation of which `known` holds."""
    forward, worker, places = seen.forward, seen.worker, seen.acceptance
    most = len(places) - 1

    def share(seconds: float) -> float:
        return log(min(max(seconds / forward, 1e-3), 1e3))

    return [
        share(seen.rtt or 0.0),
        share(seen.rtt_deviation),
        share(seen.draft_time or 0.0),
        share(ROW * forward if seen.row_cost is None else seen.row_cost),
        places[0],
        (places[min(1, most)] + places[min(2, most)] + places[min(3, most)]) / 3,
        (places[min(4, most)] + places[min(7, most)]) / 2,
        share(forward / worker_tokens(seen)),
        min(worker_reading(seen) / forward, 2.0),
        min(worker.per_verdict, 8.0) / 4,
        1.0 if worker.verdicts >= 4 else 0.0,
        log(min(16 if worker.granted is None else max(1, worker.granted), 16)),
        log(min(max(1, seen.remaining), 128)),
        share(seen.queue),
        share(seen.forward_deviation),
    ]


@dataclass(frozen=True, slots=True)
class Network:
    """Features, one layer of rectified units, and a score for each action.

    Attributes:
        hidden: weights of each unit, its bias last; as many as there are features and one.
        out: weights of each unit in each score.
        bias: bias of each score.
    """

    hidden: tuple[tuple[float, ...], ...]
    out: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    def scores(self, numbers: Sequence[float]) -> list[float]:
        """Scores of all actions; the highest is best.

        Args:
            numbers: as `features` gives them.
        """
        row = (*numbers, 1.0)
        scores = list(self.bias)
        for weights, shares in zip(self.hidden, self.out, strict=True):
            unit = sum(map(mul, weights, row))
            if unit > 0.0:
                scores = [score + unit * share for score, share in zip(scores, shares, strict=True)]
        return scores


def read_network(text: str, name: str) -> Network:
    """A network as `flexspec policy train` writes it.

    Args:
        text: text of the file.
        name: name of the file, for errors.

    Raises:
        ModelError: the text holds no network, or one that was trained for other features or actions.
    """
    try:
        weights = json.loads(text)
        same = (
            weights["form"] == FORM
            and tuple(weights["features"]) == FEATURES
            and weights["actions"] == [action.name for action in ACTIONS]
        )
        network = Network(
            tuple(tuple(map(float, row)) for row in weights["hidden"]),
            tuple(tuple(map(float, row)) for row in weights["out"]),
            tuple(map(float, weights["bias"])),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{name} holds no weights of a policy: {error}") from error
    widths = {len(row) for row in network.hidden}, {len(row) for row in network.out}, {len(network.bias)}
    shapes = {len(FEATURES) + 1}, {len(ACTIONS)}, {len(ACTIONS)}
    if not same or widths != shapes or len(network.hidden) != len(network.out):
        raise ModelError(
            f"{name} was trained for other features or actions than this version has",
            hint="train it anew with flexspec policy train",
        )
    return network


@cache
def network_of(weights: Path | None = None) -> Network:
    """The network of a file that `flexspec policy train` wrote, read once; for None the one that ships.

    Raises:
        ModelError: it cannot be read, or is of something else.
    """
    path = Path(__file__).with_name("weights") / "rl.json" if weights is None else weights
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the weights {path} cannot be read: {error}") from error
    return read_network(text, str(path))


class ActionPolicy(AdaptivePolicy):
    """Leaves the choice among actions to `act`, within what the user allows; its training does so too.

    Args:
        base: see `AdaptivePolicy`.
        choose_qos: likewise.
    """

    def __init__(self, base: Plan, *, choose_qos: bool = False) -> None:
        super().__init__(base, choose_qos=choose_qos)
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
        if self._action is None or seen.committed >= self._since + MACRO:
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
        self._network = network or network_of()

    def act(self, seen: Observation, able: Sequence[int]) -> int:
        """The best of those allowed, or the one before while that is about as good."""
        scores = self._network.scores(features(seen))
        best, before = max(able, key=scores.__getitem__), self._action
        if before is not None and before in able and scores[best] <= scores[before] + _STAYS:
            return before
        return best
