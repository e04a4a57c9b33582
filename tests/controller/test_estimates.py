"""Estimates: which drafted tokens are right by their place, how often the link breaks, and the interval of a share."""

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.adaptive import cheapest_qos
from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.estimators.acceptance import Acceptance
from flexspec_mq.controller.estimators.link import LARGE, Bandwidth, Disconnects
from flexspec_mq.controller.estimators.node import NodeEstimates
from flexspec_mq.controller.estimators.wilson import wilson
from flexspec_mq.controller.estimators.worker import Expectile, QueueingDelay, WorkerDrafts
from flexspec_mq.controller.observation import PLACES, UNTRIED, Observation
from flexspec_mq.controller.plan import Plan
from tests.controller.observed import but

BATCHES = st.lists(
    st.tuples(st.integers(0, 70), st.integers(1, 64), st.booleans(), st.floats(0, 1000)), max_size=60
)


def play(
    acceptance: Acceptance, chances: list[float], batches: int, seed: int, *, now: float = 0.0
) -> Acceptance:
    """Batches whose i-th token is right with the i-th chance, if all before it are."""
    rng = random.Random(seed)
    for _ in range(batches):
        right = 0
        while right < len(chances) and rng.random() < chances[right]:
            right += 1
        wrong = right < len(chances)
        acceptance.judged([(0, right + wrong)], now, wrong=wrong)
    return acceptance


@given(BATCHES)
def test_it_is_a_probability_for_every_place(batches: list[tuple[int, int, bool, float]]) -> None:
    acceptance, now = Acceptance(), 0.0
    for first, count, wrong, passed in batches:
        now += passed
        acceptance.judged([(first, count)], now, wrong=wrong)
        assert len(acceptance.places) == len(acceptance.known) == PLACES
        assert all(0.0 < share < 1.0 for share in acceptance.places)
        assert all(known >= 0.0 for known in acceptance.known)
    assert sum(acceptance.known) <= sum(count for _, count, _, _ in batches) + 1e-9


def test_places_are_told_apart() -> None:
    acceptance = Acceptance()
    assert (acceptance.places, acceptance.known) == ((UNTRIED,) * PLACES, (0.0,) * PLACES)
    places = play(acceptance, [0.9, 0.6, 0.3, 0.9], 400, 1).places
    assert places[0] == pytest.approx(0.9, abs=0.1)
    assert places[1] == pytest.approx(0.6, abs=0.15)
    assert places[2] < places[1] < places[0]
    assert acceptance.known[4:] == (0.0,) * (PLACES - 4)
    assert len(set(places[4:])) == 1, "a place without tries is as all are together"


def test_the_last_place_stands_for_all_that_follow() -> None:
    acceptance = Acceptance()
    acceptance.judged([(PLACES - 1, 10)], 0.0, wrong=False)
    assert acceptance.known == (*(0.0,) * (PLACES - 1), 10.0)
    acceptance.judged([(60, 4)], 0.0, wrong=True)
    assert acceptance.known[-1] == pytest.approx(10.0 * 0.98 + 4.0)


def test_what_is_known_fades_in_silence() -> None:
    acceptance = play(Acceptance(), [0.95] * 4, 200, 1)
    acceptance.judged([(0, 1)], 10_000.0, wrong=True)
    assert sum(acceptance.known) == pytest.approx(1.0, abs=1e-3)
    assert acceptance.places[0] < 0.6


def test_batches_get_shorter_with_what_is_put_off_again_and_again_and_grow_without() -> None:
    worker = WorkerDrafts()
    seen = [worker.granted]
    for granted in (0, 0, 0, 0, None, None, *(None,) * 8):
        worker.update(0, granted)
        seen.append(worker.granted)
    assert seen[:7] == [None, 4, 2, 1, 1, 2, 2]
    assert seen[-1] is None


def test_what_a_worker_said_is_known_to_the_next_session() -> None:
    node = NodeEstimates()
    assert node.worker(None, 0.0).drafts.per_verdict == 0.0
    node.worker("w", 0.0).drafts.update(8, None)
    assert node.worker("w", 1.0).drafts.per_verdict == 2.0
    assert node.worker(None, 1.0).drafts.per_verdict == 2.0
    assert node.worker("other", 1.0).drafts.per_verdict == 0.0
    assert node.worker("w", 10_000.0).drafts.per_verdict == 0.0


def expectiles(samples: list[float]) -> list[float]:
    low, values = Expectile(), []
    for sample in samples:
        low.update(sample)
        assert low.value is not None
        values.append(low.value)
    return values


@given(st.floats(0.001, 10.0), st.floats(0.001, 10.0))
def test_an_expectile_goes_where_a_step_leads(before: float, now: float) -> None:
    assert expectiles([before] * 5 + [now] * 60)[-1] == pytest.approx(now, rel=0.05, abs=0.03 * before)


@given(st.integers(0, 2**32))
def test_a_few_forwards_that_do_more_count_little(seed: int) -> None:
    """A fifth takes four times as long, as one that reads a piece of a prompt."""
    rng = random.Random(seed)
    samples = [0.12 if rng.random() < 0.2 else 0.03 for _ in range(200)]
    assert fmean(expectiles(samples)[20:]) < fmean(samples)


def test_the_wait_for_others_is_learned_and_fades_while_the_worker_does_not_wait() -> None:
    delay = QueueingDelay()
    for queued in (0.0, 0.0, 0.05, 0.0):
        delay.update(queued)
    assert delay.seconds == 0.0, "one batch that waits once is not taken for others"
    for _ in range(20):
        delay.update(0.05)
    learned = delay.seconds
    assert learned == pytest.approx(0.05, rel=0.05)
    for _ in range(100):
        delay.fade()
    assert 0.0 < delay.seconds < 0.5 * learned


