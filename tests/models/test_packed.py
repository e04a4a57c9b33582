"""A row of logits has the same bits whatever shares its forward, and they are those of transformers."""

import random
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from flexspec_mq.errors import ModelError
from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.head import LoraHead
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.invariance.target import TargetModel
from flexspec_mq.models.load import load_target, load_text
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput, to_numpy
from lab.benchmarks.exact.reference import Reference
from tests.models.tiny_checkpoints import save, save_base
from tests.models.tiny_models import built
from tests.models.tiny_packed import DTYPES, HEADS, VOCABULARY, packed, read, tiny, token_by_token

TEXT = random.Random(9).choices(range(VOCABULARY), k=150)
KINDS = st.sampled_from([(kind, dtype) for kind in (*HEADS, "exact") for dtype in DTYPES])
"""Heads of a model in transformers' code, or a model in our own."""


@cache
def model_of(kind: str, dtype: str) -> TargetModel:
    if kind != "exact":
        return packed(kind, DTYPES[dtype])
    with TemporaryDirectory() as folder:
        path = save(Path(folder), built("llama"))
        return Checkpoint(path, load_text(path), DTYPES[dtype]).load()


@cache
def alone(kind: str, dtype: str) -> torch.Tensor:
    return token_by_token(model_of(kind, dtype), TEXT)


@settings(max_examples=6)
@given(KINDS, st.lists(st.tuples(st.integers(1, 40), st.integers(0, 140), st.integers(1, 12)), max_size=8))
def test_what_was_rolled_back_leaves_no_trace(
    kind: tuple[str, str], detours: list[tuple[int, int, int]]
) -> None:
    """Read on, stray from the text as a rejected draft does, roll back to somewhere before, and read on."""
    model, wanted = model_of(*kind), alone(*kind)
    kv = model.new_kv()
    for forward, back, stray in detours:
        tokens = TEXT[kv.length : kv.length + forward]
        if tokens:
            start = kv.length
            rows = model.forward([ModelInput(kv, tokens, len(tokens))])
            assert torch.equal(rows, wanted[start : start + len(tokens)])
        kept = kv.length
        model.forward([ModelInput(kv, [VOCABULARY - 1] * stray, 0)])
        kv.roll_back(min(kept, back))
    start = kv.length
    if start < len(TEXT):
        assert torch.equal(model.forward([ModelInput(kv, TEXT[start:], len(TEXT) - start)]), wanted[start:])


@settings(max_examples=8)
@given(
    KINDS,
    st.lists(st.tuples(st.integers(0, 120), st.integers(1, 20)), min_size=1, max_size=6),
    st.integers(0, 2**32),
)
def test_company_does_not_matter(kind: tuple[str, str], sessions: list[tuple[int, int]], seed: int) -> None:
    """Sessions at different places of the text, each with a share of its own, in any order and any number."""
    rng = random.Random(seed)
    model, wanted = model_of(*kind), alone(*kind)
    inputs = []
    for length, share in sessions:
        kv = model.new_kv()
        if length:
            model.forward([ModelInput(kv, TEXT[:length], 0)])
        inputs.append(ModelInput(kv, TEXT[length : length + share], rng.randint(0, share)))
    starts = [model_input.kv.length for model_input in inputs]
    rows = model.forward(inputs)
    assert len(rows) == sum(model_input.rows for model_input in inputs)
    at = 0
    for start, model_input in zip(starts, inputs, strict=True):
        end = start + len(model_input.tokens)
        assert torch.equal(rows[at : at + model_input.rows], wanted[end - model_input.rows : end])
        at += model_input.rows


@settings(max_examples=8)
@given(KINDS, st.integers(2, 12), st.integers(1, 130), st.integers(1, 6))
def test_sessions_that_are_alike_share_a_product(
    kind: tuple[str, str], sessions: int, held: int, count: int
) -> None:
    model, wanted = model_of(*kind), alone(*kind)
    kvs = [model.new_kv() for _ in range(sessions)]
    for place, kv in enumerate(kvs):
        assert model.forward([ModelInput(kv, TEXT[: held + place], 0)]).shape == (0, wanted.shape[1])
    inputs = [ModelInput(kv, TEXT[kv.length : kv.length + count], count) for kv in kvs]
    for place, rows in enumerate(torch.split(model.forward(inputs), count)):
        assert torch.equal(rows, wanted[held + place : held + place + count])


