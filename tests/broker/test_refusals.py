"""Mosquitto's log, read for what it refused. The lines are those of Mosquitto 2.0.21."""

from __future__ import annotations

import pytest

from broker.settings import Role, User
from broker.watching.refusals import Refusals
from flexspec_mq.share_groups import ShareGroups

GROUPS = ShareGroups("5e" * 32)
USERS = (User("alice", Role.EDGE, "x"), User("w1", Role.WORKER, "x", ("v1",)))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("WARNING", "broker.watching.refusals")
    return caplog


def reader(heard: list[str], clock: Clock | None = None) -> Refusals:
    refusals = Refusals(heard.append, clock or Clock())
    refusals.know(USERS, GROUPS)
    for client, user in (("c alice", "alice"), ("c-w1", "w1")):
        refusals.line(f"New client connected from 127.0.0.1:5 as {client} (p5, c1, k60, u'{user}').")
    return refusals


def test_a_denied_publish_is_told_with_its_user(told: pytest.LogCaptureFixture) -> None:
    refusals = reader([])
    refusals.line("Denied PUBLISH from c alice (d0, q1, r0, m7, 'f1/v/bob', ... (1 bytes))")
    assert told.messages == ["user alice was refused: publish on f1/v/bob (1 of these since the start)"]
    assert refusals.counts == {("alice", "publish"): 1}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("c alice 1 f1/v/alice", ""),
        ("c alice 0 $share/any/f1/v/alice", ""),
        ("c alice 1 f1/w/+", ""),
        ("c alice 1 f1/w/#", "part of that only"),
        ("c alice 1 #", "part of that only"),
        ("c alice 1 f1/v/bob 1 f1/v/alice", "part of that only"),
        ("c alice 1 $share/w/f1/o/v1/+", "part of that only"),
        ("c-w1 1 $share/w/f1/o/v1/+", "not in that group"),
        (f"c-w1 1 $share/{GROUPS.of('v1')}/f1/o/v1/+", ""),
        (f"c-w1 1 $share/{GROUPS.of('v2')}/f1/o/v2/+", "part of that only"),
        ("c-w1 1 f1/d/w1/+", ""),
    ],
)
def test_a_subscription_that_is_none_of_the_users(
    told: pytest.LogCaptureFixture, line: str, why: str
) -> None:
    heard: list[str] = []
    reader(heard).line(line)
    assert len(told.messages) == bool(why)
    assert all(why in message for message in told.messages)
    assert line not in heard


def test_a_flood_is_told_once_a_minute_and_counted(told: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    refusals = reader([], clock)
    for _ in range(1000):
        refusals.line("Denied PUBLISH from c-w1 (d0, q1, r0, m7, 'f1/w/w2', ... (1 bytes))")
    clock.now = 61.0
    refusals.line("Denied PUBLISH from c-w1 (d0, q1, r0, m7, 'f1/w/w2', ... (1 bytes))")
    assert len(told.messages) == 2
    assert "1001 of these since the start; 1000 times since the last such line" in told.messages[1]


def test_names_that_clients_choose_are_not_kept_by_the_thousand(told: pytest.LogCaptureFixture) -> None:
    refusals = reader([])
    for number in range(1000):
        refusals.line(f"Client evil-{number} disconnected, not authorised.")
        refusals.line(f"Denied PUBLISH from evil-{number} (d0, q1, r0, m7, 'f1/w/w2', ... (1 bytes))")
    assert refusals.counts == {("unknown", "login"): 1000, ("unknown", "publish"): 1000}
    assert len(told.messages) == 2
    assert "as client 'evil-0'" in told.messages[0]


def test_all_else_is_passed_on() -> None:
    heard: list[str] = []
    refusals = reader(heard)
    lines = ["Client c-w1 closed its connection.", "Error: disk full", "Reloading config."]
    for line in (*lines, "No will message specified.", "Will message specified (1 bytes) (r1, q1)."):
        refusals.line(line)
    assert heard[2:] == lines
