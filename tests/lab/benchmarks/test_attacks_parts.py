"""The malicious devices of the benchmark do what they say, at a real broker."""

from itertools import islice
from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.worker import WorkerKeys
from lab.bench.client import StreamedAnswer
from lab.benchmarks.attacks.honest import Streams
from lab.benchmarks.attacks.line import MqttLine, publish
from lab.benchmarks.attacks.ways import WAYS, Target, Way
from lab.simulator.world import FINGERPRINT
from schemas.messages import Open, Poll, Verdict
from tests.keys.deployments_of_keys import KeyedDeployment

CODEC = Codec()
TARGET = Target("evil", "w1", "base", FINGERPRINT, "good")


def sent(way: str, packets: int, broker: PrivateBroker, target: Target = TARGET) -> list[tuple[str, bytes]]:
    """Topics and payloads that arrive of a malicious device."""
    attack: Way = WAYS[way](target)
    tls = broker.settings.tls
    assert tls is not None
    with (
        MqttLine(broker.port, tls.ca, f"t-{way}", "none") as listener,
        MqttLine(broker.port, tls.ca, f"a-{way}", "none") as line,
    ):
        listener.subscribe("f1/#")
        listener.listen(0.05)
        listener.heard.clear()
        wanted = list(islice(attack.packets(0.0), packets))
        assert len(wanted) == packets
        line.send(b"".join(wanted) + publish("f1/done", b""))
        while not listener.heard or listener.heard[-1][0] != "f1/done":
            listener.listen(0.05)
        return [message for message in listener.heard if message[0] != "f1/done"]


def test_a_mixture_replays_by_its_seed_and_changes_every_ten_seconds() -> None:
    def packets(seed: int) -> list[list[bytes]]:
        mixture = WAYS["mixture"](TARGET, seed)
        return [list(islice(mixture.packets(now), 60)) for now in (0.0, 5.0, 10.0, 20.0)]

    assert packets(1) == packets(1) != packets(2)
    kinds = [{packet[:20] for packet in some} for some in packets(1)]
    assert kinds[0] & kinds[1]
    assert kinds[0] != kinds[2] != kinds[3]


@pytest.mark.parametrize("way", ["malformed", "large", "unpacks"])
def test_what_cannot_be_read_is_refused(way: str, tls_mosquitto: PrivateBroker) -> None:
    arrived = sent(way, 3, tls_mosquitto)
    assert len(arrived) == 3
    for _, payload in arrived:
        with pytest.raises(RemoteProtocolError):
            CODEC.decode(payload)


def test_opens_and_polls_are_real_ones(tls_mosquitto: PrivateBroker) -> None:
    (topic, first), *polls = sent("polls", 65, tls_mosquitto)
    opened = CODEC.decode(first)
    assert topic == "f1/o/base/evil"
    assert isinstance(opened, Open)
    assert len(polls) == 64
    for topic, payload in polls:
        message = CODEC.decode(payload)
        assert topic == "f1/d/w1/evil"
        assert isinstance(message, Poll)
        assert message.session == opened.session
    (_, payload), *_ = sent("prompts", 1, tls_mosquitto)
    message = CODEC.decode(payload)
    assert isinstance(message, Open)
    assert len(message.prompt) == 7800


@pytest.mark.parametrize("way", ["polls", "introduced", "unpacks"])
def test_what_it_says_under_keys_is_believed(way: str, tls_mosquitto: PrivateBroker, tmp_path: Path) -> None:
    deployment = KeyedDeployment(tmp_path)
    target = Target("evil", "w1", "base", FINGERPRINT, "good", EdgeKeys(deployment.edge("evil")))
    worker = WorkerKeys(deployment.worker("w1"), lease=30.0, capacity=4)
    found = sent(way, 3, tls_mosquitto, target)
    assert [payload for _, payload in sent(way, 3, tls_mosquitto)] != [payload for _, payload in found]
    for topic, payload in found:
        sender = topics.sender_of(topic)
        assert sender is not None
        plain, _ = worker.unwrap("evil", sender.version, payload, 0.0)  # no copies: their counters differ
        if way != "unpacks":
            assert isinstance(CODEC.decode(plain), Open | Poll)
        else:
            assert len(plain) < 200


def test_a_forged_verdict_is_one_that_a_device_would_read(tls_mosquitto: PrivateBroker) -> None:
    found = sent("forges", 64, tls_mosquitto)
    assert {topic for topic, _ in found} == {"f1/v/good"}
    messages = [CODEC.decode(payload) for _, payload in found]
    assert all(isinstance(message, Verdict) for message in messages)
    assert len(messages) == 64


def test_a_text_that_does_not_end_counts_as_slow_and_late() -> None:
    found = Streams()
    whole = StreamedAnswer(times=[1.0, 2.0, 3.0], usage={"completion_tokens": 5}, ended=3.0)
    found.add(whole, 5, 10.0)
    found.add(StreamedAnswer(), 5, 10.0)
    assert found.failed == 1
    assert found.speeds == [2.0, 0.0]
    assert found.firsts == [1.0, 10.0]
