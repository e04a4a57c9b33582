"""The transition tables are complete, and `docs/protocol.md` shows them as they are."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from flexspec_mq.errors import UsageError
from flexspec_mq.protocol.worker.machine import TABLE
from flexspec_mq.protocol.worker.types import WorkerEvent, WorkerState

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "protocol.md"
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "document_tables.py"))
main, rendered = SCRIPT["main"], SCRIPT["rendered"]


def test_the_document_shows_the_tables_of_the_code() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert rendered(document) == document


def test_the_command_writes_what_is_missing_and_checks_it(tmp_path: Path) -> None:
    copy = tmp_path / "copy.md"
    text = DOCUMENT.read_text(encoding="utf-8")
    copy.write_text(text.replace("| remember the attempt | tomb |", "| forget it | tomb |"), encoding="utf-8")
    assert main([str(copy), "--check"]) == 1
    assert main([str(copy)]) == 0
    assert main([str(copy), "--check"]) == 0
    assert copy.read_text(encoding="utf-8") == text


def test_a_document_without_a_place_is_an_error() -> None:
    with pytest.raises(UsageError, match="no place for the table of the edge"):
        rendered("# Nothing\n")


def test_the_worker_expects_every_message_and_every_word_of_its_engine_in_every_state() -> None:
    always = (WorkerEvent.OPEN, WorkerEvent.DRAFT, WorkerEvent.POLL, WorkerEvent.CLOSE)
    engine = (WorkerEvent.RESULT, WorkerEvent.FAILED)
    assert all(TABLE.row(state, event) for state in WorkerState for event in (*always, *engine))


def test_what_ends_a_session_ends_it_wherever_it_is_held() -> None:
    for state in (WorkerState.LIVE, WorkerState.FINISHED):
        for event in (WorkerEvent.CLOSE, WorkerEvent.FAILED, WorkerEvent.EXPIRED, WorkerEvent.RELEASED):
            row = TABLE.row(state, event)
            assert row is not None
            assert WorkerState.TOMB in row.next
