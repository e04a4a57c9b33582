"""When ONNX Runtime runs the draft, and that it drafts there what it drafts elsewhere."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from edge_node.settings import EdgeSettings
from flexspec_mq.drafting.interface import DraftRequest, DraftToken
from flexspec_mq.drafting.load import load
from flexspec_mq.drafting.model_drafter import ModelDrafter
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.compact.model import RANKS
from flexspec_mq.models.onnx.folder import MANIFEST
from flexspec_mq.models.onnx.write import write_onnx
from flexspec_mq.sampling.params import SamplingParams
from tests.drafting.asking import asked, settings, silent
from tests.models.test_compact import SIZES, drawn
from tests.models.tiny_checkpoints import save

TEXT = tuple(random.Random(5).choices(range(10, 300), k=400))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save(tmp_path_factory.mktemp("draft"), drawn(LlamaForCausalLM(LlamaConfig(**SIZES))))
    np.save(folder / RANKS, np.arange(299, 99, -1, dtype=np.int32))
    return folder


@pytest.fixture(scope="module")
def graphs(checkpoint: Path) -> Path:
    return write_onnx(checkpoint, checkpoint.with_name("graphs"), "int8", 0)


def drafter(folder: Path, **more: Any) -> ModelDrafter:
    model = load(settings(folder, **more), silent).model
    assert model is not None
    return model


def drafted(engine: ModelDrafter, request: DraftRequest) -> DraftToken:
    """The token of a short context, which is read at once."""
    (run,) = engine.draft([request])
    assert run
    return run[0]


def test_a_folder_with_graphs_is_run_by_onnx(graphs: Path, checkpoint: Path) -> None:
    assert load(settings(graphs), silent).engine == "ONNX Runtime, int8 weights, 320 token ids"
    assert load(settings(graphs, draft_engine="onnx"), silent).engine.startswith("ONNX Runtime")
    assert load(settings(checkpoint), silent).engine.startswith("compact")


def test_engines_agree_on_what_to_draft_and_how_surely(graphs: Path, checkpoint: Path) -> None:
    engines = [drafter(graphs), drafter(checkpoint, dtype="float32")]
    contexts = [TEXT[start : start + 20] for start in range(0, 400, 10)]
    for params in (SamplingParams(), SamplingParams(1.0, 0, 1.0, 77)):
        requests = [asked(session, context, params) for session, context in enumerate(contexts)]
        ours, theirs = ([drafted(engine, request) for request in requests] for engine in engines)
        pairs = list(zip(ours, theirs, strict=True))
        assert sum(our.token == their.token for our, their in pairs) >= 36  # of 40; by chance, none
        apart = [abs(our.confidence - their.confidence) for our, their in pairs if our.token == their.token]
        assert float(np.mean(apart)) < 0.02


@pytest.mark.parametrize(
    "more", [{"draft_weights": "int8"}, {"draft_ids": 5}, {"dtype": "float32"}, {"device": "cuda"}]
)
def test_what_an_export_has_decided_cannot_be_chosen_again(graphs: Path, more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="graphs of ONNX run on a cpu"):
        load(settings(graphs, draft_engine="onnx", **more), silent)
    with pytest.raises(UsageError, match="holds graphs for ONNX Runtime"):
        load(settings(graphs, **more), silent)


@pytest.mark.parametrize(
    ("missing", "what", "more", "why", "hint"),
    [
        ("", "checkpoint", {"draft_engine": "onnx"}, "has no graphs", "flexspec draft export --onnx"),
        ("onnxruntime", "graphs", {}, "needs onnxruntime", "pip install '.[edge]'"),
        ("torch", "default", {}, "made with torch", "flexspec draft export --base default --onnx"),
    ],
)
def test_a_draft_that_nothing_here_runs_is_refused_with_a_way_out(
    missing: str,
    what: str,
    more: dict[str, Any],
    why: str,
    hint: str,
    graphs: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    folders = {"checkpoint": str(checkpoint), "graphs": str(graphs), "default": "default"}
    with pytest.raises(ModelError, match=why) as caught:
        load(EdgeSettings(edge="e", draft=folders[what], **more), silent)
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
