"""The traditional draft of the comparison learns by the same loss as ours, and all of its weights move."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch

from flexspec_mq.training.architecture import build_draft
from flexspec_mq.training.cache import StateCache, collect
from flexspec_mq.training.losses import Head
from flexspec_mq.training.schedule import TrainConfig
from scripts.draft_comparison import AllWeights
from tests.models.test_draft_training import WIDTH, N, some_text, tiny_base, trainer


def test_the_traditional_draft_has_our_gradients_where_we_have_any_and_trains_everything(
    tmp_path: Path,
) -> None:
    base = tiny_base(dtype=torch.float32)
    ours = trainer(tmp_path / "ours", base, common_ids=0)
    config = TrainConfig(N, (3,), max_steps=2, step_tokens=200, warmup_steps=1, common_ids=0)
    cache = StateCache(tmp_path / "all", some_text(), base="tiny", n=N, width=WIDTH)
    theirs = AllWeights(base, cache, config, build_draft(base, N, (3,)))
    rows = ours.train_rows[:5]
    for one in (ours, theirs):
        collect(one.cache, base, rows)
    for share in (1.0, 0.3):
        gradients = []
        for one in (ours, theirs):
            one.draft.zero_grad()
            sums = one.differentiate(rows, Head(base.lm_head.weight, temperature=0.7), share)
            found = {name: p.grad.clone() for name, p in one.draft.named_parameters() if p.grad is not None}
            gradients.append((sums.kl, sums.overlap, found))
        assert gradients[0][0] == pytest.approx(gradients[1][0], rel=0.02)
        assert gradients[0][1] == pytest.approx(gradients[1][1], rel=0.02)
        for name, gradient in gradients[0][2].items():
            other = gradients[1][2][name]
            # Ours starts from states that are kept in bfloat16.
            assert float((gradient - other).norm()) < 0.05 * float(other.norm()), name
        assert gradients[1][2].keys() == dict(theirs.draft.named_parameters()).keys()
    before = {name: p.detach().clone() for name, p in theirs.draft.named_parameters()}
    theirs.run()
    assert "lm_head.weight" in before
    assert all(not torch.equal(before[name], p) for name, p in theirs.draft.named_parameters())
    after = dict(theirs.draft.named_parameters())
    assert not torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
