"""A worker that holds two target versions: each session is of the one that its open's topic names."""

from dataclasses import replace

import pytest
from msgspec import structs

from flexspec_mq import topics
from flexspec_mq.protocol.digest import prefix_name
from flexspec_mq.protocol.effects import Free, Transfer
from flexspec_mq.protocol.worker.machine import WorkerMachine
from lab.simulator.world import FINGERPRINT, identity
from schemas.messages import Close, CloseReason, Error, ErrorCode, Open, Prefix, Verdict
from tests.protocol.builders import CONFIG, PROMPT, answer, code, digest, opening

BOTH = replace(CONFIG, versions=("small", "large"), capacity=8, prefixes=4)


def machine() -> WorkerMachine:
    return WorkerMachine(BOTH)


@pytest.mark.parametrize("version", ["small", "large"])
def test_chain_and_work_are_of_the_version_that_the_topic_names(version: str) -> None:
    worker = machine()
    accept = answer(worker.receive("e", opening(), 0.0, 1, version))
    assert isinstance(accept, Verdict)
    assert accept.digest == digest(version=version)
    (item,) = worker.take_work(0.1, 9)
    assert item.version == version
    assert worker.live == {version: 1}


def test_a_version_that_is_not_held_is_another_workers_at_once() -> None:
    worker = machine()
    error = answer(worker.receive("e", opening(), 0.0, 0, "other"))
    assert isinstance(error, Error)
    assert (error.code, error.retry) == (ErrorCode.BUSY, 50)
    assert "version other" in error.detail
    assert (worker.counters.busy, len(worker.sessions)) == (1, 0)


def test_a_session_cannot_change_its_version() -> None:
    worker = machine()
    worker.receive("e", opening(), 0.0, 0, "small")
    assert code(worker.receive("e", opening(attempt=2), 0.1, 0, "large")) is ErrorCode.PROTOCOL
    assert worker.live == {"small": 1}


def test_a_version_that_comes_takes_sessions_at_once() -> None:
    worker = machine()
    assert code(worker.receive("e", opening(), 0.0, 0, "new")) is ErrorCode.BUSY
    worker.hold("new")
    assert code(worker.receive("e", opening(attempt=2), 0.1, 0, "new")) is None
    assert worker.live == {"new": 1}
    assert worker.versions == ["small", "large", "new"]


def test_a_retired_version_goes_on_with_texts_that_have_begun_and_no_others() -> None:
    worker = machine()
    worker.receive("e", opening(), 0.0, 0, "large")
    worker.retire("large")
    worker.retire("nobody")
    assert worker.versions == ["small"]
    error = answer(worker.receive("e", opening(session=2), 0.1, 0, "large"))
    assert isinstance(error, Error)
    assert (error.code, error.detail) == (ErrorCode.BUSY, "version large is not held here")
    (item,) = worker.take_work(0.2, 9)
    assert item.version == "large"
    assert code(worker.result(item, (9,), 0, 1, 0.2)) is None
    # The same text once more, and two that began at another worker, one of which tells its tokens later.
    for session, attempt, resumes in ((1, 2, 0), (3, 1, 0), (5, 1, 1)):
        again = structs.replace(
            opening(session=session, attempt=attempt, committed=(9,) * (1 - resumes)), resumes=resumes
        )
        assert code(worker.receive("e", again, 0.3, 0, "large")) is None
    assert worker.sessions_of("large") == 3
    for session in (1, 3, 5):
        worker.receive("e", Close(session, 2, 1, CloseReason.CANCELLED), 0.4)
    assert worker.sessions_of("large") == worker.prefixes == 0
    assert code(worker.receive("e", opening(session=4, committed=(9,)), 0.5, 0, "large")) is ErrorCode.BUSY


def test_texts_of_a_retired_version_are_forgotten() -> None:
    """A head's KV cache must not be gone on from with another head of the same name."""
    worker = machine()
    for session, version in ((1, "large"), (2, "small")):
        worker.receive("e", opening(session=session), 0.0, 0, version)
        worker.receive("e", Close(session, 1, 0, CloseReason.DONE), 0.1)
    assert worker.retire("large") == [Free(("e", 1))]
    worker.hold("large")
    prefix = Prefix(len(PROMPT), prefix_name(FINGERPRINT, "large", PROMPT))
    effects = worker.receive("e", Open(3, 1, identity(), (5,), (), 0, 1, (), prefix), 0.2, 0, "large")
    assert code(effects) is ErrorCode.NEED_PREFIX
    assert worker.prefixes == 1


@pytest.mark.parametrize("asked", [None, "small", "large"])
def test_a_text_goes_on_in_its_own_version_alone(asked: str | None) -> None:
    worker = machine()
    worker.receive("e", opening(), 0.0, 0, "large")
    worker.receive("e", Close(1, 1, 0, CloseReason.DONE), 0.1)
    prefix = Prefix(len(PROMPT), prefix_name(FINGERPRINT, "large", PROMPT))
    effects = worker.receive("e", Open(2, 1, identity(), (5,), (), 0, 1, (), prefix), 0.2, 0, asked)
    if asked == "small":
        assert code(effects) is ErrorCode.NEED_PREFIX
    else:
        assert isinstance(answer(effects), Verdict)
        assert Transfer(("e", 1), ("e", 2)) in effects
        assert worker.live == {"large": 1}


def test_what_a_topic_says_of_its_sender() -> None:
    assert topics.sender_of(topics.open_topic("v-1.5", "e_1")) == topics.TopicSender("e_1", "v-1.5")
    assert topics.sender_of(topics.draft_topic("w", "e")) == ("e", None)
    for other in (
        "f1/o/v",
        "f1/o/v/e/x",
        "f2/o/v/e",
        "f1/v/e/x",
        "f1/o//e",
        "f1/o/v/",
        "f1/d/w/a b",
        "x/o/v/e",
    ):
        assert topics.sender_of(other) is None, other


def test_an_answers_topic_names_the_session_in_one_way_only() -> None:
    for session in (0, 7, 2**32 - 1):
        topic = topics.delivery_topic("e_1", session)
        assert topics.session_of_delivery(topic, "e_1") == session
        assert topics.session_of_delivery(topic, "e_2") is None
    for name in ("", "+7", "-7", "07", "7.0", "7/1", "\u0667", str(2**32), "9" * 4000):
        assert topics.session_of_delivery(f"f1/r/e_1/{name}", "e_1") is None, name
