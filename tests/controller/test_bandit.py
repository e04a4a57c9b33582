"""The bandit: it finds the best arm, again after a change, and keeps to what the user allows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.arms import Arms
from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.controller.policies.bandit import BanditPolicy

BASE = Plan(draft_length=4, ahead=8, worker_draft=8)


def pull(arms: Arms, rates: Mapping[str, float], times: int, rng: random.Random) -> Counter[str]:
    """Pull as the arms say, of which each gives tokens at its rate, give or take a third."""
    pulled: Counter[str] = Counter()
    for _ in range(times):
        name = arms.best(tuple(rates))
        assert isinstance(name, str)
        tokens = rng.randint(8, 20)
        arms.pulled(name, tokens, tokens / rates[name] * rng.uniform(0.7, 1.3))
        pulled[name] += 1
    return pulled


@given(st.integers(0, 2**32), st.permutations([20.0, 26.0, 32.0, 60.0]))
def test_the_best_arm_is_pulled_most(seed: int, rates: list[float]) -> None:
    names = dict(zip("abcd", rates, strict=True))
    pulled = pull(Arms(), names, 100, random.Random(seed))
    assert pulled.most_common(1)[0][0] == max(names, key=names.__getitem__)
    assert min(pulled[name] for name in names) >= 1


@given(st.integers(0, 2**32))
def test_another_arm_that_becomes_the_best_is_found(seed: int) -> None:
    rng, arms = random.Random(seed), Arms()
    pull(arms, {"a": 60.0, "b": 30.0}, 60, rng)
    pull(arms, {"a": 20.0, "b": 50.0}, 60, rng)
    assert pull(arms, {"a": 20.0, "b": 50.0}, 40, rng)["b"] > 25


@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0.0, 0.3), st.floats(0.0, 8.0)), max_size=60),
    st.sampled_from((0, 4)),
    st.sampled_from((0, 8)),
)
def test_plans_keep_to_what_the_user_allows(
    rounds: list[tuple[int, float, float]], length: int, ahead: int
) -> None:
    policy = BanditPolicy(replace(BASE, draft_length=length, ahead=ahead))
    policy.recall({})
    seen = Observation(rtt=0.02, compute=0.04, draft_time=0.005, at=0.0)
    for tokens, seconds, own in rounds:
        assert seen.at is not None
        seen = replace(seen, committed=seen.committed + tokens, at=seen.at + seconds, worker_drafted=own)
        plan = policy.plan(seen)
        assert not plan.draft_length or length
        assert not plan.ahead or ahead


def waits(plan: Plan) -> bool:
    """By the plan that is fast in the next tests, which has the worker wait for eight tokens."""
    return plan.draft_length == 8 and plan.ahead == 0


def texts_of_a_node(cold: int = 0) -> Iterator[tuple[bool, bool]]:
    """Whether each plan of forty texts waits, and whether drafts of its text have come: after so many plans."""
    memory: dict[str, object] = {}
    for _ in range(40):
        policy = BanditPolicy(BASE)
        policy.recall(memory)
        seen = Observation(rtt=0.02, compute=0.04, draft_time=0.005, at=0.0, prompt=50, remaining=60)
        for number in range(30):
            seen = replace(seen, drafted=max(0, number + 1 - cold))
            fast = waits(policy.plan(seen))
            yield fast, seen.drafted > 0
            assert seen.at is not None
            seen = replace(seen, committed=seen.committed + 3, at=seen.at + (0.05 if fast else 0.15))


def test_what_one_text_has_shown_is_known_to_the_next() -> None:
    fast = [waited for waited, _ in texts_of_a_node()]
    assert sum(fast[:60]) < 30, "all have to be tried first"
    assert sum(fast[60:]) > 0.8 * len(fast[60:])


def test_nobody_waits_for_a_device_whose_draft_has_still_to_read_the_text() -> None:
    plans = list(texts_of_a_node(cold=10))
    assert not any(waited and not drafted for waited, drafted in plans)
    assert any(waited for waited, _ in plans), "once it drafts that is tried as before"
