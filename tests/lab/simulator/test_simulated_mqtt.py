"""MQTT in simulated time: round trips of each quality of service, outages, and bytes."""

from __future__ import annotations

import pytest

from flexspec_mq.protocol.effects import Send
from lab.simulator.channel import SimulatedMqtt, publish_size
from lab.simulator.clock import SimulatedClock
from lab.testbed.link.profiles import LinkPlan, Outage
from schemas.messages import Close, Draft, Error, Fin, Open, Poll, Verdict
from tests.lab.link.plans import figures, plan

DELAY, BROKER = 0.05, 0.0001
LINK = plan(figures(delay=1000 * DELAY, rate=1000.0))


class Echo:
    """A device, and a worker that answers each draft with a verdict at once."""

    name = "edge01"

    def __init__(self, link: LinkPlan) -> None:
        self.clock = SimulatedClock()
        self.came: list[float] = []
        self.channel = SimulatedMqtt(self.clock, self, Worker(self), link, BROKER)

    def receive(self, message: Verdict | Error) -> None:
        assert isinstance(message, Verdict)
        self.came.append(self.clock.now)

    def ask(self, qos: int) -> None:
        self.channel.send(Send("wk01", Draft(7, 1, 1, 100, 0, 9, (1, 2, 3), 0), qos, 2.0))
        while self.clock.step():
            pass


class Worker:
    """Hands drafts to an `Echo`."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo

    def receive(self, edge: str, message: Open | Draft | Poll | Close, qos: int, version: str | None) -> None:
        assert (edge, version) == (self._echo.name, None)
        assert isinstance(message, Draft)
        self._echo.channel.answer(Verdict(7, 1, 1, 100, (1, 2, 3, 4), 9, Fin.NONE, 2, 50), qos)


@pytest.mark.parametrize(("qos", "trips"), [(0, 1), (1, 1), (2, 2)])
def test_each_quality_of_service_takes_its_round_trips(qos: int, trips: int) -> None:
    echo = Echo(LINK)
    echo.ask(qos)
    assert echo.came == [pytest.approx(trips * 2 * DELAY + 2 * BROKER, abs=0.001)]


def test_an_outage_holds_what_it_meets_until_it_ends() -> None:
    echo = Echo(LinkPlan("away", LINK.profile, lasts_s=(100.0,), outages=(Outage(0.0, 8.0),)))
    echo.ask(1)
    assert echo.came == [pytest.approx(8.0 + 2 * DELAY, abs=0.01)]


def test_bytes_of_a_publish() -> None:
    # Fixed header 2, topic 2 + 11, properties 1, payload.
    assert publish_size("f1/v/edge01", 40, 0, None) == 2 + 13 + 1 + 40
    assert publish_size("f1/v/edge01", 40, 1, 2.0) == 2 + 13 + 2 + 6 + 40
    assert publish_size("f1/v/edge01", 20_000, 2, None) == 4 + 13 + 2 + 1 + 20_000