def eager_rows(model: Any, ids: Sequence[int], copies: int) -> torch.Tensor:
    """Logits behind every id from transformers' own attention and cache, in `copies` identical rows."""
    store = DynamicCache(config=model.config)
    rows = []
    with torch.inference_mode():
        for token in ids:
            output = model(input_ids=torch.full((copies, 1), token), cache=store, use_cache=True)
            rows.append(output.logits[0, -1].float())
    return torch.stack(rows)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_computes_what_transformers_computes(heads: str, dtype: str) -> None:
    eager = eager_rows(tiny(heads, DTYPES[dtype], attention="eager"), TEXT, 2)
    spread = float(eager.std())
    tolerance = {"bfloat16": 0.06, "float32": 1e-4}[dtype] * spread
    assert spread > 0.5  # else anything would be within the tolerance
    assert (alone(heads, dtype) - eager).abs().max() < tolerance


@cache
def without_window(dtype: str) -> torch.Tensor:
    return token_by_token(PackedModel(tiny("grouped", DTYPES[dtype], window=4000)), TEXT)


@pytest.mark.parametrize(("window", "dtype"), [(7, "bfloat16"), (100, "float32")])
def test_a_sliding_window_hides_what_transformers_hides(window: int, dtype: str) -> None:
    eager = eager_rows(tiny("grouped", DTYPES[dtype], window=window, attention="eager"), TEXT, 2)
    model = PackedModel(tiny("grouped", DTYPES[dtype], window=window))
    one_by_one = token_by_token(model, TEXT)
    tolerance = {"bfloat16": 0.06, "float32": 1e-4}[dtype] * float(eager.std())
    assert (one_by_one - eager).abs().max() < tolerance
    assert torch.equal(read(model, TEXT, [13] * 12), one_by_one)
    # The window is not without effect.
    wide = without_window(dtype)
    assert (wide[window + 1 :] - one_by_one[window + 1 :]).abs().max() > 10 * tolerance
    # A query sees itself and window - 1 before it, in each of the three layers.
    assert torch.equal(wide[:window], one_by_one[:window])


def test_a_model_with_another_attention_is_refused() -> None:
    with pytest.raises(ModelError, match="sdpa"):
        PackedModel(tiny("all", torch.float32, attention="sdpa"))


@given(st.integers(1, 500), st.integers(1, 32), st.none() | st.integers(32, 200))
def test_every_piece_has_enough_rows(count: int, least: int, most: int | None) -> None:
    shapes = Shapes(least, most, 1, 64, 64)
    padded = shapes.padded(count)
    assert count <= padded < count + least
    pieces = shapes.pieces(torch.arange(padded)[:, None])
    assert torch.equal(torch.cat(pieces), torch.arange(padded)[:, None])
    assert all(least <= len(piece) <= (most or padded) for piece in pieces)


@pytest.mark.model
def test_the_default_model_has_the_bits_of_transformers_own_reading(tmp_path: Path) -> None:
    """Two layers in bfloat16, by the exactness benchmark's reference, which has nothing of ours, token by token."""
    path = save_base(tmp_path / "base", 2)
    model = PackedModel(load_target(path, dtype="bfloat16", attn_implementation=register()).model)
    reference = Reference(str(path), "bfloat16")
    rng = random.Random(4)
    ids = [rng.randrange(model.vocab_size) for _ in range(60)]
    kv = model.new_kv()
    model.forward([ModelInput(kv, ids[:40], 0)])
    cache, _ = reference.read([ids[:40]] * reference.copies)
    for pair in pairwise(ids[39:]):
        theirs = reference.next(cache, [pair] * reference.copies)[0]
        assert torch.equal(model.forward([ModelInput(kv, pair[1:])])[0], torch.from_numpy(theirs))


def test_heads_are_the_compact_engines() -> None:
    model = packed("grouped", torch.float32)
    with pytest.raises(HeadError, match="holds no heads"):
        model.hold("v", LoraHead({}))
    assert model.held == ()


def test_logits_become_numpy_without_a_copy() -> None:
    logits = torch.ones(2, 3)
    array = to_numpy(logits)
    logits[0, 0] = 5.0
    assert array[0, 0] == 5.0
