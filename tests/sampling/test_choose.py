"""`choose` against a slow one that sorts everything, and against the distributions that it should draw from."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import UsageError
from flexspec_mq.sampling.choose import choose, choose_few, choose_with_margin, keep
from flexspec_mq.sampling.noise import gumbel_of, words
from flexspec_mq.sampling.params import verified
from schemas.messages import Sampling
from tests.sampling.vllm_noise import logits_of, recorded

Logits = npt.NDArray[np.float32]

# bfloat16 logits tie often: eighths give hypothesis many ties too. Infinite ones come from masks.
VALUES = st.integers(-80, 80).map(lambda eighths: eighths / 8) | st.floats(-30, 30, width=32)
LOGITS = st.lists(VALUES, min_size=1, max_size=60).map(lambda values: np.array(values, dtype=np.float32))
TEMPERATURES = st.sampled_from([0.0, 0.1, 0.7, 1.0, 1.5, 100.0])
TOP_K = st.integers(0, 70)
MIN_P = st.sampled_from([0.0, 0.0, 1.0, 0.5, 0.1, 1e-3, 1e-6]) | st.floats(0.0, 1.0)
TOP_P = st.sampled_from([1.0, 0.999, 0.95, 0.5, 0.1, 1e-6]) | st.floats(0.01, 1.0)
PARAMS = st.builds(Sampling, TEMPERATURES, TOP_K, TOP_P, st.integers(0, 2**64 - 1), MIN_P)


def slow_keep(logits: Logits, params: Sampling) -> list[int]:
    """Ids that stay, ascending, by lists and a full sort."""
    scores = [float(x) / params.temperature for x in logits]
    ids = list(range(len(scores)))
    if params.min_p > 0.0:
        least = max(scores) + math.log(params.min_p)
        ids = [i for i in ids if scores[i] >= least]
    if 0 < params.top_k < len(ids):
        ids = sorted(sorted(ids, key=lambda i: (-scores[i], i))[: params.top_k])
    if params.top_p < 1.0:
        top = max(scores)
        mass = {i: math.exp(scores[i] - top) for i in ids}
        wanted = params.top_p * math.fsum(mass.values())
        ids.sort(key=lambda i: (-scores[i], i))
        head: list[int] = []
        for i in ids:
            head.append(i)
            if math.fsum(mass[j] for j in head) >= wanted:
                break
        ids = sorted(head)
    return ids


def slow_choose(logits: Logits, params: Sampling, position: int) -> int:
    if params.temperature == 0.0:
        return max(range(len(logits)), key=lambda i: (logits[i], -i))
    noise = gumbel_of(words(params.seed, position, len(logits)))
    return max(
        slow_keep(logits, params), key=lambda i: (float(logits[i]) / params.temperature + noise[i], -i)
    )


def near_the_border(logits: Logits, params: Sampling) -> bool:
    """Whether rounding may decide how long the nucleus is: its mass lies within 1e-9 of what is wanted."""
    if params.temperature == 0.0 or params.top_p >= 1.0:
        return False
    ids = slow_keep(logits, msgspec.structs.replace(params, top_p=1.0))
    mass = sorted(
        (math.exp((float(logits[i]) - float(logits.max())) / params.temperature) for i in ids), reverse=True
    )
    reached = np.cumsum(mass) / math.fsum(mass)
    return bool((np.abs(reached - params.top_p) < 1e-9).any())


@given(LOGITS, PARAMS, st.integers(0, 5000))
def test_it_chooses_what_a_full_sort_chooses(logits: Logits, params: Sampling, position: int) -> None:
    if near_the_border(logits, params):
        return
    assert choose(logits, params, position) == slow_choose(logits, params, position)


@given(LOGITS, PARAMS, st.integers(0, 5000), st.randoms(use_true_random=False))
def test_a_mask_leaves_its_ids_and_their_noise(
    logits: Logits, params: Sampling, position: int, rng: random.Random
) -> None:
    """Min-p, top-k and top-p count what is allowed only."""
    temperature = params.temperature
    allowed = np.array([rng.random() < 0.4 for _ in logits])
    allowed[rng.randrange(len(logits))] = True
    ids = np.flatnonzero(allowed)
    if near_the_border(logits[ids], params):
        return
    noise = gumbel_of(words(params.seed, position, len(logits)))[ids]
    kept = range(len(ids)) if not temperature else slow_keep(logits[ids], params)
    score = (
        (lambda i: float(logits[ids[i]]) / temperature + noise[i])
        if temperature
        else lambda i: logits[ids[i]]
    )
    assert choose(logits, params, position, allowed) == ids[max(kept, key=lambda i: (score(i), -i))]


@given(LOGITS, PARAMS.filter(lambda p: p.top_k), st.integers(0, 5000), st.randoms(use_true_random=False))
def test_few_ids_with_all_that_top_k_leaves_give_the_choice_of_the_row(
    logits: Logits, params: Sampling, position: int, rng: random.Random
) -> None:
    wanted = slow_keep(logits, Sampling(params.temperature or 1.0, params.top_k))
    few = [*{*wanted, *rng.sample(range(len(logits)), len(logits) // 3)}]
    ids = np.array(rng.sample(few, len(few)))
    assert choose_few(ids, logits[ids], params, position) == choose(logits, params, position)


@given(LOGITS, PARAMS.filter(lambda p: p.temperature))
def test_a_keep_is_that_of_a_full_sort(logits: Logits, params: Sampling) -> None:
    if near_the_border(logits, params):
        return
    kept = keep(logits.astype(np.float64) / params.temperature, params)
    assert (list(range(len(logits))) if kept is None else kept.tolist()) == slow_keep(logits, params)


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_a_whole_vocabulary_of_rounded_logits(spread: float, temperature: float) -> None:
    """49,152 logits with bfloat16's ties, from nearly flat to nearly certain; shortcuts for large ones run here."""
    rng = np.random.default_rng(3)
    for position in range(10):
        values = rng.normal(0.0, spread, 49_152).astype(np.float32)
        logits = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        scores = logits.astype(np.float64) / temperature
        drawn = scores + gumbel_of(words(5, position, len(logits)))
        assert choose(logits, Sampling(temperature, seed=5), position) == int(np.argmax(drawn))
        order = np.lexsort((np.arange(len(scores)), -scores))
        mass = np.cumsum(np.exp(scores[order] - scores.max()))
        for top_p in (0.5, 0.95):
            head = order[: int(np.searchsorted(mass, top_p * mass[-1])) + 1]
            wanted = int(head[np.lexsort((head, -drawn[head]))[0]])
            assert choose(logits, Sampling(temperature, 0, top_p, 5), position) == wanted
        for min_p in (0.02, 0.5):
            drawn[scores < scores.max() + math.log(min_p)] = -np.inf
            assert choose(logits, Sampling(temperature, seed=5, min_p=min_p), position) == np.argmax(drawn)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_one_token_far_above_all_others_is_certain(temperature: float) -> None:
    logits = np.full(1000, -1e30, dtype=np.float32)
    logits[77] = 1e30
    assert {choose(logits, Sampling(temperature, seed=s), s) for s in range(50)} == {77}


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("top_k", [0, 3])
def test_masked_tokens_are_never_drawn(top_k: int, top_p: float) -> None:
    logits = np.full(1000, -np.inf, dtype=np.float32)
    logits[[5, 900]] = 0.0
    drawn = {choose(logits, Sampling(1.0, top_k, top_p, seed), 0) for seed in range(100)}
    assert drawn == {5, 900}  # both of them: one alone has odds of 2**-99


