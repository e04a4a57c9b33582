"""Keys and values grow without losing anything and forget exactly what they are told to."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.models.kv import GRAIN, SessionKV
from tests.models.test_model_memory import resident

LIKE = torch.empty(0, dtype=torch.bfloat16)
IDS = st.lists(st.integers(0, 3), max_size=12)


def make() -> SessionKV:
    return SessionKV(layers=2, kv_heads=3, head_size=4, like=LIKE)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=20))
def test_there_is_room_up_to_the_grain_and_keys_lie_behind_one_another(lengths: list[int]) -> None:
    """What a padded context reads is all of the memory: no product has to copy it."""
    kv = make()
    assert (kv.length, kv.nbytes, kv.capacity) == (0, 0, 0)
    for length in lengths:
        before = kv.capacity
        kv.reserve(length)
        assert kv.capacity == max(-(-length // GRAIN) * GRAIN, before)
        assert kv.span(0, kv.capacity)[0, 0].is_contiguous()


def test_growth_keeps_what_is_held_and_what_is_new_is_finite() -> None:
    kv = make()
    kv.reserve(GRAIN)
    for layer in (0, 1):
        kv.span(0, kv.capacity)[layer, 0].fill_(1.0 + layer)
        kv.span(0, kv.capacity)[layer, 1].fill_(-1.0 - layer)
    kv.reserve(GRAIN + 1)
    for layer in (0, 1):
        keys, values = kv.span(0, kv.capacity)[layer]
        assert bool((keys[:, :GRAIN] == 1.0 + layer).all())
        assert bool((values[:, :GRAIN] == -1.0 - layer).all())
        assert bool(torch.isfinite(keys).all())


def test_roll_back_forgets_tokens_and_keeps_memory() -> None:
    kv = make()
    kv.reserve(100)
    kv.tokens += range(100)
    kv.roll_back(40)
    assert (kv.length, kv.tokens, kv.capacity) == (40, list(range(40)), 128)
    kv.roll_back(70)
    assert kv.length == 40


@given(IDS, IDS)
def test_match_keeps_the_longest_common_prefix(held: list[int], wanted: list[int]) -> None:
    kv = make()
    kv.tokens += held
    common = kv.match(tuple(wanted))
    assert kv.tokens == held[:common] == wanted[:common]
    assert common == min(len(held), len(wanted)) or held[common] != wanted[common]


def test_what_is_given_back_goes_back_to_the_system() -> None:
    kv = SessionKV(16, 4, 64, LIKE)
    kv.reserve(4096)  # 64 MB
    kv.span(0, 4096).fill_(1)
    full = resident()
    kv.give_back()
    assert full - resident() > 48_000_000
