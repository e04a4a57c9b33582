"""Acceptance is a pure function: what the target would have written, cut where it differs from the draft."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_worker.engine.acceptance import decide
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams

VOCABULARY = 16


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.sampled_from([0.0, 0.7, 1.0]),
    st.sets(st.integers(0, VOCABULARY - 1), max_size=2),
)
def test_every_decided_token_is_the_one_chosen_alone_at_its_position(
    seed: int, guesses: list[int], right: list[bool], temperature: float, eos: set[int]
) -> None:
    """Guesses are made right at random, because random ones rarely are."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 2.0, (len(guesses) + 1, VOCABULARY)).astype(np.float32)
    params = SamplingParams(temperature, seed=seed)
    alone = [choose(row, params, 100 + index) for index, row in enumerate(logits)]
    draft = [alone[i] if right[i] else guess for i, guess in enumerate(guesses)]
    decided = decide(logits, draft, params, 100, tuple(eos))
    assert list(decided) == alone[: len(decided)]
    assert 1 <= len(decided) <= len(draft) + 1
    for index, token in enumerate(decided[:-1]):
        assert token == draft[index]
        assert token not in eos
    last = len(decided) - 1
    assert last == len(draft) or decided[last] != draft[last] or decided[last] in eos