STEADY = Observation(rtt=0.04, forward=0.04, disconnects=2e-4)
FLAPPING = Observation(rtt=0.7, forward=0.04, disconnects=0.25)


def connections(disconnects: Disconnects, *lasted: float, outage: float = 1.0, now: float = 0.0) -> float:
    """Connections that last so long each, all lost in the end; when the last one is."""
    for seconds in lasted:
        disconnects.link_up(now)
        now += seconds
        disconnects.link_down(now)
        now += outage
    return now - outage


def test_before_any_is_lost_one_in_an_hour_is_supposed_without_being_sure() -> None:
    disconnects = Disconnects()
    assert disconnects.rate == pytest.approx(1 / 3600)
    assert disconnects.error > 3 * disconnects.rate


def test_a_connection_that_holds_makes_it_less_likely_however_often_one_looks() -> None:
    disconnects, often, rates = Disconnects(), Disconnects(), []
    disconnects.link_up(0.0)
    often.link_up(0.0)
    for minute in range(1, 61):
        disconnects.received(60.0 * minute)
        rates.append(disconnects.rate)
        for tenth in range(600):
            often.received(60.0 * (minute - 1) + tenth / 10)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.02 / 672, rel=0.05), "what is known fades as it grows: never 0"
    assert often.rate == pytest.approx(rates[-1], rel=0.01)


@pytest.mark.parametrize("rate", [1 / 10, 1 / 30, 1 / 100])
def test_a_constant_rate_is_found(rate: float) -> None:
    rates = []
    for seed in range(40):
        disconnects, rng = Disconnects(), random.Random(seed)
        connections(disconnects, *(rng.expovariate(rate) for _ in range(60)))
        rates.append(disconnects.rate)
        assert abs(disconnects.rate - rate) < 5 * disconnects.error
    assert sorted(rates)[20] == pytest.approx(rate, rel=0.3)


def test_time_without_a_connection_does_not_count() -> None:
    short, long = Disconnects(), Disconnects()
    connections(short, 50.0, 70.0, outage=1.0)
    connections(long, 50.0, 70.0, outage=1000.0)
    assert short.rate == pytest.approx(long.rate)
    short.received(1e6)
    short.link_down(1e6)
    assert short.rate == pytest.approx(long.rate)


def test_bandwidth_is_the_most_that_was_seen_until_as_much_takes_longer() -> None:
    up = Bandwidth()
    up.carried(10_000, 0.1, 1.0)
    up.carried(5_000, 0.5, 2.0)
    assert up.per_second == 100_000, "a smaller transfer that takes longer says nothing"
    up.carried(10_000, 0.5, 3.0)
    assert up.per_second == 20_000, "the link became slower"
    up.carried(100, 0.1, 100.0)
    assert up.per_second == 1_000, "what was seen a minute ago is forgotten"


def test_bandwidth_down_counts_what_a_second_brings_behind_its_first_message() -> None:
    down = Bandwidth()
    for at in (0.0, 0.3, 0.6, 1.2):
        down.received(500, at)
    assert down.per_second == 1_000


def test_bandwidth_up_is_that_of_large_messages_which_are_acknowledged() -> None:
    for qos, size, seen in ((0, LARGE, None), (1, LARGE - 1, None), (1, LARGE, 2 * LARGE)):
        node = NodeEstimates()
        node.published(qos, size, 0.5, 1.0)
        assert node.up.per_second == seen


def test_a_narrow_link_makes_acknowledgements_dearer() -> None:
    seen = but(FLAPPING, forward=0.5, disconnects=0.02)
    assert cheapest_qos(seen, 0) == 1
    assert cheapest_qos(but(seen, bandwidth_up=9e3, bandwidth_down=9e3), 1) == 0
    assert cheapest_qos(but(seen, bandwidth_down=500.0), 0) == 1, "so little is what the session itself sends"


@pytest.mark.parametrize("now", range(2))
def test_connections_that_break_often_are_worth_acknowledgements(now: int) -> None:
    assert cheapest_qos(STEADY, now) == 0
    assert cheapest_qos(FLAPPING, now) == 1
    for unknown in (but(FLAPPING, rtt=None), but(STEADY, forward=0.0)):
        assert cheapest_qos(unknown, now) == now


@given(st.floats(0.0, 3.0), st.floats(0.001, 1.0), st.floats(0.0, 2.0), st.integers(0, 1))
def test_a_choice_stands(rtt: float, forward: float, disconnects: float, now: int) -> None:
    seen = Observation(rtt=rtt, forward=forward, disconnects=disconnects)
    chosen = cheapest_qos(seen, now)
    assert cheapest_qos(seen, chosen) == chosen
    assert cheapest_qos(but(seen, disconnects=2 * disconnects), chosen) >= chosen


def test_a_session_begins_as_it_was_told_and_goes_on_with_what_costs_least() -> None:
    policy = ClosedFormPolicy(Plan(4, qos=1, ahead=8), choose_qos=True)
    plans = [policy.plan(seen) for seen in (Observation(), STEADY, FLAPPING, STEADY)]
    assert [plan.qos for plan in plans] == [1, 0, 1, 0]
    assert {plan.qos if plan.open_qos is None else plan.open_qos for plan in plans} == {1}
    policy = ClosedFormPolicy(Plan(4, qos=2, ahead=8))
    assert {policy.plan(seen).qos for seen in (Observation(), STEADY, FLAPPING)} == {2}


def test_intervals_that_are_known() -> None:
    """Newcombe (1998), table I: 81 of 263 and 0 of 20, at 95 %."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
