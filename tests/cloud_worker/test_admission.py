"""Admission of each device's messages."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_worker.admission import ANSWER, KILOBYTE, MESSAGE, TURNED_AWAY, MessageAdmission
from cloud_worker.settings import QuotaSettings
from flexspec_mq.protocol.effects import Reply
from schemas.messages import Error, ErrorCode


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock, **quotas: float) -> tuple[MessageAdmission, list[Reply]]:
    told: list[Reply] = []
    settings = QuotaSettings(**{"device_ms": 10.0, "device_burst_ms": 5.0, **quotas})  # type: ignore[arg-type]
    return MessageAdmission(settings, "w1", told.append, clock), told


@given(st.lists(st.tuples(st.floats(0.0, 0.2), st.integers(0, 200_000)), min_size=1, max_size=200))
def test_nobody_gets_more_than_the_quota(sent: list[tuple[float, int]]) -> None:
    clock = Clock()
    gate, told = admission(clock)
    spent = dearest = 0.0
    for pause, size in sent:
        clock.now += pause
        price = MESSAGE + KILOBYTE * size / 1000
        dearest = max(dearest, price)
        if gate.admit("f1/d/w1/evil", size):
            spent += price
    assert spent <= 5.0 + 10.0 * (clock.now - 100.0) + dearest + 1e-6
    assert len(told) <= 1 + (clock.now - 100.0)


def test_one_that_is_over_its_quota_is_told_once_a_second_and_others_do_not_notice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    gate, told = admission(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(2000):
            clock.now += 0.001
            gate.admit("f1/d/w1/evil", 8)
    assert gate.refused > 1500
    assert gate.told == len(told) == 2
    for reply in told:
        assert isinstance(reply.message, Error)
        assert (reply.edge, reply.message.code, reply.message.session) == ("evil", ErrorCode.BUSY, 0)
        assert reply.message.retry >= 1000
    assert len(caplog.records) == 1
    assert "edge evil is over its quota" in caplog.text
    assert gate.admit("f1/d/w1/good", 8)
    assert gate.admit("f1/w/w2", 8)  # no device's


def test_opens_and_drafts_of_a_device_are_paid_from_one_account() -> None:
    gate, _ = admission(Clock())
    while gate.admit("f1/d/w1/evil", 1000):
        pass
    assert not gate.admit("f1/o/base/evil", 10)
    assert not gate.admit("f1/o/other/evil", 10)


def test_an_open_costs_more_where_keys_are_agreed_on() -> None:
    def opens(*, keyed: bool) -> int:
        settings = QuotaSettings(device_ms=10.0, device_burst_ms=50.0)
        gate = MessageAdmission(settings, "w1", lambda _: None, Clock(), keyed=keyed)
        return sum(gate.admit("f1/o/base/evil", 300) for _ in range(1000))

    assert 1.9 < opens(keyed=False) / opens(keyed=True) < 2.4


def test_what_was_verified_is_given_back_and_answers_cost() -> None:
    clock = Clock()
    gate, _ = admission(clock)
    for _ in range(1000):
        assert gate.admit("f1/d/w1/good", 0)
        gate.charge("good", -MESSAGE)
    gate.charge("good", 5.0 + ANSWER)
    assert not gate.admit("f1/d/w1/good", 0)
    clock.now += 1.0
    assert gate.admit("f1/d/w1/good", 0)


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 20_000)), min_size=1, max_size=100))
def test_a_quota_is_of_the_time_of_this_machine_where_that_is_more_than_the_prices(
    each: list[tuple[float, int]],
) -> None:
    gate, _ = admission(Clock())
    spent = dearest = 0.0
    for ms, size in each:
        if gate.admit("f1/d/w1/evil", size):
            assert spent < 5.0
            gate.took("f1/d/w1/evil", size, ms)
            price = MESSAGE + KILOBYTE * size / 1000
            spent += max(ms, price)
            dearest = max(dearest, ms, price)
    assert spent <= 5.0 + dearest
    gate.took("f1/w/w2", 8, 100.0)  # no device's


def test_a_device_that_holds_all_that_it_may_is_soon_not_read() -> None:
    clock = Clock()
    gate, _ = admission(clock)
    opens = 0
    while gate.admit("f1/o/base/evil", 100):
        gate.charge("evil", TURNED_AWAY)
        opens += 1
    assert opens == 3
    clock.now += 1.0
    assert gate.admit("f1/o/base/evil", 100)


def test_buckets_are_bounded_and_a_debt_is_not_forgotten() -> None:
    gate, _ = admission(Clock())
    debtor = gate.bucket("debtor", 0.0)
    debtor.charge(50.0)
    for number in range(4_200):
        gate.bucket(f"d{number}", 0.0)
    assert gate.devices <= 4097
    assert gate.bucket("debtor", 0.0) is debtor
    assert not debtor.pay(1.0, 0.0)
    assert debtor.wait == pytest.approx(4.5)
    for number in range(9_000):
        gate.admit(f"f1/o/v{number}/d1", 0)
    assert len(gate._by_topic) <= 8192


def test_a_device_that_was_forgotten_has_one_account_still() -> None:
    clock = Clock()
    gate, _ = admission(clock)
    assert gate.admit("f1/d/w1/good", 0)
    clock.now += 10.0
    for number in range(5000):
        gate.admit(f"f1/d/w1/d{number}", 0)
    while gate.admit("f1/d/w1/good", 1000):
        pass
    assert not gate.admit("f1/o/base/good", 0)