def test_the_token_that_reaches_top_p_belongs_to_it() -> None:
    scores = np.log(np.array([0.125, 0.5, 0.25, 0.125]))
    for top_p, wanted in ((0.5, [1]), (0.51, [1, 2]), (0.75, [1, 2]), (0.76, [0, 1, 2]), (1e-9, [1])):
        kept = keep(scores, Sampling(1.0, top_p=top_p))
        assert kept is not None
        assert kept.tolist() == wanted


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 100.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_k", -1),
        ("top_k", 2**24),
        ("min_p", -0.1),
        ("min_p", 1.01),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_impossible_parameters_are_refused_by_name(setting: str, value: float) -> None:
    with pytest.raises(UsageError, match=setting):
        verified(Sampling(**{setting: value}))  # type: ignore[arg-type]


def test_draws_follow_the_distribution() -> None:
    """χ² with 7 degrees of freedom over 20,000 positions; above 40.5 once in a million runs, were they random."""
    probabilities = np.array([0.3, 0.25, 0.2, 0.1, 0.08, 0.04, 0.02, 0.01])
    logits, params = np.log(probabilities).astype(np.float32), Sampling(1.0, seed=11)
    chosen = [choose(logits, params, position) for position in range(20_000)]
    expected, counts = 20_000 * probabilities, np.bincount(chosen, minlength=len(probabilities))
    assert ((counts - expected) ** 2 / expected).sum() < 40.5


