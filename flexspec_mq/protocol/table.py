"""Transition tables: what happens in which state, and where it may lead. `docs/protocol.md` shows them.

A row is looked up by state and event. Its handler decides; the table checks that the machine then stands in one of
the row's next states. An event without a row is a protocol violation: counted, and told to whoever drives the machine.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Generic, TypeAlias, TypeVar

from flexspec_mq.errors import LocalProtocolError, RemoteProtocolError

S = TypeVar("S", bound=str)
E = TypeVar("E", bound=str)


class UnexpectedEvent(RemoteProtocolError):
    """An event that has no row in the state that it met. Counted; the machine goes on as if it had not come."""


@dataclass(frozen=True, slots=True)
class Transition(Generic[S, E]):
    """A row of a table.

    Attributes:
        state: state in which the event comes.
        event: event that comes.
        handler: function that carries it out; called with the machine and the event's own arguments.
        next: states in which the machine may stand afterwards.
        condition: condition of the cases that `action` tells apart, for readers; empty where there is one.
        action: words for what the handler does, for readers.
    """

    state: S
    event: E
    handler: Callable[..., Any]
    next: tuple[S, ...]
    action: str
    condition: str = ""


Rows: TypeAlias = tuple[
    tuple[tuple[S, ...], tuple[E, ...], Callable[..., None], tuple[S, ...], str, str], ...
]
"""States, events, handler, states where it may lead (none: it stays), condition and action."""


class TransitionTable(Generic[S, E]):
    """All rows of a machine, each state and event once.

    Args:
        rows: rows in the order in which documents show them, each for all of its states and events.

    Raises:
        LocalProtocolError: a state and an event have two rows.
    """

    def __init__(self, rows: Rows[S, E]) -> None:
        self._rows: dict[tuple[S, E], Transition[S, E]] = {}
        for states, events, handler, leads, condition, action in rows:
            for event, state in product(events, states):
                if (state, event) in self._rows:
                    raise LocalProtocolError(f"two rows for {event!r} in state {state!r}")
                row = Transition(state, event, handler, leads or (state,), action, condition)
                self._rows[state, event] = row

    def __iter__(self) -> Iterator[Transition[S, E]]:
        """The rows, in order."""
        return iter(self._rows.values())

    def expect(self, state: S, event: E, violations: Counter[tuple[S, E]]) -> Transition[S, E]:
        """The row of an event in a state.

        Raises:
            UnexpectedEvent: there is none; counted in `violations`.
        """
        row = self._rows.get((state, event))
        if row is None:
            violations[state, event] += 1
            raise UnexpectedEvent(f"{event} in state {state}")
        return row

    @staticmethod
    def check(row: Transition[S, E], state: S) -> None:
        """Check where a row's handler has led.

        Raises:
            LocalProtocolError: to none of the row's next states.
        """
        if state not in row.next:
            raise LocalProtocolError(
                f"{row.event} in state {row.state} led to {state}, not to {', '.join(row.next)}"
            )
