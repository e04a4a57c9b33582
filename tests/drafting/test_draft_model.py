"""Which engine runs the draft, also ONNX Runtime, what a trimmed head means, and how confident guesses are."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM

from edge_node.settings import EdgeSettings
from flexspec_mq.drafting.interface import DraftRequest, DraftToken
from flexspec_mq.drafting.load import load
from flexspec_mq.drafting.model_drafter import ModelDrafter, proposer_of, read_calibration
from flexspec_mq.errors import ModelError
from flexspec_mq.models.draft.artifact import MARKER
from flexspec_mq.models.draft.confidence import KEY, USUAL, ConfidenceCalibration, features_of
from flexspec_mq.models.load import load_target
from flexspec_mq.models.onnx.folder import MANIFEST
from flexspec_mq.models.onnx.trimming import RANKS
from flexspec_mq.models.onnx.write import write_onnx
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.sampling.choose import choose
from schemas.messages import Sampling
from tests.drafting.asking import ConstantModel, asked, settings, silent, tokens
from tests.models.tiny_checkpoints import save, tiny_llama
from tests.models.tiny_models import SIZES, drawn

CONTEXT = tuple(range(10, 40))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved = save(tmp_path / "draft", tiny_llama(head_dim=16))
    np.save(saved / RANKS, np.arange(299, 99, -1, dtype=np.int32))
    return saved


def test_a_checkpoint_is_written_for_onnx_once_with_its_frequent_ids(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.save(folder / RANKS, np.arange(299, 259, -1, dtype=np.int32))
    said: list[str] = []
    for _ in range(2):
        found = load(settings(folder), said.append)
        assert found.engine == "ONNX Runtime, mixed weights, 41 token ids"  # the end of a text is always in
    assert sum("once" in line for line in said) == 1
    assert found.model is not None
    wanted = [asked(seed, CONTEXT, Sampling(1.0, 0, 1.0, seed)) for seed in range(8)]
    assert set(tokens(found.model.draft(wanted))) <= {2, *range(260, 300)}


def test_a_model_that_no_graphs_can_be_written_of_is_refused(tmp_path: Path) -> None:
    folder = save(
        tmp_path, BloomForCausalLM(BloomConfig(vocab_size=300, hidden_size=16, n_layer=1, n_head=2))
    )
    with pytest.raises(ModelError, match="bloom") as refused:
        load(settings(folder), silent)
    assert "--draft none" in refused.value.hint


@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=60),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 3.0]),
    seed=st.integers(0, 2**64 - 1),
    data=st.data(),
)
def test_a_columns_dice_are_its_tokens(
    logits: list[float], temperature: float, seed: int, data: st.DataObject
) -> None:
    """Trimmed LM head: it chooses the same token as the full head, as long as it has that id."""
    params = Sampling(temperature, 0, 1.0, seed)
    wanted = choose(np.array(logits, dtype=np.float32), params, len(CONTEXT))
    others = data.draw(st.sets(st.integers(0, len(logits) - 1)))
    ids = np.array(sorted({wanted, *others}), dtype=np.int64)
    network = ConstantModel([logits[token] for token in ids])
    drafter = ModelDrafter(network, max_context=99, proposer=proposer_of(None, ids))
    assert tokens(drafter.draft([asked(1, CONTEXT, params)])) == [wanted]


CALIBRATION = ConfidenceCalibration((-1.0, 1.2, 0.1, 0.2, 0.1, -0.3, 0.0, 0.0, 0.0, 0.0, 0.3, 0.1, 0.0))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_guess_is_the_choice_with_its_probability(temperature: float) -> None:
    logits = np.random.default_rng(3).standard_normal(500).astype(np.float32) * 2
    params = Sampling(temperature, 0, 1.0, 5)
    guess = proposer_of(CALIBRATION)(logits, params, 9, 4)
    assert guess.token == choose(logits, params, 9)
    assert guess.confidence == CALIBRATION.probability(features_of(logits, params, 9, 4)[1])
    plain = proposer_of(None)(logits, params, 9, 4)
    assert plain.token == guess.token
    assert plain.confidence == USUAL.probability(features_of(logits, params, 9, 4)[1])


def test_a_draft_that_was_right_is_surer_of_the_next_token() -> None:
    model = ConstantModel([token % 7 * 0.3 for token in range(128)])
    drafter = ModelDrafter(model, max_context=64, proposer=proposer_of(CALIBRATION))

    def confidence(*context: int) -> float:
        (run,) = drafter.draft([asked(1, context)])
        assert run
        return run[0].confidence

    first = confidence(3, 4, 5)
    (right,) = tokens(drafter.draft([asked(1, (3, 4, 5))]))
    after_one = confidence(3, 4, 5, right)
    after_two = confidence(3, 4, 5, right, right)
    assert first < after_one < after_two
    assert confidence(3, 4, 5, right, right, right + 1) == first


def test_a_calibration_is_read_from_the_drafts_folder(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None
    marker = tmp_path / MARKER
    marker.write_text(json.dumps({"n": 6}))
    assert read_calibration(tmp_path) is None
    marker.write_text(json.dumps({"n": 6, KEY: CALIBRATION.to_json()}))
    assert read_calibration(tmp_path) == CALIBRATION


@pytest.mark.parametrize("text", ["{", '{"confidence": {"basis": 99}}', '{"confidence": 3}'])
def test_a_calibration_that_cannot_be_read_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKER).write_text(text)
    with pytest.raises(ModelError) as raised:
        read_calibration(tmp_path)
    assert raised.value.hint


TEXT = tuple(random.Random(5).choices(range(10, 300), k=400))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save(tmp_path_factory.mktemp("draft"), drawn(LlamaForCausalLM(LlamaConfig(**SIZES))))
    np.save(folder / RANKS, np.arange(299, 99, -1, dtype=np.int32))
    return folder


@pytest.fixture(scope="module")
def graphs(checkpoint: Path) -> Path:
    return write_onnx(checkpoint, checkpoint.with_name("graphs"), "int8", 0)


def drafted(engine: ModelDrafter, request: DraftRequest) -> DraftToken:
    """The token of a short context, which is read at once."""
    (run,) = engine.draft([request])
    assert run
    return run[0]


def test_a_folder_with_graphs_is_run_by_onnx(graphs: Path) -> None:
    assert load(settings(graphs), silent).engine == "ONNX Runtime, int8 weights, 320 token ids"


def test_it_drafts_what_transformers_would_and_is_as_sure(graphs: Path, checkpoint: Path) -> None:
    device = load(settings(graphs), silent).model
    assert device is not None
    model = PackedModel(load_target(checkpoint, dtype="float32", attn_implementation=register()).model)
    engines = [device, ModelDrafter(model, max_context=512, proposer=proposer_of(None))]
    contexts = [TEXT[start : start + 20] for start in range(0, 400, 10)]
    for params in (Sampling(), Sampling(1.0, 0, 1.0, 77)):
        requests = [asked(session, context, params) for session, context in enumerate(contexts)]
        ours, theirs = ([drafted(engine, request) for request in requests] for engine in engines)
        pairs = list(zip(ours, theirs, strict=True))
        assert sum(our.token == their.token for our, their in pairs) >= 36  # of 40; by chance, none
        apart = [abs(our.confidence - their.confidence) for our, their in pairs if our.token == their.token]
        assert float(np.mean(apart)) < 0.02


@pytest.mark.parametrize(
    ("missing", "what", "why", "hint"),
    [
        ("onnx", "checkpoint", "has no graphs", "flexspec draft export --model"),
        ("onnxruntime", "graphs", "needs onnxruntime", "pip install '.[draft]'"),
        ("torch", "default", "has no graphs", "flexspec draft export --base default --onnx"),
    ],
)
def test_a_draft_that_nothing_here_runs_is_refused_with_a_way_out(
    missing: str,
    what: str,
    why: str,
    hint: str,
    graphs: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, missing, None)
    folders = {"checkpoint": str(checkpoint), "graphs": str(graphs), "default": "default"}
    with pytest.raises(ModelError, match=why) as caught:
        load(EdgeSettings(edge="e", draft=folders[what]), silent)
    assert hint in caught.value.hint


def test_graphs_beside_a_configuration_of_another_model_are_refused(graphs: Path, tmp_path: Path) -> None:
    for file in graphs.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / MANIFEST).write_text((graphs / MANIFEST).read_text())
    config = (graphs / "config.json").read_text()
    assert '"vocab_size": 320' in config
    (tmp_path / "config.json").write_text(config.replace('"vocab_size": 320', '"vocab_size": 321'))
    with pytest.raises(ModelError, match="320 token ids, config"):
        load(settings(tmp_path), silent)
