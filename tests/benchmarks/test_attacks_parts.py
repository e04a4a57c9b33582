"""The malicious devices of the benchmark do what they say, at a real broker."""

from __future__ import annotations

from itertools import islice

import pytest

from benchmarks.attacks.attacker import Order, Report
from benchmarks.attacks.honest import Streams
from benchmarks.attacks.line import Line, publish
from benchmarks.attacks.ways import SAYS, WAYS, Target, Way
from broker.launcher import PrivateBroker
from flexspec_mq.bench.place.client import Answer
from flexspec_mq.codec import Codec
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.simulator.world import FINGERPRINT
from schemas.messages import Open, Poll, Verdict

CODEC = Codec()
TARGET = Target("evil", "w1", "base", FINGERPRINT, "good")


def sent(way: str, packets: int, broker: PrivateBroker) -> list[tuple[str, bytes]]:
    """What arrives of it."""
    made: Way = WAYS[way](TARGET)
    with Line(broker.port, f"t-{way}", "none") as listener, Line(broker.port, f"a-{way}", "none") as line:
        listener.subscribe("f1/#")
        listener.listen(0.05)
        listener.heard.clear()
        wanted = 0
        for packet in islice(made.packets(0.0), packets):
            line.send(packet)
            wanted += 1
        assert wanted
        line.send(publish("f1/done", b""))
        while not listener.heard or listener.heard[-1][0] != "f1/done":
            listener.listen(0.05)
        return [one for one in listener.heard if one[0] != "f1/done"]


def test_each_way_says_what_it_does() -> None:
    assert list(SAYS) == list(WAYS)
    assert len(set(SAYS.values())) == len(SAYS)


@pytest.mark.parametrize("way", ["malformed", "large", "unpacks"])
def test_what_cannot_be_read_is_refused(way: str, mosquitto: PrivateBroker) -> None:
    found = sent(way, 2, mosquitto)
    assert len(found) in {2, 128}
    refused = 0
    for _, payload in found:
        try:
            CODEC.decode(payload)
        except RemoteProtocolError:
            refused += 1
    assert refused == len(found)


def test_opens_and_polls_are_real_ones(mosquitto: PrivateBroker) -> None:
    (topic, first), *polls = sent("polls", 2, mosquitto)
    opened = CODEC.decode(first)
    assert topic == "f1/o/base/evil"
    assert isinstance(opened, Open)
    assert len(polls) == 64
    for topic, payload in polls:
        message = CODEC.decode(payload)
        assert topic == "f1/d/w1/evil"
        assert isinstance(message, Poll)
        assert message.session == opened.session
    (_, payload), *_ = sent("prompts", 1, mosquitto)
    message = CODEC.decode(payload)
    assert isinstance(message, Open)
    assert len(message.prompt) == 7800


def test_a_forged_verdict_is_one_that_a_device_would_read(mosquitto: PrivateBroker) -> None:
    found = sent("forges", 1, mosquitto)
    assert {topic for topic, _ in found} == {"f1/v/good"}
    messages = [CODEC.decode(payload) for _, payload in found]
    assert all(isinstance(message, Verdict) for message in messages)
    assert len(messages) == 64


def test_a_text_that_does_not_end_counts_as_slow_and_late() -> None:
    found = Streams()
    whole = Answer(times=[1.0, 2.0, 3.0], usage={"completion_tokens": 5}, ended=3.0)
    found.add(whole, 5, 10.0)
    found.add(Answer(), 5, 10.0)
    assert found.failed == 1
    assert found.speeds == [2.0, 0.0]
    assert found.firsts == [1.0, 10.0]


def test_orders_and_reports_travel_as_json() -> None:
    order = Order("polls", 1883, "evil", "secret", "w1", "base", "good")
    assert order.rate == 1e6
    assert Report().told == {}
