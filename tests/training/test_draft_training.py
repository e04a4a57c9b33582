"""Training a draft on a tiny random base: it learns, resumes exactly, and rows do not see each other."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import ModelError

pytest.importorskip("transformers")

from pathlib import Path

from transformers import LlamaForCausalLM

from tests.training.drafts import VOCABULARY, WIDTH, some_text, tiny_base
from training.draft.architecture import (
    build_draft,
    check_llama_like,
    check_start,
    run_head,
    start_layers,
    teacher_states,
    trained_parameters,
)
from training.draft.cache import StateCache, batches, collect
from training.draft.evaluate import cached_rows, replay
from training.draft.losses import LMHead, distil, sampled_head
from training.draft.rows import TextRows, concat, load_rows, save_rows
from training.draft.schedule import TrainConfig, pass_batches, row_order
from training.draft.train import Stopped, Trainer

N = 2
CONFIG = TrainConfig(
    n=N,
    start=(3,),
    max_steps=24,
    step_tokens=200,
    warmup_steps=2,
    common_ids=40,
    extra_ids=20,
    first_rows=50,
    learning_rate=1e-2,
)


def trainer(folder: Path, base: LlamaForCausalLM, **options: Any) -> Trainer:
    return Trainer(base, cache_of(folder, some_text()), replace(CONFIG, **options))


def cache_of(folder: Path, text: TextRows, *, base: str = "tiny", n: int = N) -> StateCache:
    return StateCache(folder, text, base=base, n=n, width=WIDTH)


def test_training_brings_the_draft_closer_to_the_teacher(tmp_path: Path) -> None:
    run = trainer(tmp_path, tiny_base(), max_steps=60)
    run.collect(run.held_out + run.train_rows)
    rows = run.train_rows[:60]
    before = replay(run.draft, N, cached_rows(run.cache, rows))
    run.run()
    after = replay(run.draft, N, cached_rows(run.cache, rows))
    assert run.progress.step == 60
    assert after.overlap > before.overlap + 0.1
    assert after.positions == before.positions == int(run.cache.text.answer_len[rows].sum())


def test_only_block_and_norm_change(tmp_path: Path) -> None:
    base = tiny_base()
    run = trainer(tmp_path, base, max_steps=3)
    run.run()
    fresh = dict(build_draft(base, N).named_parameters())
    changed = {name for name, p in run.draft.named_parameters() if not torch.equal(p, fresh[name])}
    assert changed
    assert changed <= set(dict(trained_parameters(run.draft, N)))


@pytest.mark.parametrize("n", [0, N])
def test_padding_and_neighbours_do_not_reach_a_row(n: int) -> None:
    base = tiny_base(dtype=torch.float32)
    draft = build_draft(base, n)
    rows = [torch.randint(0, VOCABULARY, (length,)) for length in (5, 11, 8)]
    padded = torch.zeros(3, 11, dtype=torch.long)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    backbone, final = teacher_states(base, n, padded)
    with torch.no_grad():
        head = run_head(draft, n, backbone)
        for i, row in enumerate(rows):
            alone = draft(input_ids=row[None]).logits[0]
            torch.testing.assert_close(head[i, : len(row)] @ draft.lm_head.weight.T, alone)
            whole = base(input_ids=row[None]).logits[0]
            torch.testing.assert_close(final[i, : len(row)] @ base.lm_head.weight.T, whole)


def test_closed_form_gradient_equals_autograd() -> None:
    """Also where the teacher has an LM head of its own, and where a part of the vocabulary stands for all of it."""
    torch.manual_seed(0)
    student = torch.randn(7, WIDTH, requires_grad=True)
    teacher, weight, theirs = torch.randn(7, WIDTH), *torch.randn(2, VOCABULARY, WIDTH) / 4
    common = torch.randperm(VOCABULARY)[:20]
    part = sampled_head(weight, common, 15, torch.Generator().manual_seed(2), 0.7, theirs)
    warm, cold = LMHead(weight), LMHead(weight, temperature=0.6)
    own = LMHead(weight, temperature=0.7, teacher=theirs)
    cases = ((warm, 1.0), (warm, 0.3), (warm, 0.0), (cold, 1.0), (cold, 0.3), (own, 1.0), (part, 1.0))
    for head, share in cases:
        bias = torch.zeros(1) if head.bias is None else head.bias
        right = weight if head.teacher is None else head.teacher
        q = (student @ head.weight.T / head.temperature + bias).softmax(-1)
        p = (teacher @ right.T / head.temperature + bias).softmax(-1)
        kl = (p * (p.log() - q.log())).sum()
        overlap = torch.minimum(p, q).sum()
        loss = share * kl + (1 - share) * (7 - overlap)
        (expected,) = torch.autograd.grad(loss, student)
        gradient, sums = distil(student.detach(), teacher, head, share)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
        assert sums.kl == pytest.approx(kl.item(), rel=1e-4)
        assert sums.overlap == pytest.approx(overlap.item(), rel=1e-4)


def test_a_sampled_head_keeps_the_expected_denominator() -> None:
    torch.manual_seed(0)
    weight, hidden = torch.randn(VOCABULARY, WIDTH) / 8, torch.randn(WIDTH)
    common = torch.arange(30)
    generator = torch.Generator().manual_seed(0)
    sums = []
    for _ in range(400):
        head = sampled_head(weight, common, 20, generator)
        assert head.bias is not None
        assert len(head.weight) == len(head.bias) == 50
        sums.append(float((head.weight @ hidden + head.bias).exp().sum()))
    whole = float((weight @ hidden).exp().sum())
    # 400 draws: four standard errors of the mean, one false alarm in 16,000 seeds.
    assert np.mean(sums) == pytest.approx(whole, abs=4 * float(np.std(sums)) / 20)


def test_a_draft_that_is_its_teacher_agrees_with_it(tmp_path: Path) -> None:
    base = tiny_base()
    text = some_text(4)
    cache = cache_of(tmp_path, text, n=3)
    for row in range(4):  # alone, as they are replayed: in bfloat16, padding shifts sums
        collect(cache, base, [row])
    found = replay(build_draft(base, 3), 3, cached_rows(cache, range(4)))
    # Not 1: the base's own attention sums in another order in bfloat16, and a random base has near-ties.
    assert found.greedy_match > 0.93
    assert found.overlap == pytest.approx(1.0, abs=0.01)
    assert replay(build_draft(tiny_base(seed=1), 3), 3, cached_rows(cache, range(4))).greedy_match < 0.5


def test_a_text_that_grows_or_is_reordered_keeps_the_states_of_its_base(tmp_path: Path) -> None:
    base, text = tiny_base(), some_text(6)
    cache = cache_of(tmp_path, text)
    collect(cache, base, [0, 4, 5])
    grown = concat([some_text(3, seed=9), text.take([5, 3, 0, 5, 3])])
    again = cache_of(tmp_path, grown)
    assert again.missing(range(8)) == [0, 1, 2, 4, 7]
    assert again.distinct([6, 0, 3, 6, 4]) == [6, 0, 4]
    torch.testing.assert_close(again.backbone(3), cache.backbone(5), rtol=0, atol=0)
    torch.testing.assert_close(again.final(5, 1), cache.final(0, 1), rtol=0, atol=0)
    run: list[int] = []
    collect(again, base, range(8), lambda rows, _tokens: run.append(rows))
    assert sum(run) == 4, "a row that stands twice is run once"
    assert again.missing(range(8)) == []
    first = cache_of(tmp_path, text)
    torch.testing.assert_close(first.backbone(4), cache.backbone(4), rtol=0, atol=0)
    with pytest.raises(ModelError, match="another"):
        cache_of(tmp_path, text, base="other")


def test_states_that_were_collected_before_a_stop_stay(tmp_path: Path) -> None:
    base, text, seen = tiny_base(), some_text(200), 0

    def stop(rows: int, _tokens: int) -> None:
        nonlocal seen
        seen += rows
        if seen > 100:
            raise Stopped

    with pytest.raises(Stopped):
        collect(cache_of(tmp_path, text), base, range(200), stop)
    assert len(cache_of(tmp_path, text).missing(range(200))) == 200 - seen


def test_one_prompt_is_never_on_both_sides() -> None:
    text = some_text(300)
    twice = text.take([*range(300), *range(300)])
    held = twice.is_held_out(0.3)
    assert 0 < held.sum() < 600
    assert (held[:300] == held[300:]).all()
    train, kept = row_order(text, seed=1)
    assert sorted(train + kept) == list(range(300))


@given(depth=st.integers(2, 40), n=st.integers(1, 39), blocks=st.integers(1, 8))
def test_blocks_start_from_different_layers_above_the_backbone_and_end_with_the_last(
    depth: int, n: int, blocks: int
) -> None:
    if not (n < depth and blocks <= depth - n):
        with pytest.raises(ModelError, match="do not fit"):
            start_layers(n, blocks, depth)
        return
    start = start_layers(n, blocks, depth)
    assert list(start) == sorted(set(start))
    assert len(start) == blocks
    assert n <= start[0]
    assert start[-1] == depth - 1
    check_start(n, start, depth)


def test_starts_that_a_base_has_not_are_refused() -> None:
    assert start_layers(8, 4, 30) == (13, 18, 23, 29)
    for start, what in (((), "needs a trained block"), ((4,), "no layer 4"), ((-1,), "no layer -1")):
        with pytest.raises(ModelError, match=what):
            check_start(N, start, 4)


def test_several_blocks_are_copies_of_the_layers_that_they_start_from() -> None:
    base = tiny_base()
    draft = build_draft(base, 1, (3, 1, 3))
    assert draft.config.num_hidden_layers == 4
    theirs, ours = base.state_dict(), draft.state_dict()
    for place, source in enumerate((0, 3, 1, 3)):
        name = "mlp.up_proj.weight"
        assert torch.equal(ours[f"model.layers.{place}.{name}"], theirs[f"model.layers.{source}.{name}"])
    places = {int(name.split(".")[2]) for name, _ in trained_parameters(draft, 1) if "layers" in name}
    assert places == {1, 2, 3}


def test_a_training_of_another_shape_is_not_resumed(tmp_path: Path) -> None:
    run = trainer(tmp_path, tiny_base(), max_steps=1)
    run.run()
    run.save(tmp_path / "state")
    other = trainer(tmp_path, tiny_base(), start=(2, 3))
    with pytest.raises(ModelError, match="other layers"):
        other.resume(tmp_path / "state")


def test_a_pass_takes_every_row_once_and_respects_the_step() -> None:
    text = some_text()
    plan = pass_batches(range(100), text.length, text.answer_len, 60, (0, 3))
    assert sorted(row for batch in plan for row in batch) == list(range(100))
    assert max(int(text.answer_len[batch].sum()) for batch in plan) <= 60
    assert plan == pass_batches(range(100), text.length, text.answer_len, 60, (0, 3))
    assert plan != pass_batches(range(100), text.length, text.answer_len, 60, (0, 4))
    assert batches([0, 1, 2], [9, 1, 1], 5) == [[0], [1, 2]]


def test_text_survives_the_disk_and_bad_files_are_refused(tmp_path: Path) -> None:
    text = some_text(5)
    save_rows(tmp_path / "t.npz", text)
    again = load_rows(tmp_path / "t.npz")
    for name in ("ids", "start", "prompt_len"):
        assert np.array_equal(getattr(again, name), getattr(text, name))
    for content in (None, b"", b"PK\x03\x04 cut off"):
        path = tmp_path / "none.npz"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ModelError, match="cannot read target-written text"):
            load_rows(path)
    save_rows(
        tmp_path / "bad.npz", TextRows(text.ids, text.start, text.length.astype(np.int32), text.temperature)
    )
    with pytest.raises(ModelError, match="needs a prompt and an answer"):
        load_rows(tmp_path / "bad.npz")


def test_models_that_are_not_like_llama_are_refused() -> None:
    with pytest.raises(ModelError, match="not built like Llama"):
        check_llama_like(torch.nn.Linear(2, 2))
    with pytest.raises(ModelError, match="does not fit"):
        build_draft(tiny_base(), 4)