@pytest.mark.parametrize("case", range(2))
def test_a_draft_is_accepted_as_often_as_gumbel_coupling_promises(case: int) -> None:
    """Σ_i 1 / Σ_j max(p_j/p_i, q_j/q_i), the exact probability; 20,000 positions, within 6 standard deviations."""
    rng = np.random.default_rng(case)
    p, q = rng.dirichlet(np.full(12, 0.5)) + 1e-4, rng.dirichlet(np.full(12, 0.5)) + 1e-4
    p, q = (p / p.sum() if case else q / q.sum()), q / q.sum()
    promised = sum(1 / sum(max(p[j] / p[i], q[j] / q[i]) for j in range(len(p))) for i in range(len(p)))
    target, draft = np.log(p).astype(np.float32), np.log(q).astype(np.float32)
    params = Sampling(1.0, seed=case)
    positions = 20_000
    accepted = sum(choose(target, params, at) == choose(draft, params, at) for at in range(positions))
    sigma = math.sqrt(promised * max(0.0, 1 - promised) / positions)
    assert accepted / positions == pytest.approx(promised, abs=6 * sigma + 1e-12)
    variation = 0.5 * np.abs(p - q).sum()
    assert (1 - variation) / (1 + variation) - 1e-9 <= promised <= 1 - variation + 1e-9


@pytest.mark.parametrize("params", [Sampling(1.0, seed=3), Sampling(0.7, 20, 0.9, 4), Sampling()])
def test_some_of_the_ids_are_drawn_for_as_if_all_others_were_forbidden(params: Sampling) -> None:
    rng = np.random.default_rng(5)
    for position in range(1, 40):
        logits, ids = rng.normal(0, 2, 64).astype(np.float32), np.sort(rng.permutation(1001)[:64])
        row = np.full(1001, -np.inf, dtype=np.float32)
        row[ids] = logits
        assert ids[choose_with_margin(logits, params, position, ids)[0]] == choose(row, params, position)


@pytest.mark.parametrize("case", recorded()["choices"], ids=lambda case: str(case["params"]))
def test_it_chooses_what_vllms_kernels_choose(case: dict[str, Any]) -> None:
    """Temperature, min-p, top-k with ties at its border, top-p and noise, float32 there and float64 here."""
    temperature, top_k, top_p, min_p, vocabulary = case["params"]
    found = [
        choose(
            logits_of(row, vocabulary), Sampling(temperature, top_k, top_p, seed % 2**64, min_p), position + 1
        )
        for row, (seed, position, _) in enumerate(case["chosen"])
    ]
    assert found == [token for _, _, token in case["chosen"]]


@given(LOGITS, PARAMS, st.integers(0, 5000))
def test_the_margin_is_that_of_the_token_that_is_chosen(
    logits: Logits, params: Sampling, position: int
) -> None:
    temperature = params.temperature
    token, margin = choose_with_margin(logits, params, position)
    assert token == choose(logits, params, position)
    if temperature == 0.0:
        scores = np.sort(logits.astype(np.float64))
    else:
        kept = keep(logits.astype(np.float64) / temperature, params)
        left = np.arange(len(logits)) if kept is None else kept
        noise = gumbel_of(words(params.seed, position, len(logits)))
        scores = np.sort(temperature * (logits.astype(np.float64)[left] / temperature + noise[left]))
    if len(scores) == 1:
        assert margin == math.inf
    else:
        assert math.isclose(margin, scores[-1] - scores[-2], rel_tol=1e-6, abs_tol=1e-6)


@given(st.integers(0, 2**32), st.sampled_from([0.7, 1.0, 2.0]), st.sampled_from([1.0, 3.0, 8.0]))
def test_the_margin_of_a_whole_vocabulary(seed: int, temperature: float, spread: float) -> None:
    """Here most tokens are never looked at, and the second best must be among those that are."""
    logits = (np.random.default_rng(seed).standard_normal(20_000) * spread).astype(np.float32)
    params = Sampling(temperature, 0, 1.0, seed)
    scores = np.sort(logits / np.float64(temperature) + gumbel_of(words(seed, 9, len(logits))))
    token, margin = choose_with_margin(logits, params, 9)
    assert token == choose(logits, params, 9)
    assert math.isclose(margin, temperature * (scores[-1] - scores[-2]), rel_tol=1e-6, abs_tol=1e-6)
