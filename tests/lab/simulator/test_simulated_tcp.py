"""TCP in simulated time: a numbered stream is whole and in order, and what is lost comes again when it should."""

from __future__ import annotations

import random
from functools import partial

import pytest

from lab.simulator.channel.tcp import HEADERS, End, connection
from lab.simulator.channel.way import Way
from lab.simulator.clock import SimulatedClock
from lab.testbed.link.impairment import LEAST_RTO, Drop, Impairment
from lab.testbed.link.profiles import Figure, LinkPlan, Outages, Profile, State, WayFigures, built_in

DELAY = 0.05


def plan(*, loss: float = 0.0, outages: Outages | None = None, seed: int = 0) -> LinkPlan:
    """A link of 50 ms each way, without jitter."""

    def figure(value: float) -> Figure:
        return Figure(value, "a test")

    way = WayFigures(figure(1000 * DELAY), figure(0.0), figure(1000.0), figure(loss), figure(1000.0))
    return LinkPlan("test", Profile("test", (State("one", way, way),), outages), seed)


class Lossy(Impairment):
    """Drops the packets whose places it is told."""

    def __init__(self, lost: set[int]) -> None:
        super().__init__(plan(), "up")
        self._lost = lost
        self._count = -1

    def arrive(self, now: float, size: int) -> float | Drop:
        self._count += 1
        return Drop.LOSS if self._count in self._lost else super().arrive(now, size)


class Stream:
    """A connection over which the device writes numbers."""

    def __init__(self, up: Impairment, down: Impairment) -> None:
        self.clock = SimulatedClock()
        self.up, self.down = Way(self.clock), Way(self.clock)
        self.up.set(up, 0.0)
        self.down.set(down, 0.0)
        self.device, self.broker = connection(self.clock, self.up, self.down)
        self.came: list[tuple[int, float]] = []

    def write(self, number: int, size: int = 100, end: End | None = None) -> None:
        (end or self.device).send(size, lambda: self.came.append((number, self.clock.now)))

    def run(self, until: float) -> None:
        while self.clock.next <= until:
            self.clock.step()
        self.clock.wait(until)


@pytest.mark.parametrize("seed", range(20))
def test_a_numbered_stream_is_whole_and_in_order(seed: int) -> None:
    rng = random.Random(seed)

    def figure(value: float) -> Figure:
        return Figure(value, "a test")

    outages = Outages(figure(2.0), figure(0.2), figure(4.0)) if seed % 2 else None
    link = plan(loss=rng.choice((1.0, 10.0, 30.0)), outages=outages, seed=seed)
    stream = Stream(Impairment(link, "up"), Impairment(link, "down"))
    for number in range(200):
        stream.clock.at(number / 20, partial(stream.write, number, rng.choice((4, 100, 4000))))
    stream.run(20_000.0)
    assert [number for number, _ in stream.came] == list(range(200))
    times = [time for _, time in stream.came]
    assert times == sorted(times)
    assert all(time >= number / 20 + DELAY for number, time in stream.came)
    assert stream.up.use.lost + stream.down.use.lost > 0


def test_a_lost_segment_comes_again_as_soon_as_a_later_one_is_acknowledged() -> None:
    stream = Stream(Lossy({1}), Impairment(plan(), "down"))
    stream.write(0)
    for number in range(1, 10):
        stream.clock.at(1.0 + 0.02 * number, partial(stream.write, number))
    stream.run(10.0)
    assert [number for number, _ in stream.came] == list(range(10))
    # The second of them is acknowledged one round trip after it was sent; then the first takes its way again.
    assert stream.came[1][1] == pytest.approx(1.04 + 3 * DELAY, abs=0.001)
    assert stream.up.use.packets == 11


def test_the_last_segment_comes_again_after_the_timeout_which_doubles() -> None:
    stream = Stream(Lossy({1, 2, 3}), Impairment(plan(), "down"))
    stream.write(0)
    stream.run(1.0)
    stream.write(1)
    stream.run(10.0)
    (_, first), (_, second) = stream.came
    assert first == pytest.approx(DELAY, abs=0.001)
    rto = stream.device.rtt + max(LEAST_RTO, 2 * stream.device.rtt) if stream.device.rtt else 0.0
    assert second + 1e-9 >= 1.0 + DELAY + (1 + 2 + 4) * (2 * DELAY + LEAST_RTO)
    assert second <= 1.0 + DELAY + (1 + 2 + 4) * rto + 0.01


def test_of_two_that_are_out_a_probe_finds_what_was_lost() -> None:
    stream = Stream(Lossy({1, 2}), Impairment(plan(), "down"))
    stream.write(0)
    stream.run(1.0)
    stream.write(1)
    stream.write(2)
    stream.run(10.0)
    # Both are lost. After two round trips the second comes again, then the first, of which it told.
    assert stream.came[-1][1] < 1.0 + 7 * 2 * DELAY


def test_an_end_that_answers_acknowledges_with_its_answers_and_another_one_at_once() -> None:
    stream = Stream(Impairment(plan(), "up"), Impairment(plan(), "down"))

    def answered() -> None:
        stream.broker.send(100, lambda: None)

    for round_ in range(4):
        stream.clock.at(0.5 * round_, lambda: stream.device.send(100, answered))
    stream.run(0.45)
    # It was not known to answer.
    assert (stream.down.use.packets, stream.down.use.bytes) == (2, 2 * HEADERS + 100)
    stream.run(5.0)
    assert stream.down.use.packets == 2 + 3
    # The device answers nothing.
    assert stream.up.use.packets == 4 * 2


def test_a_long_write_is_several_segments() -> None:
    stream = Stream(Impairment(plan(), "up"), Impairment(plan(), "down"))
    stream.write(0, 4000)
    stream.run(1.0)
    assert [number for number, _ in stream.came] == [0]
    assert stream.up.use.bytes == 4000 + 3 * HEADERS


def test_a_closed_connection_delivers_nothing() -> None:
    stream = Stream(Impairment(plan(), "up"), Impairment(plan(), "down"))
    stream.write(0)
    stream.broker.close()
    stream.device.close()
    stream.run(100.0)
    stream.write(1)
    stream.run(200.0)
    assert stream.came == []


def test_a_channel_set_to_a_time_meets_packets_alike() -> None:
    def delays() -> list[float | None]:
        clock = SimulatedClock()
        way = Way(clock)
        clock.wait(random.Random().uniform(0.0, 100.0))
        began = clock.now
        way.set(Impairment(LinkPlan("4g", built_in().get("4g-moving"), 3, begins_s=40.0), "up"), 40.0)
        found = []
        for number in range(100):
            clock.wait(began + number / 50)
            found.append(way.carry(200))
        return found

    assert delays() == pytest.approx(delays(), abs=1e-6)
