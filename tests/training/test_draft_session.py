"""The commands from files to files, on a tiny base with a real tokenizer."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from flexspec_mq.errors import FingerprintError, ModelError, UsageError

pytest.importorskip("transformers")

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flexspec_mq.models.draft.artifact import MARKER, export
from flexspec_mq.models.draft.delta import RANKS, DeltaMeta, read_delta, read_meta
from flexspec_mq.models.onnx.folder import read_manifest
from flexspec_mq.models.text import read_prompts
from tests.training.drafts import run_draft as run
from tests.training.drafts import some_text, stop_after, tiny_base
from training.draft import session
from training.draft.packing import save_delta
from training.draft.rows import load_rows, make_rows, save_rows
from training.draft.schedule import TrainConfig
from training.draft.session import TrainFiles, train_draft

ROWS = 300
WORDS = [f"w{i}" for i in range(58)]
CONFIG = TrainConfig(
    n=2, start=(3,), max_steps=12, step_tokens=200, first_rows=60, common_ids=30, extra_ids=10
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("session")
    tiny_base(61).save_pretrained(folder / "base")
    vocabulary = {word: i for i, word in enumerate(["<u>", "<s>", "</s>", *WORDS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<u>"))  # noqa: S106
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<u>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, **special)  # type: ignore[no-untyped-call]
    tokenizer.chat_template = "<s> {% for m in messages %}{{ m['content'] }} </s> {% endfor %}"
    tokenizer.save_pretrained(folder / "base")
    save_rows(folder / "text.npz", some_text(ROWS, vocabulary=61, prompts=(4, 5)))
    return folder


def train_files(files: Path, folder: Path, text: Path | None = None) -> TrainFiles:
    return TrainFiles(files / "base", (text or files / "text.npz",), folder / "cache", folder / "d")


def test_train_evaluate_and_export_work_together(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, delta = files / "base", tmp_path / "out" / "d.safetensors"
    train = ["--base", base, "--text", files / "text.npz", "--cache", tmp_path / "cache", "--out", delta]
    assert run("train", *train, "--layers", 2, "--blocks", 2, "--steps", 12) == 0
    reached = json.loads(capsys.readouterr().out)
    facts = read_meta(delta).training
    assert facts["step"] == 12
    assert facts["overlap"] == reached["overlap"] > 0
    assert run("evaluate", "--base", base, "--delta", delta, "--text", files / "text.npz") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["positions"] == reached["positions"] > 0
    # Weights are rounded alike; only the order of bfloat16 sums may differ.
    assert again["overlap"] == pytest.approx(reached["overlap"], abs=0.02)
    assert run("export", "--base", base, "--delta", delta, "--out", tmp_path / "draft") == 0
    assert (tmp_path / "draft" / "tokenizer.json").exists()
    assert run("evaluate", "--base", base, "--draft", tmp_path / "draft", "--text", files / "text.npz") == 0
    exported = json.loads(capsys.readouterr().out.splitlines()[-1])
    # The same weights, but transformers may load them into other memory, and bfloat16 sums differ with it.
    assert exported["overlap"] == pytest.approx(again["overlap"], abs=0.02)
    assert list(exported["temperatures"]) == ["0", "0.7", "1"]
    graphs = tmp_path / "graphs"
    wanted = ["export", "--base", base, "--delta", delta, "--out", graphs, "--weights", "int8", "--ids", 0]
    with pytest.raises(UsageError, match="for --onnx"):
        run(*wanted)
    assert run(*wanted, "--onnx") == 0
    assert capsys.readouterr().out == f"{graphs}\n"
    assert read_manifest(graphs).weights == "int8"
    assert not (graphs / "model.safetensors").exists()
    assert (graphs / MARKER).exists()


def test_what_a_training_leaves_can_be_calibrated_packed_and_exported(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, delta, text = files / "base", tmp_path / "d", files / "text.npz"
    where = TrainFiles(base, (text, text), tmp_path / "cache", delta)
    assert train_draft(where, CONFIG) is not None
    meta, tensors = read_delta(delta)
    assert meta.confidence is not None
    assert meta.training["rows_in_text"] == 2 * ROWS
    ranks = tensors[RANKS]
    assert ranks.dtype == torch.int32
    assert ranks[0] == 2  # the end of a text
    assert len(set(ranks.tolist())) == len(ranks) == 61
    assert run("calibrate", "--base", base, "--delta", delta, "--text", text, "--out", tmp_path / "c") == 0
    assert json.loads(capsys.readouterr().out)["positions"] % 3 == 0  # three temperatures
    again, kept = read_delta(tmp_path / "c")
    assert again.confidence is not None
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors.items())
    packed = tmp_path / "p"
    asked = ["--base", base, "--delta", tmp_path / "c", "--out", packed]
    assert run("pack", *asked, "--bits", 8) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == packed.stat().st_size < found["bytes_before"] == (tmp_path / "c").stat().st_size
    assert read_meta(packed).confidence == again.confidence
    assert run("export", "--base", base, "--delta", packed, "--out", tmp_path / "draft") == 0
    assert (tmp_path / "draft" / "token_ranks.npy").exists()


def test_training_needs_a_budget() -> None:
    with pytest.raises(UsageError, match="budget") as caught:
        run("train", "--base", "b", "--text", "t", "--cache", "c", "--out", "o")
    assert "--minutes or --steps" in caught.value.hint


def test_starts_are_named_by_a_list(files: Path, tmp_path: Path) -> None:
    shape = ["--base", files / "base", "--text", files / "text.npz", "--cache", tmp_path / "c", "--steps", 1]
    asked = ["train", *shape, "--out", tmp_path / "d", "--layers", 1, "--calibration-rows", 0]
    assert run(*asked, "--start-from", "1,3,2") == 0
    assert read_meta(tmp_path / "d").start == (1, 3, 2)
    assert read_meta(tmp_path / "d").confidence is None
    with pytest.raises(UsageError, match="2 layers for 3 blocks"):
        run(*asked, "--start-from", "1,3", "--blocks", 3)
    with pytest.raises(UsageError, match="no list of layers"):
        run(*asked, "--start-from", "first")
    with pytest.raises(UsageError, match="not above 0"):
        run(*asked, "--temperatures", 1, 0.0)
    with pytest.raises(ModelError, match="no folder"):
        run("export", "--base", tmp_path / "none", "--out", tmp_path / "out")


def test_a_training_begins_with_an_earlier_draft(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, text = files / "base", files / "text.npz"
    asked = ["train", "--base", base, "--text", text, "--cache", tmp_path / "deep", "--calibration-rows", 0]
    assert run(*asked, "--out", tmp_path / "a", "--layers", 2, "--start-from", "3", "--steps", 9) == 0
    first = json.loads(capsys.readouterr().out)
    asked[asked.index(tmp_path / "deep")] = tmp_path / "shallow"
    further = [*asked, "--from-delta", tmp_path / "a", "--learning-rate", 0.0]
    assert run(*further, "--layers", 0, "--out", tmp_path / "b", "--steps", 1) == 0
    meta, tensors = read_delta(tmp_path / "b")
    assert (meta.n, meta.start) == (0, (0, 1, 3))
    # Nothing was learned, and the layers that are trained now still are the base's: the same draft.
    assert json.loads(capsys.readouterr().out)["overlap"] == pytest.approx(first["overlap"], abs=0.01)
    _, before = read_delta(tmp_path / "a")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())
    # Without --layers, the backbone stays that of the earlier draft.
    assert run(*further, "--out", tmp_path / "d", "--cache", tmp_path / "deep", "--steps", 1) == 0
    assert (read_meta(tmp_path / "d").n, read_meta(tmp_path / "d").start) == (2, (3,))
    with pytest.raises(UsageError, match="backbone of 2 layers, not 3"):
        run(*further, "--layers", 3, "--out", tmp_path / "c", "--steps", 1)
    with pytest.raises(UsageError, match="decides on the blocks"):
        run(*further, "--layers", 1, "--out", tmp_path / "c", "--steps", 1, "--blocks", 2)


def test_text_of_another_model_is_refused(files: Path, tmp_path: Path) -> None:
    save_rows(tmp_path / "t.npz", make_rows([(1, 2)], [(61,)], [0.0]))
    where = train_files(files, tmp_path, tmp_path / "t.npz")
    with pytest.raises(ModelError, match="has token 61"):
        train_draft(where, CONFIG)
    assert not (tmp_path / "cache").exists()


def test_text_of_too_few_prompts_to_measure_on_is_told(
    files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = load_rows(files / "text.npz")
    few = text.take(np.flatnonzero(~text.is_held_out())[:20].tolist())
    save_rows(tmp_path / "few.npz", few)
    where = train_files(files, tmp_path, tmp_path / "few.npz")
    reached = train_draft(where, replace(CONFIG, max_steps=2))
    assert reached is not None
    assert reached.figures()["positions"] == 0
    assert "no row is held out" in caplog.text
    assert read_meta(where.out).confidence is None


def test_a_stopped_training_goes_on_to_the_same_weights(files: Path, tmp_path: Path) -> None:
    whole, torn = (train_files(files, tmp_path / name) for name in ("whole", "torn"))
    assert train_draft(whole, CONFIG) is not None
    assert train_draft(torn, CONFIG, stop_after(9)) is None
    assert 0 < read_meta(torn.out).training["step"] < 12
    assert train_draft(torn, CONFIG) is not None
    exported = [export(files / "base", where.out.parent / "draft", where.out) for where in (whole, torn)]
    first, second = ((folder / "model.safetensors").read_bytes() for folder in exported)
    assert first == second


def test_preliminary_deltas_appear_while_training(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def spy(path: Path, tensors: dict[str, torch.Tensor], meta: DeltaMeta) -> Path:
        steps.append(meta.training["step"])
        return save_delta(path, tensors, meta)

    monkeypatch.setattr(session, "save_delta", spy)
    train_draft(train_files(files, tmp_path), CONFIG, save_seconds=0)
    assert steps == [*range(1, 13), 12, 12]  # the last one with a confidence


def test_a_delta_of_another_base_is_not_measured(files: Path, tmp_path: Path) -> None:
    other = save_delta(tmp_path / "other", {"model.norm.weight": torch.ones(4)}, DeltaMeta("0" * 32, 2, (2,)))
    with pytest.raises(FingerprintError, match="another base"):
        run("evaluate", "--base", files / "base", "--delta", other, "--text", files / "text.npz")
    with pytest.raises(ModelError, match="fewer than 6 layers"):  # which the draft that ships wants
        run("evaluate", "--base", files / "base", "--text", files / "text.npz")
    with pytest.raises(UsageError, match="none cannot be read"):
        read_prompts(tmp_path / "none")
    (tmp_path / "odd").write_text('{"prompt": " "}\n{}\n')
    with pytest.raises(UsageError, match="odd line 1 has an empty prompt"):
        read_prompts(tmp_path / "odd")
    with pytest.raises(UsageError, match="odd line 2 is no JSON object"):
        read_prompts(tmp_path / "odd", may_be_blank=True)
