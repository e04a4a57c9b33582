"""A draft for one version: text that it writes, states of the base with a head on it, and what they train."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("onnxruntime")

import torch
from safetensors.torch import load_file, save_file

from flexspec_mq.errors import ModelError
from flexspec_mq.evolution.canaries import load_base
from flexspec_mq.heads.manifest import MANIFEST, HeadError, Manifest, file_entry
from flexspec_mq.models.draft.artifact import export
from flexspec_mq.models.draft.delta import DeltaMeta, base_fingerprint
from flexspec_mq.models.head_files import FULL
from flexspec_mq.models.load import load_target, load_text
from flexspec_mq.models.onnx.lora import add_draft_lora, read_draft_lora
from flexspec_mq.models.onnx.model import load_onnx
from flexspec_mq.models.onnx.write import write_onnx
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.models.weights import weights_fingerprint
from tests.models.tiny_checkpoints import TEMPLATE, byte_level_tokenizer, save, tiny_llama
from tests.models.tiny_heads import save_full, save_lora, with_lora
from tests.training.drafts import run_draft as run
from training.draft.architecture import (
    build_draft,
    lm_head_weight,
    run_head,
    teacher_states,
    trained_parameters,
)
from training.draft.cache import StateCache, collect
from training.draft.evaluate import cached_rows, coupled, replay
from training.draft.packing import save_delta
from training.draft.rows import load_rows, make_rows, save_rows
from training.draft.schedule import TrainConfig
from training.draft.train import Trainer
from training.draft.version import load_teacher, read_version

LAYERS, FLOOR = 4, 2


@dataclass(frozen=True)
class Family:
    """Checkpoint folders of a base and of the base with a full head in it, and the folders of heads."""

    base: Path
    merged: Path
    full: Path
    lora: Path

    def teachers(self) -> dict[str, tuple[object, ...]]:
        """Flags for the base, for the base with the full head on it, and for the checkpoint with the head in it."""
        base = ("--base", self.base)
        return {"base": base, "head": (*base, "--head", self.full), "merged": ("--base", self.merged)}


def finish(folder: Path, kind: str, base: Path) -> Path:
    """Write a head's manifest; no canaries are run when a draft is made."""
    (folder / "README.md").unlink(missing_ok=True)
    manifest = Manifest(
        kind=kind,  # type: ignore[arg-type]
        base=weights_fingerprint(base),
        tokenizer=load_target(base).fingerprint.hex(),
        layers=LAYERS,
        floor=FLOOR,
        files=tuple(map(file_entry, sorted(folder.iterdir()))),
    )
    (folder / MANIFEST).write_bytes(manifest.encode())
    return folder


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    root = tmp_path_factory.mktemp("version")
    model = tiny_llama(
        num_hidden_layers=LAYERS, num_attention_heads=1, max_position_embeddings=256, initializer_range=0.3
    )
    torch.nn.Module.to(model, torch.bfloat16)
    base = save(root / "base", model, byte_level_tokenizer(template=TEMPLATE))
    full = save_full(base, root / "full", floor=FLOOR, ends=False)
    merged = shutil.copytree(base, root / "merged")
    weights = load_file(base / "model.safetensors") | load_file(full / FULL)
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    lora = save_lora(
        base,
        root / "lora",
        rank=4,
        floor=FLOOR,
        size=0.2,
        target_modules=r"model\.layers\.[23]\.(?:self_attn\.q_proj|mlp\.down_proj)|lm_head",
        layers_to_transform=None,
        save={"save_embedding_layers": False},
    )
    return Family(base, merged, finish(full, "full", base), finish(lora, "lora", base))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_teacher_says_what_the_version_says_in_a_worker(family: Family, kind: str) -> None:
    """Only the order of sums may differ; the base says something else."""
    loaded = load_text(family.base)
    version = read_version(getattr(family, kind), family.base, loaded)
    assert version.head is not None
    worker = load_base(family.base, dtype="bfloat16")
    worker.hold("v", version.head)
    ids = [int(i) for i in np.random.default_rng(3).integers(3, 300, 40)]
    base, served = (worker.forward([ModelInput(worker.new_kv(), ids, len(ids), head)]) for head in ("", "v"))
    teacher = load_teacher(family.base, version)
    backbone, final = teacher_states(teacher, FLOOR, torch.tensor([ids]))
    said = (final[0] @ lm_head_weight(teacher).T).float()
    assert (said - served).abs().mean() < 0.05 * (base - served).abs().mean()
    # Below the floor nothing changes, or the draft's backbone would be another one.
    assert torch.equal(
        backbone, teacher_states(load_target(family.base).model, FLOOR, torch.tensor([ids]))[0]
    )


def test_a_version_writes_the_text_of_a_checkpoint_with_the_head_in_it(
    family: Family, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "Why is {word}?"}}\n' for word in ("a", "it", "that")))
    written = {}
    for name, base in family.teachers().items():
        out = tmp_path / f"{name}.npz"
        options = ["--prompts", prompts, "--out", out, "--max-new", 12, "--temperatures", 0, 1]
        assert run("collect", *base, *options) == 0
        rows = load_rows(out)
        written[name] = {(tuple(rows.row(i)), float(rows.temperature[i])) for i in range(len(rows))}
    assert written["head"] == written["merged"] != written["base"]
    assert len(written["head"]) == 6


