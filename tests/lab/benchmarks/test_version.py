"""The acceptance benchmark with a head: the target is that version, and a head that does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flexspec_mq.evolution.canaries import greedy
from flexspec_mq.heads.manifest import MANIFEST, Canary, Manifest, digest, file_entry
from flexspec_mq.models.heads.base import weights_fingerprint
from flexspec_mq.models.heads.files import FULL as WEIGHTS
from flexspec_mq.models.load import load_text
from lab.benchmarks import acceptance
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama

LAYERS, FLOOR = 4, 2

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, a head with layers of its own, and the two in one checkpoint."""
    root = tmp_path_factory.mktemp("version")
    model = tiny_llama(num_hidden_layers=LAYERS, max_position_embeddings=512, initializer_range=0.3)
    base = save(root / "base", model, byte_level_tokenizer())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in model.model.layers[FLOOR:]:
            for parameter in layer.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    upper = tuple(f"model.layers.{index}." for index in range(FLOOR, LAYERS))
    tensors = {
        name: weight.contiguous() for name, weight in model.state_dict().items() if name.startswith(upper)
    }
    merged = save(root / "merged", model, byte_level_tokenizer())
    head = root / "head"
    head.mkdir()
    save_file(tensors, head / WEIGHTS)
    (written,) = greedy(model, [[5, 6, 7]], 8, [2])
    manifest = Manifest(
        kind="full",
        base=weights_fingerprint(base),
        tokenizer=load_text(base).fingerprint.hex(),
        layers=LAYERS,
        floor=FLOOR,
        dtype="float32",
        files=(file_entry(head / WEIGHTS),),
        canaries=(Canary((5, 6, 7), written),),
    )
    (head / MANIFEST).write_bytes(manifest.encode())
    return {"base": base, "head": head, "merged": merged}


def flags(folders: dict[str, Path], prompts: Path, *more: str) -> list[str]:
    prompts.write_text('{"prompt": "Why is it so?"}\n{"prompt": "What is it?"}\n', "utf-8")
    models = ["--target", str(folders["base"]), "--draft", str(folders["merged"]), "--dtype", "float32"]
    return [*models, "--prompts", str(prompts), "--tokens", "12", "--k", "3", *more]


def test_a_draft_with_the_head_in_it_is_always_right_about_the_version_and_not_about_the_base(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[bool, dict[str, Any]] = {}
    for held in (False, True):
        more = ["--head", str(folders["head"])] if held else []
        assert acceptance.main(flags(folders, tmp_path / "prompts.jsonl", *more)) == 0
        found[held] = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
        assert found[held]["exact"] is True
    for by_category in found[True]["temperatures"].values():
        assert by_category["all"]["accepted"] == by_category["all"]["drafted"] > 0
    assert found[False]["temperatures"]["0"]["all"]["acceptance"] < 0.5
    assert found[False]["head"] is None
    assert found[True]["head"] == digest((folders["head"] / MANIFEST).read_bytes()).hex()


@pytest.mark.parametrize(
    ("target", "changed", "named"), [("merged", False, "base"), ("base", True, "of the canaries")]
)
def test_a_head_that_is_not_of_the_target_or_not_itself_is_refused(
    target: str,
    changed: bool,
    named: str,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = tmp_path / "head"
    head.mkdir()
    for file in folders["head"].iterdir():
        data = file.read_bytes()
        if changed and file.name == MANIFEST:
            data = data.replace(b'"text": [', b'"text": [\n9,9,9,9,9,9,9,9,')
        (head / file.name).write_bytes(data)
    given = {**folders, "base": folders[target]}
    assert acceptance.main(flags(given, tmp_path / "prompts.jsonl", "--head", str(head))) != 0
    assert named in capsys.readouterr().err
