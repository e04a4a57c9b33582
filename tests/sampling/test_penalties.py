"""Penalties and a bias of logits, against a second writing of them that goes through the tokens one by one."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.protocol.digest import root
from flexspec_mq.sampling import rows
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.penalties import penalties
from flexspec_mq.sampling.rows import Draw, choose_rows
from lab.benchmarks.exact.sampling import Params, penalized
from schemas.messages import NOISE_VERSION, PENALTIES_VERSION, Identity, Sampling

VOCABULARY = 40
IDS = st.integers(0, VOCABULARY - 1)
TOKENS = st.lists(IDS, max_size=30)
BIAS = st.dictionaries(IDS, st.floats(-100, 100), max_size=6).map(lambda bias: tuple(sorted(bias.items())))
PENALIZED = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7]),
    seed=st.integers(0, 2**64 - 1),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.3, -2.0]),
    presence_penalty=st.sampled_from([0.0, 1.1, -0.4]),
    logit_bias=BIAS,
)
SEEDS = st.integers(0, 2**32)


def rows_of(seed: int, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Logits, some of which a mask forbids."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0.0, 4.0, (count, VOCABULARY)).astype(np.float32)
    values[:, 1:][rng.random((count, VOCABULARY - 1)) < 0.1] = -np.inf
    return values


@given(PENALIZED, TOKENS, TOKENS, TOKENS, SEEDS)
def test_each_row_is_penalized_for_what_stands_before_it(
    params: Sampling, prompt: list[int], written: list[int], draft: list[int], seed: int
) -> None:
    second = Params(*msgspec.structs.astuple(params))
    logits = rows_of(seed, len(draft) + 2)
    before = torch.from_numpy(logits.copy())
    found = rows.penalized(before, [None, penalties(params, prompt, written, draft)])
    wanted = [penalized(row, second, prompt, written + draft[:at]) for at, row in enumerate(logits[1:])]
    assert np.array_equal(found.numpy(), [logits[0], *wanted])
    assert np.array_equal(before.numpy(), logits)
    start = len(prompt) + len(written)
    draws = [Draw(params, start + at) for at in range(len(wanted))]
    token = choose_rows(found[1:], draws)
    assert [token(at) for at in range(len(draws))] == [
        choose(row, params, start + at) for at, row in enumerate(wanted)
    ]


@given(PENALIZED, TOKENS, TOKENS, SEEDS, st.sets(IDS, min_size=1))
def test_a_draft_with_some_of_the_tokens_changes_these_alike(
    params: Sampling, prompt: list[int], written: list[int], seed: int, kept: set[int]
) -> None:
    whole = rows_of(seed, 1)[0]
    columns = np.random.default_rng(seed).permutation(np.array(sorted(kept), np.int64))
    before, few = whole.copy(), whole[columns].copy()
    change = penalties(params, prompt, written)
    change.apply(few, columns)
    change.apply(whole, np.arange(VOCABULARY))
    assert np.array_equal(whole, penalized(before, Params(*msgspec.structs.astuple(params)), prompt, written))
    assert np.array_equal(few, whole[columns])


def test_texts_without_penalties_are_what_they_were() -> None:
    assert (Sampling(0.7).rule, Sampling(0.7, logit_bias=((5, 1),)).rule) == (
        NOISE_VERSION,
        PENALTIES_VERSION,
    )
    one, other = (
        Identity(3, bytes(16), Sampling(presence_penalty=penalty), (2,), ignore_eos=False, limit=5)
        for penalty in (0.5, 0.6)
    )
    assert root(one, "v") != root(other, "v")
    assert Sampling(logit_bias=((5, 1), (6, -0.0))).logit_bias == ((5, 1.0), (6, 0.0))


def test_a_bias_names_each_token_once() -> None:
    for bias in (((5, 1.0), (5, 1.0)), ((6, 1.0), (5, 1.0))):
        with pytest.raises(ValueError, match="ascending"):
            Sampling(logit_bias=bias)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert([0.0, 0, 1.0, 0, 0.0, 1.0, 0.0, 0.0, [[6, 1.0], [5, 1.0]]], Sampling)
