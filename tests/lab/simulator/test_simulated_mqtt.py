"""MQTT in simulated time: bytes and round trips of each quality of service, and connections that break."""

from __future__ import annotations

import random
from functools import partial

import pytest

from flexspec_mq.protocol.effects import Send
from lab.simulator.channel.mqtt import SimulatedMqtt
from lab.simulator.channel.packets import publish_size
from lab.simulator.clock import SimulatedClock
from lab.testbed.link.profiles import Figure, LinkPlan, Outages, Profile, State, WayFigures
from schemas.messages import Close, Draft, Error, Fin, Open, Poll, Verdict

DELAY, BROKER = 0.05, 0.0001
SPACING = 0.06
"""Seconds in which no acknowledgement can ride on the next packet, as in `lab.benchmarks.transport`."""


def plan(outages: Outages | None = None) -> LinkPlan:
    """50 ms each way."""

    def figure(value: float) -> Figure:
        return Figure(value, "a test")

    way = WayFigures(figure(1000 * DELAY), figure(0.0), figure(1000.0), figure(0.0), figure(1000.0))
    return LinkPlan("test", Profile("test", (State("one", way, way),), outages))


class Echo:
    """A device, and a worker that answers each draft with a verdict, some time later."""

    name = "edge01"

    def __init__(self, link: LinkPlan | None, *, qos: int, wait: float = 0.0) -> None:
        self.clock = SimulatedClock()
        self.came: list[tuple[float, Verdict]] = []
        self.links: list[tuple[float, bool]] = []
        self.acknowledgements: list[tuple[int, float, int]] = []
        self.bytes = 0
        self._qos, self._wait = qos, wait
        self._rng = random.Random(0)
        self.channel = SimulatedMqtt(
            self.clock, self, Worker(self), link, BROKER, random.Random(1), subscribed=2
        )
        self.channel.connect()
        while not self.links:
            self.clock.step()

    def receive(self, message: Verdict | Error) -> None:
        assert isinstance(message, Verdict)
        self.came.append((self.clock.now, message))

    def link_up(self) -> None:
        self.links.append((self.clock.now, True))

    def link_down(self) -> None:
        self.links.append((self.clock.now, False))

    def acknowledged(self, qos: int, seconds: float, size: int) -> None:
        self.acknowledgements.append((qos, seconds, size))

    def received(self, size: int) -> None:
        self.bytes += size

    def asked(self, message: Draft) -> None:
        tokens = (*message.tokens, 7)
        verdict = Verdict(
            message.session, 1, message.seq, message.start, tokens, message.digest, Fin.NONE, 2, 50
        )
        self.clock.at(self._wait, lambda: self.channel.answer(verdict, self._qos))

    def ask(self, seq: int) -> None:
        tokens = tuple(self._rng.randrange(49_152) for _ in range(8))
        draft = Draft(
            self._rng.getrandbits(32), 1, seq, 100 + seq % 100, 0, self._rng.getrandbits(32), tokens, 0
        )
        self.channel.send(Send("wk01", draft, self._qos, 2.0))

    def run(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.clock.next <= until:
            self.clock.step()
        self.clock.wait(until)


class Worker:
    """Hands drafts to an `Echo`."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo

    def receive(self, edge: str, message: Open | Draft | Poll | Close, qos: int, version: str | None) -> None:
        assert (edge, version, min(qos, 1)) == (self._echo.name, None, qos)
        assert isinstance(message, Draft)
        self._echo.asked(message)


@pytest.mark.parametrize(("qos", "up", "down"), [(0, 176, 168), (1, 284, 276), (2, 396, 388)])
def test_bytes_of_a_round_are_those_that_were_measured(qos: int, up: int, down: int) -> None:
    echo = Echo(None, qos=qos, wait=SPACING)
    echo.channel.begin(None)
    rounds = 50
    for seq in range(rounds):
        echo.ask(seq)
        echo.run(2 * SPACING + 0.01)
    assert len(echo.came) == rounds
    # Of the table in docs/performance.md, whose messages have other numbers of as many digits.
    assert echo.channel.up.use.bytes / rounds == pytest.approx(up, rel=0.03)
    assert echo.channel.down.use.bytes / rounds == pytest.approx(down, rel=0.03)
    assert echo.channel.traffic.qos[qos] == rounds


@pytest.mark.parametrize(("qos", "trips"), [(0, 0), (1, 1), (2, 2)])
def test_a_device_is_told_how_long_the_acknowledgement_of_a_message_took(qos: int, trips: int) -> None:
    echo = Echo(plan(), qos=qos)
    echo.channel.begin(None)
    echo.ask(1)
    echo.run(2.0)
    ((told, seconds, size),) = echo.acknowledgements
    assert told == qos
    assert seconds == pytest.approx(trips * 2 * DELAY, abs=0.01)
    assert size == echo.channel.traffic.up
    assert echo.bytes == echo.channel.traffic.down > 0


@pytest.mark.parametrize(("qos", "trips"), [(0, 1), (1, 1), (2, 3)])
def test_a_round_takes_the_round_trips_of_its_quality_of_service(qos: int, trips: int) -> None:
    echo = Echo(plan(), qos=qos)
    began = echo.clock.now
    echo.ask(1)
    echo.run(5.0)
    ((at, verdict),) = echo.came
    assert verdict.echo == 1
    assert at - began == pytest.approx(trips * 2 * DELAY + 2 * BROKER, abs=0.001)


def test_a_connection_takes_four_round_trips() -> None:
    echo = Echo(plan(), qos=1)
    ((at, up),) = echo.links
    assert up
    assert at == pytest.approx(4 * 2 * DELAY, abs=0.001)


def blackout(seconds: float) -> LinkPlan:
    """One outage of so many seconds, which begins within some seconds."""

    def figure(value: float) -> Figure:
        return Figure(value, "a test")

    return plan(Outages(figure(1000.0), figure(seconds), figure(seconds)))


def before_outage(echo: Echo, link: LinkPlan) -> float:
    """Let time pass until shortly before the outage; how long it lasts from then on."""
    from lab.testbed.link.impairment import Impairment

    ((start, end),) = Impairment(link, "up").outages.between(0.0, 1000.0)[:1]
    echo.channel.begin(start - 0.2)
    return end - start + 0.2


def test_a_short_outage_loses_nothing_and_breaks_nothing() -> None:
    link = blackout(1.2)
    echo = Echo(link, qos=1)
    lasts = before_outage(echo, link)
    for seq in range(20):
        echo.clock.at(seq / 10, partial(echo.ask, seq))
    echo.run(lasts + 10.0)
    assert [verdict.echo for _, verdict in echo.came] == list(range(20))
    assert len(echo.links) == 1
    assert echo.channel.up.use.lost > 0


def test_after_a_longer_one_another_connection_is_back_before_tcp_is() -> None:
    """The broker's TCP would send the verdict again after some 6 s, and then 13 s."""
    link = blackout(8.0)
    echo = Echo(link, qos=1, wait=0.3)
    lasts = before_outage(echo, link)
    began = echo.clock.now
    echo.ask(1)  # it arrives before the outage; its verdict goes out in it
    echo.run(1.0)
    echo.ask(2)
    echo.run(lasts - 1.0 + 10.0)
    assert [up for _, up in echo.links] == [True, False, True]
    back = echo.links[2][0]
    # An attempt a second to reach the broker, and four round trips.
    assert lasts < back - began < lasts + 1.0 + 4 * 2 * DELAY + 0.05
    ((at, verdict),) = echo.came  # the other question was lost on its way: sessions ask again
    assert verdict.echo == 1
    assert at == pytest.approx(back - 2 * 2 * DELAY, abs=0.02)  # behind CONNACK
    assert echo.channel.traffic.breaks == 1


@pytest.mark.parametrize("qos", [0, 1])
def test_a_long_outage_breaks_the_connection_and_what_was_acknowledged_at_qos_1_comes_later(qos: int) -> None:
    link = blackout(40.0 if qos else 100.0)
    echo = Echo(link, qos=qos, wait=1.0)
    lasts = before_outage(echo, link)
    # It arrives before the outage; its verdict goes out in it. The next one is lost with the connection.
    echo.ask(1)
    echo.run(1.0)
    echo.ask(2)
    echo.run(lasts + 30.0)
    assert [up for _, up in echo.links] == [True, False, True]
    assert echo.links[2][0] > lasts
    assert [verdict.echo for _, verdict in echo.came] == ([1] if qos else [])
    assert echo.channel.traffic.breaks == 1
    echo.ask(3)
    echo.run(10.0)
    assert echo.came[-1][1].echo == 3


def test_an_idle_connection_stays() -> None:
    echo = Echo(plan(), qos=1)
    echo.ask(1)
    echo.run(300.0)
    assert len(echo.links) == 1
    assert echo.came


def test_bytes_of_a_publish() -> None:
    # Fixed header 2, topic 2 + 11, properties 1, payload.
    assert publish_size("f1/v/edge01", 40, 0, None) == 2 + 13 + 1 + 40
    assert publish_size("f1/v/edge01", 40, 1, 2.0) == 2 + 13 + 2 + 6 + 40
    assert publish_size("f1/v/edge01", 200, 0, None) == 3 + 13 + 1 + 200
    assert publish_size("f1/v/edge01", 20_000, 2, None) == 4 + 13 + 2 + 1 + 20_000
