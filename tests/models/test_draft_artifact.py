"""The draft as a file: it computes what was trained, only on the right base, with a confidence that is calibrated."""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from flexspec_mq.errors import FingerprintError, ModelError, UsageError
from flexspec_mq.models.default import EXPORTED_BYTES, default_draft_path
from flexspec_mq.models.draft.artifact import MARKER, default_delta_path, export
from flexspec_mq.models.draft.calibrate import fit, reliability
from flexspec_mq.models.draft.confidence import COLUMNS, ConfidenceCalibration, Floats, features_of
from flexspec_mq.models.draft.delta import (
    RANKS,
    DeltaMeta,
    base_fingerprint,
    load_delta,
    meta_of,
    read_delta,
    read_meta,
)
from flexspec_mq.sampling.choose import choose
from schemas.messages import Sampling
from tests.models.tiny_checkpoints import tiny_llama
from training.commands.draft import add_parser
from training.draft.architecture import build_draft, trained_parameters
from training.draft.evaluate import samples
from training.draft.packing import save_delta

N = 2
START = (3,)


def save_base(folder: Path, seed: int = 0, *, tied: bool = True) -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    base = tiny_llama(61, seed=seed, **sizes, **heads, tie_word_embeddings=tied)
    torch.nn.Module.to(base, torch.bfloat16)
    base.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return base


def trained_draft(base: LlamaForCausalLM, n: int = N, start: tuple[int, ...] = START) -> PreTrainedModel:
    draft = build_draft(base, n, start)
    torch.manual_seed(5)
    with torch.no_grad():
        for _, parameter in trained_parameters(draft, n):
            parameter.add_(torch.randn_like(parameter) / 10)
    return draft


def some_delta(folder: Path) -> Path:
    """A base in ``folder/base`` and a delta beside it."""
    return save_trained(folder / "d.safetensors", folder / "base", trained_draft(save_base(folder / "base")))


def save_trained(path: Path, folder: Path, draft: PreTrainedModel) -> Path:
    meta = DeltaMeta(base_fingerprint(folder, N), N, START, {"steps": 7})
    return save_delta(path, dict(trained_parameters(draft, N)), meta)


@pytest.mark.parametrize(("n", "start", "tied"), [(N, START, True), (N, START, False), (1, (1, 3, 2), True)])
def test_the_checkpoint_computes_what_was_trained(
    n: int, start: tuple[int, ...], tied: bool, tmp_path: Path
) -> None:
    """Token ranks and confidence reach the device beside it."""
    base = save_base(tmp_path / "base", tied=tied)
    draft = trained_draft(base, n, start)
    ranks, confidence = torch.tensor([2, 0, 60], dtype=torch.int32), {"basis": 1, "weights": [0.5] * 10}
    meta = DeltaMeta(base_fingerprint(tmp_path / "base", n), n, start, confidence=confidence)
    delta = save_delta(tmp_path / "d", {**dict(trained_parameters(draft, n)), RANKS: ranks}, meta)
    assert torch.equal(load_delta(delta, tmp_path / "base")[1][RANKS], ranks)
    folder = export(tmp_path / "base", tmp_path / "out", delta)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert loaded.config.num_hidden_layers == n + len(start)
    ids = torch.randint(0, 61, (2, 9))
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, draft(input_ids=ids).logits)
        untrained = build_draft(base, n, start)
        assert not torch.equal(loaded(input_ids=ids).logits, untrained(input_ids=ids).logits)
    tensors, of_base = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "base"))
    parts = (*(f"model.layers.{index}." for index in range(n)), "model.embed")
    shared = [name for name in tensors if name.startswith(parts)]
    assert len(shared) == n * 9 + 1
    assert all(torch.equal(tensors[name], of_base[name]) for name in shared)
    assert RANKS not in tensors
    assert (folder / "tokenizer.json").exists()
    assert np.load(folder / "token_ranks.npy").tolist() == [2, 0, 60]
    assert json.loads((folder / MARKER).read_text())["confidence"] == confidence


def test_another_base_is_refused(tmp_path: Path) -> None:
    delta = some_delta(tmp_path)
    save_base(tmp_path / "other", seed=1)
    with pytest.raises(FingerprintError, match="another base"):
        export(tmp_path / "other", tmp_path / "out", delta)
    assert not (tmp_path / "out").exists()


