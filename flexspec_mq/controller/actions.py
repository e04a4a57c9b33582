"""What a learned policy chooses from: a dozen ways to make drafts, spread over all that `choices` has."""

from __future__ import annotations

from dataclasses import dataclass

from flexspec_mq.controller.choices import NOBODY, Choice


@dataclass(frozen=True, slots=True)
class Action:
    """One of them.

    Attributes:
        name: for people.
        choice: how the device drafts.
        worker: the worker may draft as well.
    """

    name: str
    choice: Choice
    worker: bool = False


def _device(length: int, window: int, *, ahead: bool, worker: bool = False) -> Action:
    way = f"K {length}, W {window}" if ahead else f"K {length}, waiting"
    return Action(f"{way}, and worker" if worker else way, Choice(length, window, ahead), worker)


ACTIONS = (
    Action("worker", NOBODY, worker=True),
    Action("nobody", NOBODY),
    *(_device(length, 1, ahead=False) for length in (2, 4, 8)),
    *(
        _device(length, window, ahead=True)
        for length, window in ((4, 1), (8, 1), (4, 2), (8, 2), (2, 3), (4, 3))
    ),
    *(
        _device(length, window, ahead=True, worker=True)
        for length, window in ((2, 1), (4, 1), (8, 1), (4, 2), (4, 3))
    ),
)
"""Their order is that of a policy's outputs."""
WAITING = tuple(number for number, action in enumerate(ACTIONS) if not action.choice.ahead)
"""Those that need no run-ahead."""
MACRO = 4
"""Tokens for which an action holds, at least."""
