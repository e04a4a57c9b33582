"""The edge's table: each event has a row where it may come, and none where it cannot."""

from __future__ import annotations

import pytest

from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.protocol.edge.session import TABLE, EdgeSession
from flexspec_mq.protocol.edge.types import DraftToken, EdgeEvent, EdgeState
from flexspec_mq.protocol.table import UnexpectedEvent
from schemas.messages import Close, Error, ErrorCode
from tests.protocol.test_edge_rules import sent, session, started, verdict

MESSAGES = [
    EdgeEvent.VERDICT,
    EdgeEvent.BUSY,
    EdgeEvent.NEED_PREFIX,
    EdgeEvent.UNKNOWN,
    EdgeEvent.INTERNAL,
    EdgeEvent.REFUSED,
]
BEGUN = [EdgeState.OPENING, EdgeState.ACTIVE, EdgeState.DONE]


@pytest.mark.parametrize("state", BEGUN)
def test_any_message_may_come_late_in_any_state_once_a_session_has_begun(state: EdgeState) -> None:
    for event in MESSAGES:
        assert TABLE.row(state, event) is not None, event


def test_nothing_leads_out_of_the_end_and_every_row_says_what_it_does() -> None:
    for row in TABLE:
        assert row.action
        assert row.next
        if row.state is EdgeState.DONE:
            assert row.next == (EdgeState.DONE,)
        assert EdgeState.NEW not in row.next or row.state is EdgeState.NEW


def done() -> EdgeSession:
    machine = started()
    machine.cancel(0.2)
    return machine


@pytest.mark.parametrize("code", list(ErrorCode))
def test_errors_that_come_after_the_end_are_counted(code: ErrorCode) -> None:
    machine = done()
    assert machine.receive(Error(1, 1, code, 0, "w"), 0.3) == []
    assert machine.counters.ignored == 1
    assert not machine.surprises


def test_what_a_driver_may_still_say_after_the_end_changes_nothing() -> None:
    machine = done()
    before = machine.committed
    assert machine.drafted(0, 0, DraftToken(1), 0.3) == []
    assert machine.draft_stopped(0, 0, 0.3) == []
    assert machine.no_worker(0.3) == machine.prefix_lost(0.3) == machine.cancel(0.3) == []
    assert machine.link_down(0.4) == machine.link_up(0.5) == []
    assert (machine.committed, machine.state) == (before, EdgeState.DONE)
    assert len(sent(machine.receive(verdict((), (), worker="w"), 0.6), Close)) == 1


def test_an_event_without_a_row_is_a_counted_surprise() -> None:
    machine = session()
    with pytest.raises(UnexpectedEvent, match="drafted token in state new"):
        machine.drafted(0, 0, DraftToken(1), 0.0)
    with pytest.raises(RemoteProtocolError):
        machine.no_worker(0.0)
    assert machine.surprises == {
        (EdgeState.NEW, EdgeEvent.DRAFTED): 1,
        (EdgeState.NEW, EdgeEvent.NO_WORKER): 1,
    }
    machine.start(0.1)  # it goes on as if they had not come
    assert machine.state is EdgeState.OPENING
