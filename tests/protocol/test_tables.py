"""The transition tables: complete, held to where they say that they lead, and shown by `docs/protocol.md`."""

import runpy
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from flexspec_mq.errors import LocalProtocolError, RemoteProtocolError, UsageError
from flexspec_mq.protocol.edge import session as edge
from flexspec_mq.protocol.edge.types import DraftToken, EdgeEvent, EdgeState
from flexspec_mq.protocol.table import TransitionTable, UnexpectedEvent
from flexspec_mq.protocol.worker import machine as worker
from flexspec_mq.protocol.worker.types import WorkerEvent, WorkerState
from schemas.messages import Close, Error, ErrorCode
from tests.protocol.builders import sent, session, started, verdict

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "protocol.md"
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "document_tables.py"))
main, rendered = SCRIPT["main"], SCRIPT["rendered"]


def test_a_handler_that_leads_elsewhere_and_two_rows_for_one_event_are_our_bugs() -> None:
    row = ((EdgeState.NEW,), (EdgeEvent.BUSY,), print, (EdgeState.OPENING,), "", "open")
    (transition,) = table = TransitionTable((row,))
    table.check(transition, EdgeState.OPENING)
    with pytest.raises(LocalProtocolError, match="busy in state new led to new, not to opening"):
        table.check(transition, EdgeState.NEW)
    with pytest.raises(LocalProtocolError, match="two rows"):
        TransitionTable((row, row))


def test_the_documents_show_the_tables_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DOCUMENT)]) == 0
    shown = capsys.readouterr().out
    assert "| absent | close |  | remember the attempt | tomb |" in shown
    assert "| new | start | linked |" in shown
    assert "| queued | begin |" in rendered((ROOT / "docs" / "texts.md").read_text(encoding="utf-8"))
    assert DOCUMENT.read_text(encoding="utf-8").count("<!-- table: ") == 2
    assert "| `flexspec_mq/keys` | Keys of a" in rendered("<!-- table: packages -->\n<!-- end -->")
    waits = rendered("<!-- table: waiting -->\n<!-- end -->")
    assert "| `CONNECT` | 5 |" in waits
    assert waits.count("\n| `") <= 25, "take a factor of one that is there"
    with pytest.raises(
        UsageError,
        match="no place for a table: edge, worker, text, waiting, presets, packages, edge settings",
    ):
        rendered("# Nothing\n")


def test_any_message_may_come_in_any_state_once_a_session_has_begun() -> None:
    messages = (
        EdgeEvent.VERDICT,
        EdgeEvent.BUSY,
        EdgeEvent.NEED_PREFIX,
        EdgeEvent.UNKNOWN,
        EdgeEvent.INTERNAL,
        EdgeEvent.REFUSED,
    )
    begun = (EdgeState.OPENING, EdgeState.ACTIVE, EdgeState.DONE)
    assert {*product(begun, messages)} <= {(row.state, row.event) for row in edge.TABLE}
    always = (WorkerEvent.OPEN, WorkerEvent.DRAFT, WorkerEvent.POLL, WorkerEvent.CLOSE)
    engine = (WorkerEvent.RESULT, WorkerEvent.FAILED)
    assert {*product(WorkerState, (*always, *engine))} <= {(row.state, row.event) for row in worker.TABLE}


def test_nothing_leads_out_of_the_end_and_every_row_says_what_it_does() -> None:
    for row in edge.TABLE:
        assert row.action
        assert row.next
        if row.state is EdgeState.DONE:
            assert row.next == (EdgeState.DONE,)
        assert EdgeState.NEW not in row.next or row.state is EdgeState.NEW
    here = (WorkerState.LIVE, WorkerState.FINISHED)
    ends = (WorkerEvent.CLOSE, WorkerEvent.FAILED, WorkerEvent.EXPIRED, WorkerEvent.RELEASED)
    buried = {(row.state, row.event) for row in worker.TABLE if WorkerState.TOMB in row.next}
    assert {*product(here, ends)} <= buried


@pytest.mark.parametrize("code", list(ErrorCode))
def test_errors_that_come_after_the_end_are_counted(code: ErrorCode) -> None:
    machine = started()
    machine.cancel(0.2)
    assert machine.receive(Error(1, 1, code, 0, "w"), 0.3) == []
    assert machine.counters.ignored == 1
    assert not machine.violations


def test_what_a_driver_may_still_say_after_the_end_changes_nothing() -> None:
    machine = started()
    machine.cancel(0.2)
    before = machine.committed
    assert machine.drafted(0, 0, DraftToken(1), 0.3) == []
    assert machine.draft_stopped(0, 0, 0.3) == []
    assert (
        machine.worker_online(0.3)
        == machine.no_worker(0.3)
        == machine.prefix_lost(0.3)
        == machine.cancel(0.3)
        == []
    )
    assert machine.link_down(0.4) == machine.link_up(0.5) == []
    assert (machine.committed, machine.state) == (before, EdgeState.DONE)
    assert len(sent(machine.receive(verdict((), (), worker="w"), 0.6), Close)) == 1


def test_a_session_goes_on_after_a_surprise() -> None:
    machine = session()
    for _ in range(2):
        with pytest.raises(UnexpectedEvent, match="drafted token in state new"):
            machine.drafted(0, 0, DraftToken(1), 0.0)
    with pytest.raises(RemoteProtocolError):
        machine.no_worker(0.0)
    assert machine.violations == {
        (EdgeState.NEW, EdgeEvent.DRAFTED): 2,
        (EdgeState.NEW, EdgeEvent.NO_WORKER): 1,
    }
    machine.start(0.1)
    assert machine.state is EdgeState.OPENING
