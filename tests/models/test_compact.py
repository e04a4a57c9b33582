"""The compact runner against transformers: the same logits but for rounding, and the same text of a draft."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.compact.model import RANKS, CompactModel, frequent, load_compact, read_ranks
from flexspec_mq.models.load import load_target, load_text
from flexspec_mq.models.matrices import FEW_ROWS, EightBits, FourBits, SteadyEightBits, works
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.models.shape import UnknownModel
from tests.models.tiny_checkpoints import edit_tensors, save

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
TEXT = random.Random(3).choices(range(320), k=200)
FLOAT = "float32"


def drawn(model: Any) -> Any:
    """Larger random weights than usual, norms and biases too: nothing that could be left out goes unnoticed."""
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0.0, 0.12)
            else:
                weight.add_(torch.randn_like(weight), alpha=0.2)
    return model


Family = tuple[type[Any], type[Any]]
LLAMA: Family = (LlamaForCausalLM, LlamaConfig)
MODELS: dict[str, tuple[Family, dict[str, Any]]] = {
    "llama": (LLAMA, {}),
    "tied, biases everywhere": (
        LLAMA, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "wide heads, all keys": (LLAMA, {"num_key_value_heads": 4, "head_dim": 32}),
    "wide heads, blocks that are not full": (
        LLAMA, {"head_dim": 32, "intermediate_size": 144, "rope_parameters": LLAMA3},
    ),
    "llama3": (LLAMA, {"rope_parameters": LLAMA3}),
    "linear": (LLAMA, {"rope_parameters": LINEAR}),
    "qwen2": ((Qwen2ForCausalLM, Qwen2Config), {}),
    "qwen3": ((Qwen3ForCausalLM, Qwen3Config), {"head_dim": 32}),
}  # fmt: skip


def built(kind: str) -> Any:
    (model, config), changes = MODELS[kind]
    return drawn(model(config(**{**SIZES, **changes})))


KINDS = ("llama", "tied, biases everywhere", "wide heads, all keys", "llama3", "linear", "qwen2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("compact")
    return {kind: save(root / str(place), built(kind)) for place, kind in enumerate(KINDS)}


def loaded(folder: Path, weights: str = "bf16", ids: int | None = 0) -> CompactModel:
    return load_compact(folder, load_text(folder), weights, ids)


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def alone(model: CompactModel, text: list[int]) -> torch.Tensor:
    """Logits behind every id, read one by one."""
    kv = model.new_kv()
    return torch.cat([model.forward([ModelInput(kv, [token])]) for token in text])


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_agrees_with_transformers(kind: str, folders: dict[str, Path]) -> None:
    """With rounding as the only difference from float32: a forgotten bias or norm is a distance of 0.1 or more."""
    with torch.inference_mode():
        model: Any = load_target(folders[kind], dtype=FLOAT).model
        wanted = model(torch.tensor([TEXT])).logits[0]
    compact = loaded(folders[kind])
    assert distance(compact.forward([ModelInput(compact.new_kv(), TEXT, len(TEXT))]), wanted) < 0.03
    assert distance(alone(compact, TEXT), wanted) < 0.03


@cache
def of_kind(folder: Path, weights: str) -> tuple[CompactModel, torch.Tensor]:
    model = loaded(folder, weights)
    return model, alone(model, TEXT)


def walks(longest: int) -> st.SearchStrategy[list[list[tuple[int, int]]]]:
    """Forwards of up to four sessions: which, and how many tokens of the text each reads."""
    share = st.tuples(st.integers(0, 3), st.integers(1, longest))
    step = st.lists(share, min_size=1, max_size=4, unique_by=lambda share: share[0])
    return st.lists(step, min_size=1, max_size=8)


def check_any_walk(
    model: Any,
    text: Sequence[int],
    steps: list[list[tuple[int, int]]],
    back: int,
    near: Callable[[Any, list[int]], bool],
) -> None:
    """Sessions read the text in pieces beside each other, stray and roll back; `near` compares rows of the text."""
    kvs = [model.new_kv() for _ in range(4)]
    for step in steps:
        inputs: list[ModelInput[Any]] = []
        places: list[int] = []
        for session, share in step:
            kv = kvs[session]
            tokens = text[kv.length : kv.length + share]
            if tokens:
                places += range(kv.length, kv.length + len(tokens))
                inputs.append(ModelInput(kv, tokens, len(tokens)))
        if not inputs:
            continue
        assert near(model.forward(inputs), places)
        first = kvs[step[0][0]]
        kept = first.length
        model.forward([ModelInput(first, [319] * 3, 0)])
        first.roll_back(max(0, kept - back))


@settings(max_examples=15, deadline=None)
@given(weights=st.sampled_from(["bf16", "int8"]), steps=walks(40), back=st.integers(0, 30))
def test_neither_company_nor_pieces_nor_roll_backs_matter(
    folders: dict[str, Path], weights: str, steps: list[list[tuple[int, int]]], back: int
) -> None:
    """Sessions read the text in any pieces beside each other, stray and roll back: only rounding differs."""
    model, wanted = of_kind(folders["llama"], weights)
    check_any_walk(model, TEXT, steps, back, lambda logits, places: distance(logits, wanted[places]) < 0.03)


def check_rows(model: Any, text: Sequence[int], near: Callable[[Any, list[int]], bool]) -> None:
    """A forward has the rows that are asked for, of inputs of any length; `near` compares rows of the text."""
    shares = ((9, 2), (5, 0), (len(text), 80), (7, 1))
    logits = model.forward([ModelInput(model.new_kv(), text[:count], rows) for count, rows in shares])
    assert (logits.shape, str(logits.dtype).removeprefix("torch.")) == ((83, 320), "float32")
    assert near(logits, [place for count, rows in shares for place in range(count - rows, count)])
    assert model.forward([ModelInput(model.new_kv(), text[:5], 0)]).shape == (0, 320)


def test_rows_are_those_asked_for(folders: dict[str, Path]) -> None:
    model, wanted = of_kind(folders["llama"], "bf16")
    check_rows(model, TEXT, lambda logits, places: distance(logits, wanted[places]) < 0.03)


@pytest.mark.parametrize("weights", ["bf16", "int8", "mixed", "int4"])
def test_a_trimmed_head_has_the_columns_of_its_ids(weights: str, folders: dict[str, Path]) -> None:
    folder = folders["tied, biases everywhere"]
    ranks = np.array(random.Random(1).sample(range(3, 320), 128), dtype=np.int32)
    np.save(folder / RANKS, ranks)
    whole, some = loaded(folder, weights), loaded(folder, weights, 64)
    assert some.ids is not None
    assert set(some.ids) == {2, *ranks[:64]}
    found = some.forward([ModelInput(some.new_kv(), TEXT, 20)])
    wanted = whole.forward([ModelInput(whole.new_kv(), TEXT, 20)])
    assert distance(found, wanted[:, torch.from_numpy(some.ids)]) < (0.01 if weights == "bf16" else 0.15)
    assert loaded(folder, weights, None).columns == 129


def test_mixed_is_four_bits_in_mlps_and_head_and_eight_in_the_attention(folders: dict[str, Path]) -> None:
    model = loaded(folders["llama"], "mixed")
    layer = model._layers[-1]
    assert [type(each) for each in (layer.project, layer.merge)] == [EightBits] * 2
    assert [type(each) for each in (layer.widen, layer.narrow, model._lm_head)] == [FourBits] * 3


def test_trimming_without_ranks_is_refused_only_when_asked_for(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=RANKS) as caught:
        loaded(folders["llama"], ids=100)
    assert "draft_ids = 0" in caught.value.hint
    assert loaded(folders["llama"], ids=None).ids is None


@pytest.mark.parametrize(
    "ranks", [np.array([1, 1]), np.array([-1]), np.array([320]), np.array([0.5]), np.zeros((2, 2), np.int32)]
)
def test_strange_ranks_are_refused(ranks: np.ndarray[Any, Any], tmp_path: Path) -> None:
    np.save(tmp_path / RANKS, ranks)
    with pytest.raises(ModelError, match=RANKS):
        read_ranks(tmp_path, 320)
    (tmp_path / RANKS).write_bytes(b"not numpy")
    with pytest.raises(ModelError, match=RANKS):
        read_ranks(tmp_path, 320)


@given(st.permutations(range(40)), st.integers(1, 60), st.sets(st.integers(0, 39)))
def test_the_most_frequent_ids_and_those_wanted_always_are_kept(
    order: list[int], count: int, always: set[int]
) -> None:
    ids = frequent(np.array(order), count, always)
    assert list(ids) == sorted({*order[:count], *always})


@settings(max_examples=25, deadline=None)
@given(
    rows=st.sampled_from([16, 48, 320]),
    width=st.sampled_from([32, 64, 160]),
    count=st.sampled_from([1, 2, 5, FEW_ROWS, FEW_ROWS + 1, 40]),
    seed=st.integers(0, 1000),
)
def test_few_bits_are_near(rows: int, width: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, x = (
        torch.randn((rows, width), generator=generator),
        torch.randn((count, width), generator=generator),
    )
    bias = torch.randn(rows, generator=generator)
    x = x.to(torch.bfloat16)
    wanted = x.float() @ weight.T + bias
    assert distance(EightBits(weight, bias)(x).float(), wanted) < 0.02
    assert distance(FourBits(weight, bias)(x).float(), wanted) < 0.15


def test_a_kernel_that_is_not_there_is_noticed(
    monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]
) -> None:
    def absent(*_args: object) -> torch.Tensor:
        raise NotImplementedError

    assert works("int8")
    monkeypatch.setattr(torch, "_weight_int8pack_mm", absent)
    assert not works("int8")
    with pytest.raises(UsageError, match="int8"):
        loaded(folders["llama"], "int8")
    assert loaded(folders["llama"], "auto").kind == "bf16"


def test_other_models_are_refused_with_a_way_out(tmp_path: Path) -> None:
    qwen3 = save(tmp_path / "qwen3", Qwen3ForCausalLM(Qwen3Config(**SIZES)))
    windowed = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=64, max_window_layers=0)
    folder = save(tmp_path / "window", Qwen2ForCausalLM(windowed))
    yarn = {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    stretched = save(tmp_path / "yarn", LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=yarn)))
    for strange, named in ((qwen3, "qwen3"), (folder, "sliding"), (stretched, "yarn")):
        with pytest.raises(UnknownModel, match=named) as caught:
            loaded(strange)
        assert "--draft-engine transformers" in caught.value.hint


def test_incomplete_and_damaged_weights_are_named(tmp_path: Path) -> None:
    narrow, file = "model.layers.1.mlp.down_proj.weight", "model.safetensors"
    changes: list[tuple[dict[str, torch.Tensor | None], str]] = [
        ({narrow: None}, narrow),
        ({narrow: torch.zeros(3, 3)}, narrow),
        ({"model.layers.0.self_attn.q_norm.weight": torch.zeros(16)}, "q_norm"),
    ]
    for number, (change, named) in enumerate(changes):
        folder = save(tmp_path / str(number), built("llama"))
        edit_tensors(file, change)(folder)
        with pytest.raises(ModelError, match=named):
            loaded(folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot load the weights"):
        loaded(folder)


@pytest.mark.parametrize("kind", [EightBits, SteadyEightBits])
@pytest.mark.parametrize("width", [8, 24, 40])
def test_weights_narrower_than_a_vector_of_the_kernel_do_without_it(
    kind: type[EightBits], width: int
) -> None:
    """It read past their end: a draft of hidden size 8 ended the process."""
    weight, x = torch.randn(16, width).bfloat16(), torch.randn(3, width).bfloat16()
    assert distance(kind(weight)(x).float(), x.float() @ weight.float().T) < 0.02