def earlier_draft(family: Family, path: Path, n: int = FLOOR) -> Path:
    """A draft of the base, and of all that share its lower layers."""
    draft = build_draft(load_target(family.base).model, n, (LAYERS - 1,))
    tensors = {name: p.detach() for name, p in trained_parameters(draft, n)}
    fingerprint = base_fingerprint(family.base, n)
    return save_delta(path, tensors, DeltaMeta(fingerprint, n, (LAYERS - 1,)))


def text(path: Path) -> Path:
    rng = np.random.default_rng(5)
    parts = [tuple(int(i) for i in rng.integers(3, 250, 24)) for _ in range(120)]
    save_rows(path, make_rows([p[:6] for p in parts], [p[6:] for p in parts], [0.0] * len(parts)))
    return path


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_lora_for_a_version_is_what_peft_computes_and_writes_more_as_the_version_does(
    family: Family, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the folder of a head, as workers get it; the version has an LM head of its own, or the base's."""
    earlier, head = earlier_draft(family, tmp_path / "earlier"), getattr(family, kind)
    files = ["--from-delta", earlier, "--text", text(tmp_path / "text.npz"), "--cache", tmp_path / "cache"]
    budget = ["--step-tokens", 200, "--common-ids", 0, "--learning-rate", 0.02, "--rank", 4]
    overlap = {}
    for steps in (1, 30):
        out = tmp_path / f"lora{steps}"
        asked = ["--base", family.base, "--head", head, "--out", out, *files, *budget, "--steps", steps]
        assert run("train", *asked) == 0
        overlap[steps] = json.loads(capsys.readouterr().out)["overlap"]
    assert overlap[30] > overlap[1] + 0.01

    with_draft, draft = tmp_path / "head", export(family.base, tmp_path / "draft", earlier)
    add_draft_lora(head, out, with_draft)
    lora = read_draft_lora(with_draft, draft)
    graphs = load_onnx(write_onnx(draft, tmp_path / "graphs", "float32", lora=lora))
    network = with_lora(load_target(draft, dtype="float32").model, out)
    ids = [int(i) for i in np.random.default_rng(3).integers(3, 300, 40)]
    ours = graphs.forward([ModelInput(graphs.new_kv(), ids, len(ids))])
    with torch.no_grad():
        theirs = network(torch.tensor([ids])).logits[0]
    # Merged weights are bfloat16, as they were in the training.
    assert np.abs(ours - theirs.numpy()).mean() < 0.01 * theirs.abs().mean()
    with pytest.raises(HeadError, match="was trained on a draft with fingerprint"):
        read_draft_lora(with_draft, family.base)


def test_an_lm_head_of_the_version_decides_what_is_right(family: Family, tmp_path: Path) -> None:
    """The draft keeps the base's; what it learns and how it is measured goes by the version's."""
    rows = load_rows(text(tmp_path / "text.npz")).take([0, 1])
    loaded = load_target(family.base)
    teacher = load_teacher(family.base, read_version(family.lora, family.base, loaded))
    cache = StateCache(tmp_path / "cache", rows, base="version", n=FLOOR, width=16)
    config = TrainConfig(FLOOR, (LAYERS - 1,), max_steps=1)
    trainer = Trainer(loaded.model, cache, config, teacher=teacher)
    assert trainer.teacher_lm_head is not None
    collect(cache, teacher, [0, 1])
    own, theirs = lm_head_weight(loaded.model), lm_head_weight(teacher)
    right = wrong = 0
    for row in range(2):
        first = int(rows.prompt_len[row]) - 1
        said = run_head(trainer.draft, FLOOR, cache.backbone(row)[None])[0, first:-1] @ own.T
        final = cache.final(row, first)
        right += int((said.argmax(-1) == (final @ theirs.T).argmax(-1)).sum())
        wrong += int((said.argmax(-1) == (final @ own.T).argmax(-1)).sum())
    assert replay(trainer.draft, FLOOR, cached_rows(cache, [0, 1], trainer.teacher_lm_head)).matches == right
    assert replay(trainer.draft, FLOOR, cached_rows(cache, [0, 1])).matches == wrong != right
    (answer,) = coupled(trainer.draft, FLOOR, cached_rows(cache, [0], trainer.teacher_lm_head), (0.0,))
    (other,) = coupled(trainer.draft, FLOOR, cached_rows(cache, [0]), (0.0,))
    assert not np.array_equal(answer.accepted, other.accepted)


def test_heads_that_do_not_fit_are_refused(family: Family, tmp_path: Path) -> None:
    files = ["--text", text(tmp_path / "text.npz"), "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    earlier = ["--steps", 1, "--from-delta", earlier_draft(family, tmp_path / "earlier")]
    deeper = ["--steps", 1, "--from-delta", earlier_draft(family, tmp_path / "deeper", FLOOR + 1)]
    with pytest.raises(ModelError, match="may change layers from 2 on, and the draft keeps 3"):
        run("train", "--base", family.base, *files, *deeper, "--head", family.full)
    with pytest.raises(HeadError, match="its base is"):
        run("train", "--base", family.merged, *files, *earlier, "--head", family.full)
    assert run("train", "--base", family.base, *files, *earlier, "--head", family.full) == 0
    # States of one version are not another's.
    with pytest.raises(ModelError, match="holds states of another base"):
        run("train", "--base", family.base, *files[:-1], tmp_path / "new", *earlier)
