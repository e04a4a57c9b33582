"""``flexspec draft export``: any decoder becomes what a device loads, as sure of itself as its target makes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flexspec_mq.cli import main
from flexspec_mq.drafting.model_drafter import read_calibration
from flexspec_mq.errors import Cancelled
from flexspec_mq.models.draft.artifact import MARKER
from tests.models.test_checkpoint import ALL
from tests.models.test_onnx import decoder
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama
from tests.terminated import terminated_at

DEVICE = """
import json, sys
for name in ("torch", "transformers", "huggingface_hub", "safetensors", "onnx"):
    sys.modules[name] = None
from flexspec_mq.drafting.load import load
from flexspec_mq.drafting.settings import DraftSettings
from flexspec_mq.models.text import Turn, encode_turns
from flexspec_mq.protocol.edge.types import DraftRequest
from schemas.messages import Identity, Sampling
draft = load(DraftSettings(draft=sys.argv[1], lookup=False), print)
prompt = encode_turns(draft.loaded.tokenizer, [Turn("user", "a cat")], max_context=draft.loaded.max_context)
ids = [*prompt]
sampling = Identity(2, bytes(16), Sampling(seed=1), (), False, 99)
for _ in range(6):
    (found,) = draft.drafter.draft([DraftRequest(1, ids, sampling, len(ids))])
    ids.append(found[0].token)
print(json.dumps([draft.engine, ids[:len(prompt)], ids[len(prompt):]]))
"""


def test_a_device_drafts_without_torch_and_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = decoder("gemma3_text")
    folder = save(tmp_path / "model", model, byte_level_tokenizer(("cat",), ALL))
    out = tmp_path / "draft"
    export = ["draft", "export", "--onnx", "--model", str(folder), "--out", str(out), "--weights", "int8"]
    assert main(export) == 0
    assert capsys.readouterr().out == f"{out}\n"
    done = subprocess.run(
        [sys.executable, "-c", DEVICE, str(out)], capture_output=True, text=True, timeout=100, check=True
    )
    engine, prompt, drafted = json.loads(done.stdout.splitlines()[-1])
    assert engine == "ONNX Runtime, int8 weights, 320 token ids"
    greedy: Any = model.generate(
        input_ids=torch.tensor([prompt]), max_new_tokens=len(drafted), do_sample=False
    )
    assert greedy[0, len(prompt) :].tolist() == drafted


@pytest.mark.parametrize(("same", "least", "most"), [(True, 0.9, 1.0), (False, 0.0, 0.15)])
def test_confidence_is_fitted_to_the_targets_own_answers(
    same: bool, least: float, most: float, tmp_path: Path
) -> None:
    """The usual 0.44 rises for a draft that is the target, and falls for one that never says the same."""
    target = save(tmp_path / "target", decoder("llama"))
    draft = target if same else save(tmp_path / "model", decoder("qwen3"))
    out = tmp_path / "draft"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("a cat", "b", "c d")))
    asked = ["draft", "export", "--onnx", "--model", str(draft), "--out", str(out), "--weights", "float32"]
    assert main([*asked, "--target", str(target), "--prompts", str(prompts)]) == 0
    fitted = read_calibration(out)
    assert fitted is not None
    for temperature in (0.0, 1.0):
        features = np.array([[0.5, -2.0, -1.0, temperature, 1.0]])
        assert least <= float(fitted.probabilities(features)[0]) <= most
    facts = json.loads((out / MARKER).read_text())["training"]["calibration"]
    assert facts["positions"] > 100
    assert facts["calibration_error"] < 0.1


def test_whoever_ends_it_has_the_draft_with_what_is_known_of_its_confidence(tmp_path: Path) -> None:
    """Once the confidence is fitted to some answers, long before all are written."""
    target = save(tmp_path / "target", tiny_llama(hidden_size=64, max_position_embeddings=512))
    out = tmp_path / "draft"
    flags = ("--onnx", "--model", str(target), "--target", str(target), "--out", str(out))
    code, _, said = terminated_at("the target takes", main, "draft", "export", *flags)
    assert code == Cancelled.exit_code, said
    assert f"{out} can draft, with the usual confidence; the target answers: " in said
    assert "error: ended early: the target takes " in said
    assert f"hint: {out} can be used as it is" in said
    assert read_calibration(out) is not None
    assert json.loads((out / MARKER).read_text())["training"]["calibration"]["positions"] > 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model", "default"], "--model is exported as it is"),
        (["--model", "default", "--onnx", "--delta", "d"], "--model is exported as it is"),
        (["--base", "default", "--target", "default"], "are for --onnx"),
        (["--model", "default", "--onnx", "--ids", "-1"], "less than none"),
        (["--model", "default", "--onnx", "--prompts", "/dev/null"], "--prompts are for a target"),
        (
            ["--model", "default", "--onnx", "--target", "d", "--prompts", "/dev/null"],
            "/dev/null holds no prompt",
        ),
        (["--model", "/nowhere", "--onnx"], "there is no folder /nowhere"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["draft", "export", "--out", str(tmp_path / "out"), *words]) != 0
    assert named in capsys.readouterr().err