def test_one_bit_in_the_backbone_changes_the_fingerprint_and_the_head_does_not(tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    before = base_fingerprint(tmp_path / "base", N)
    weights = tmp_path / "base" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.3.mlp.up_proj.weight"] += 1
    save_file(tensors, weights)
    assert base_fingerprint(tmp_path / "base", N) == before
    tensors["model.layers.1.mlp.up_proj.weight"].view(torch.int16)[0, 0] ^= 1
    save_file(tensors, weights)
    assert base_fingerprint(tmp_path / "base", N) != before


def test_a_complete_folder_is_kept_and_a_torn_or_older_one_replaced(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    draft = trained_draft(base)
    delta = save_trained(tmp_path / "d.safetensors", tmp_path / "base", draft)
    weights = export(tmp_path / "base", tmp_path / "out", delta) / "model.safetensors"
    first = weights.stat().st_ino
    export(tmp_path / "base", tmp_path / "out", delta)
    assert weights.stat().st_ino == first
    weights.unlink()
    export(tmp_path / "base", tmp_path / "out", delta)
    assert weights.exists()
    before = load_file(weights)
    save_trained(delta, tmp_path / "base", build_draft(base, N))
    export(tmp_path / "base", tmp_path / "out", delta)
    assert not torch.equal(load_file(weights)["model.norm.weight"], before["model.norm.weight"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "d.safetensors", "out"]


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    delta = some_delta(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(ModelError, match="not empty"):
        export(tmp_path / "base", tmp_path / "out", delta)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["precious"]
    with pytest.raises(ModelError, match="cannot write"):
        export(tmp_path / "base", tmp_path / "out" / "precious" / "out", delta)


def test_a_delta_says_what_it_is_and_others_are_refused(tmp_path: Path) -> None:
    delta = some_delta(tmp_path)
    meta, tensors = read_delta(delta)
    assert meta == DeltaMeta(base_fingerprint(tmp_path / "base", N), N, START, {"steps": 7})
    assert len(tensors) == 9 + 1
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
    for wrong in ("none", "base/config.json", "base/model.safetensors"):
        with pytest.raises(ModelError, match="not a draft delta"):
            read_meta(tmp_path / wrong)
    for version, what in ((3, "upgrade"), (1, "train the draft again")):
        save_delta(tmp_path / "other", tensors, DeltaMeta("x", N, START, format_version=version))
        with pytest.raises(ModelError, match=what):
            read_meta(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot load the weights"):
        base_fingerprint(tmp_path / "empty", N)


def test_the_shipped_delta_is_whole() -> None:
    meta, tensors = read_delta(default_delta_path())
    assert (meta.n, meta.start, meta.bits) == (6, (6, 7, 8, 9, 14, 19, 24, 29), 4)
    assert meta.training["step"] > 0
    assert meta.confidence is not None
    assert len(tensors.pop(RANKS)) > 16_384
    assert {name.split(".")[1] for name in tensors} == {"layers", "norm"}
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values() if tensor.is_floating_point())
    assert default_delta_path().stat().st_size < 16e6


@pytest.mark.model
def test_the_shipped_drafts_checkpoint_takes_the_room_that_is_said() -> None:
    size = sum(file.stat().st_size for file in default_draft_path().iterdir())
    assert 0.9 * EXPORTED_BYTES < size < EXPORTED_BYTES


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    return parser.parse_args(["draft", *arguments])


def test_the_export_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    delta = some_delta(tmp_path)
    out = tmp_path / "out"
    args = parse("export", "--base", str(tmp_path / "base"), "--delta", str(delta), "--out", str(out))
    assert args.func(args) == 0
    assert capsys.readouterr().out.strip() == str(out)
    facts = json.loads((out / MARKER).read_text())
    assert facts["training"] == {"steps": 7}
    assert meta_of({key: facts[key] for key in facts if key != "delta"}) == read_meta(delta)


def test_the_package_and_its_commands_load_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "import flexspec_mq.models.draft, training.commands.draft"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SEEDS = st.integers(0, 2**32)
TRUE = ConfidenceCalibration((-2.0, 1.5, 0.1, 0.3, -0.1, 0.2, -0.4, 0.1, 0.0, 0.05, 0.4, -0.1, 0.05))


def drawn(count: int, seed: int) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Features as drafts have them, and outcomes of a known calibration."""
    rng = np.random.default_rng(seed)
    top = -rng.exponential(1.0, count)
    temperature = rng.choice([0.0, 0.7, 1.0], count)
    logp = top - (temperature > 0) * rng.exponential(0.5, count)
    streak = rng.geometric(0.3, count) - 1.0
    features = np.stack([rng.exponential(3.0, count), logp, top, temperature, streak], axis=1)
    return features, rng.random(count) < TRUE.probabilities(features)


@settings(max_examples=40)
@given(SEEDS, st.sampled_from([0.0, 0.4, 1.0, 3.0]), st.sampled_from([1.0, 0.9]), st.integers(2, 300))
def test_features_are_those_of_the_token_that_is_chosen(
    seed: int, temperature: float, top_p: float, size: int
) -> None:
    logits = (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)
    params = Sampling(temperature, 0, top_p, seed)
    token, features = features_of(logits, params, 5, 3)
    margin, logp, top_logp, told, streak = (float(features[COLUMNS.index(name)]) for name in COLUMNS)
    likely = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum()
    assert token == choose(logits, params, 5)
    assert math.isclose(logp, math.log(likely[token]), abs_tol=1e-4)
    assert math.isclose(top_logp, math.log(likely.max()), abs_tol=1e-4)
    assert margin >= 0
    assert told == temperature
    assert streak == 3


@settings(max_examples=30)
@given(SEEDS, st.sampled_from([0.0, 0.7, 1.5]))
def test_a_target_within_the_margin_takes_the_token(seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    draft = (rng.standard_normal((6, 200)) * 3).astype(np.float32)
    params = Sampling(temperature, 0, 1.0, seed)
    margins = np.array([features_of(row, params, 3 + place, 0)[1][0] for place, row in enumerate(draft)])
    # No two logits differ by more than the margin from what they were, in relation to each other.
    moved = draft + (rng.uniform(-0.49, 0.49, draft.shape) * margins[:, None]).astype(np.float32)
    features, accepted = samples(draft, moved, params, 3)
    assert accepted.all()
    assert features[:, -1].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(features[:, 0], margins)
    # And what is pushed past it is not taken.
    for place, row in enumerate(draft):
        moved[place] = row
        moved[place, choose(row, params, 3 + place)] -= np.float32(1.01 * margins[place] + 1e-3)
    assert not samples(draft, moved, params, 3)[1].any()


def test_a_fit_finds_what_the_outcomes_were_drawn_from() -> None:
    features, accepted = drawn(60_000, 1)
    found = fit(features, accepted)
    unseen, _ = drawn(5_000, 2)
    assert np.abs(found.probabilities(unseen) - TRUE.probabilities(unseen)).max() < 0.1
    assert np.abs(found.probabilities(unseen) - TRUE.probabilities(unseen)).mean() < 0.01
    for count, said, was in reliability(found.probabilities(features), accepted):
        assert abs(said - was) < 5 * math.sqrt(0.25 / count)


@settings(max_examples=25)
@given(st.lists(st.booleans(), min_size=1, max_size=40), SEEDS)
def test_any_outcomes_give_probabilities(outcomes: list[bool], seed: int) -> None:
    features, _ = drawn(len(outcomes), seed)
    features[0, 0] = math.inf  # nothing else could be chosen
    found = fit(features, np.array(outcomes))
    said = found.probabilities(features)
    assert ((said >= 0) & (said <= 1)).all()
    # The constant is not penalised, so the mean is that of the outcomes.
    assert abs(float(said.mean()) - float(np.mean(outcomes))) < 0.02


def test_a_calibration_survives_json() -> None:
    again = ConfidenceCalibration.from_json(json.loads(json.dumps(TRUE.to_json())))
    assert again == TRUE
    features, _ = drawn(3, 4)
    assert again.probability(features[1]) == pytest.approx(TRUE.probabilities(features)[1])


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"basis": 3, "weights": [0.0] * 13},
        {"basis": 2, "weights": [0.0] * 10},
        {"basis": 1, "weights": [1.0] * 10},
        {"basis": 2, "weights": ["x"] * 13},
    ],
)
def test_what_is_no_calibration_is_refused(found: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="confidence"):
        ConfidenceCalibration.from_json(found)


def test_shapes_that_do_not_fit_are_refused() -> None:
    features, accepted = drawn(4, 1)
    for wrong in ((features[:, :3], accepted), (features, accepted[:2]), (features[:0], accepted[:0])):
        with pytest.raises(UsageError):
            fit(*wrong)
