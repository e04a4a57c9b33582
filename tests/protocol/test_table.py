"""Transition tables: lookup, surprises, next states, and what documents show."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

import pytest

from flexspec_mq.errors import LocalProtocolError
from flexspec_mq.protocol.table import Transition, TransitionTable, UnexpectedEvent


class State(StrEnum):
    OPEN = "open"
    SHUT = "shut"


class Event(StrEnum):
    PUSH = "push"
    PULL = "pull"


def _nothing() -> None:
    pass


PUSH = Transition(State.OPEN, Event.PUSH, _nothing, (State.SHUT,), "shut the door")
PULL = Transition(State.OPEN, Event.PULL, _nothing, (State.OPEN,), "nothing", "it is open")
TABLE = TransitionTable((PUSH, PULL))


def test_a_row_is_found_by_state_and_event() -> None:
    assert TABLE.row(State.OPEN, Event.PUSH) is PUSH
    assert TABLE.row(State.SHUT, Event.PUSH) is None
    assert list(TABLE) == [PUSH, PULL]


def test_an_event_without_a_row_is_counted() -> None:
    surprises: Counter[tuple[State, Event]] = Counter()
    assert TABLE.expect(State.OPEN, Event.PULL, surprises) is PULL
    for _ in range(2):
        with pytest.raises(UnexpectedEvent, match="push in state shut"):
            TABLE.expect(State.SHUT, Event.PUSH, surprises)
    assert surprises == {(State.SHUT, Event.PUSH): 2}


def test_a_handler_that_leads_elsewhere_is_our_bug() -> None:
    TABLE.check(PUSH, State.SHUT)
    with pytest.raises(LocalProtocolError, match="push in state open led to open, not to shut"):
        TABLE.check(PUSH, State.OPEN)


def test_two_rows_for_one_event_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="two rows"):
        TransitionTable((PUSH, PUSH))
