"""Which engine runs the draft, and what a trimmed head means for the tokens drafted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from flexspec_mq.drafting.load import load
from flexspec_mq.drafting.model_drafter import ModelDrafter, proposer_of
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.compact.model import RANKS
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from tests.drafting.asking import ConstantModel, asked, settings, silent, tokens
from tests.models.tiny_checkpoints import save, tiny_llama

CONTEXT = tuple(range(10, 40))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved = save(tmp_path / "draft", tiny_llama())
    np.save(saved / RANKS, np.arange(299, 99, -1, dtype=np.int32))
    return saved


def test_a_draft_like_llama_runs_compactly_with_its_frequent_ids(folder: Path) -> None:
    found = load(settings(folder, draft_weights="int8", draft_ids=40), silent)
    assert found.engine == "compact, int8 weights, 41 token ids"  # the end of a text is always in
    assert found.model is not None
    wanted = [asked(seed, CONTEXT, SamplingParams(1.0, 0, 1.0, seed)) for seed in range(8)]
    assert set(tokens(found.model.draft(wanted))) <= {2, *range(260, 300)}


@pytest.mark.parametrize("more", [{"draft_engine": "transformers"}, {"dtype": "float32"}])
def test_transformers_runs_it_where_asked_or_where_only_it_can(folder: Path, more: dict[str, Any]) -> None:
    assert load(settings(folder, **more), silent).engine == "transformers"


@pytest.mark.parametrize(
    "more",
    [
        {"draft_engine": "compact", "dtype": "float32"},
        {"draft_weights": "int8", "draft_engine": "transformers"},
        {"draft_ids": 5, "dtype": "float16"},
    ],
)
def test_settings_that_do_not_go_together_are_refused(folder: Path, more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="compact drafts"):
        load(settings(folder, **more), silent)


def test_a_model_that_only_transformers_knows(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 300}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    folder = save(tmp_path, Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=1, **sizes, **heads)))
    said: list[str] = []
    assert load(settings(folder), said.append).engine == "transformers"
    assert any("qwen3" in line for line in said)
    with pytest.raises(ModelError, match="qwen3"):
        load(settings(folder, draft_engine="compact"), silent)


@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=60),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 3.0]),
    seed=st.integers(0, 2**64 - 1),
    data=st.data(),
)
def test_a_columns_dice_are_its_tokens(
    logits: list[float], temperature: float, seed: int, data: st.DataObject
) -> None:
    """What the full head chooses, a trimmed one chooses too, as long as it has that id."""
    params = SamplingParams(temperature, 0, 1.0, seed)
    wanted = choose(np.array(logits, dtype=np.float32), params, len(CONTEXT))
    others = data.draw(st.sets(st.integers(0, len(logits) - 1)))
    ids = np.array(sorted({wanted, *others}), dtype=np.int64)
    network = ConstantModel([logits[token] for token in ids])
    drafter = ModelDrafter(network, max_context=99, proposer=proposer_of(None, ids))
    assert tokens(drafter.draft([asked(1, CONTEXT, params)])) == [wanted]
