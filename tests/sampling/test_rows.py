"""All rows of a forward at once, in torch, against `choose` on each: the same ids, whatever shares the step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.sampling import noise, rows
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.rows import Draw, choose_rows
from schemas.messages import Sampling
from tests.sampling.test_choose import PARAMS

SEEDS = st.integers(0, 2**64 - 1)


@pytest.fixture(autouse=True, scope="module")
def none_is_few() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_FEW", 0)
        yield


@settings(max_examples=100)
@given(
    st.lists(st.tuples(PARAMS, st.integers(0, 5000)), min_size=1, max_size=6),
    st.integers(1, 130),
    st.integers(0, 2**32),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_rows_together_get_what_each_is_given_alone(
    batch: list[tuple[Sampling, int]], vocabulary: int, seed: int, dtype: torch.dtype
) -> None:
    """Half of the logits are eighths, which tie, some are masked, and every other row has a grammar."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0.0, rng.choice([0.3, 3.0, 30.0]), (len(batch), vocabulary))
    values = np.where(rng.random(values.shape) < 0.5, np.round(values * 8) / 8, values)
    values[:, 1:][rng.random((len(batch), vocabulary - 1)) < rng.choice([0.0, 0.3])] = -np.inf
    logits = torch.from_numpy(values).to(dtype)
    allowed = rng.random((len(batch), vocabulary)) < rng.choice([0.1, 0.9])
    allowed[:, 0] = True
    draws = [Draw(*one, allowed=allowed[row] if row % 2 else None) for row, one in enumerate(batch)]
    alone = logits.float().numpy().copy()
    # With another default device a tensor that is not made on the logits' own would be found out.
    with torch.device("meta"):
        token = choose_rows(logits, draws)
        found = [token(row) for row in range(len(draws))]
    assert found == [
        choose(alone[i], draw.params, draw.position, draw.allowed) for i, draw in enumerate(draws)
    ]
    assert np.array_equal(logits.float().numpy(), alone)


WHOLE = (
    (Sampling(), 24),
    (Sampling(0.7, seed=1), 24),
    (Sampling(1.0, seed=2), 22),
    (Sampling(0.7, 20, 0.8, 3), 24),
    (Sampling(1.0, 50, 1.0, 4), 24),
    (Sampling(0.7, 0, 0.95, 5), 22),
    (Sampling(1.0, 0, 0.9, 6), 18),
    (Sampling(4.0, 0, 0.9, 7), 0),
    (Sampling(1.0, seed=8, min_p=0.05), 24),
    (Sampling(1.0, 0, 0.9, 9, min_p=0.05), 22),
    (Sampling(1.0, seed=10, min_p=1e-9), 0),
)
"""Parameters, and how many rows of 24 are told at least."""


@pytest.mark.parametrize(
    ("params", "told", "vocabulary"),
    [
        *((*case, size) for case in WHOLE for size in (49_152, 32_001)),
        *((*WHOLE[place], 151_936) for place in (1, 5)),
    ],
)
def test_a_whole_vocabulary_is_told_without_looking_at_most_of_it(
    params: Sampling, told: int, vocabulary: int
) -> None:
    """Logits as models have them: most far below, some hundred of all likelihoods above, rounded, so with ties."""
    rng = np.random.default_rng(vocabulary)
    values = rng.normal(0.0, 2.0, (24, vocabulary)).astype(np.float32)
    for row in values:
        row[rng.choice(vocabulary, 300, replace=False)] += rng.gamma(2.0, 3.5, 300)
        row[rng.integers(vocabulary)] = row.max() + rng.gamma(1.0, 2.0)
    logits = torch.from_numpy(values).to(torch.bfloat16)
    draws = [Draw(params, position) for position in range(24)]
    alone = logits.float().numpy()
    wanted = [choose(alone[i], params, i) for i in range(24)]
    token = choose_rows(logits, draws)
    assert [token(row) for row in range(24)] == wanted
    assert sum(found >= 0 for found in rows._chosen(logits, draws)) >= told


@given(st.lists(st.tuples(SEEDS, st.integers(0, 2**20), st.integers(0, 20_000)), min_size=1, max_size=40))
def test_words_and_their_noise_are_those_of_numpy(asked: list[tuple[int, int, int]]) -> None:
    wanted = np.array([noise.words(seed, position, token + 1)[token] for seed, position, token in asked])
    signed = np.array([seed for seed, _, _ in asked], dtype=np.uint64).view(np.int64)
    drawn = rows.words_of(
        torch.from_numpy(signed), *(torch.tensor([one[i] for one in asked]) for i in (1, 2))
    )
    assert np.array_equal(drawn.numpy(), wanted)
    assert rows.gumbel_of(drawn).tolist() == pytest.approx(noise.gumbel_of(wanted).tolist(), rel=1e-14)


def test_nothing_that_is_not_lucky_reaches_a_token_beyond_reach() -> None:
    """The bound by which tokens are left out: the least noise, the largest of an unlucky one, and the reach."""
    least, unlucky = noise.gumbel_of(np.array([2**32 - 1, int(noise._LUCKY)], dtype=np.uint32))
    assert unlucky - least < rows._REACH
    assert noise.lucky_words(3, 5, 50_000)[0].tolist() == [
        i for i, word in enumerate(noise.words(3, 5, 50_000)) if word < int(noise._LUCKY)
    ]
