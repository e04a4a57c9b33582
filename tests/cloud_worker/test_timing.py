"""Times that a worker measures when it starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from cloud_worker.engine.timing import timed
from flexspec_mq.drafting.hybrid import HybridDrafter
from flexspec_mq.drafting.interface import Drafted, DraftRequest
from flexspec_mq.drafting.model_drafter import ModelDrafter
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from tests.cloud_worker.test_engine import model_of


def test_forwards_of_target_and_draft_are_timed_and_nothing_of_that_stays() -> None:
    model = ModelDrafter(model_of(), max_context=4096, prefill=16)
    timings = timed(model_of(), HybridDrafter(model, PromptLookupDrafter(max_context=4096)))
    assert [(sessions, rows) for sessions, rows, _ in timings.forwards] == [(1, 0), (1, 8), (4, 0), (4, 32)]
    assert [sessions for sessions, _ in timings.calls] == [1, 4]
    assert min(ms for *_, ms in (*timings.forwards, *timings.calls)) > 0
    assert timings.read is not None
    assert timings.read > 0
    assert not model._sessions


def test_lookups_alone_take_no_forward_of_a_draft() -> None:
    timings = timed(model_of(), PromptLookupDrafter(max_context=4096))
    assert (timings.calls, timings.read, timings.token) == ((), None, None)
    assert timed(model_of(), None).calls == ()


def test_a_draft_that_fails_is_left_to_those_who_use_it(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(PromptLookupDrafter):
        def unread(self, one: DraftRequest) -> int:  # noqa: ARG002
            return 5

        def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:  # noqa: ARG002
            raise MemoryError("no room")

    with caplog.at_level(logging.ERROR):
        timings = timed(model_of(), Broken(max_context=4096))
    assert (len(timings.forwards), timings.calls) == (4, ())
    assert "no room" in caplog.text
