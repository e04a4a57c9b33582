"""`flexspec head train` and `check` from files to files, on a tiny base; what a head may not touch is refused."""

import json
import operator
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flexspec_mq.cli import main
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.heads.manifest import MANIFEST, Canary, HeadError, Manifest, digest, file_entry, read_head
from training.head.train import TrainOptions, train_head
from training.head.train import main as train_main

pytest.importorskip("transformers")
pytest.importorskip("peft")

from peft import PeftModel
from safetensors.torch import load_file, save_file

from flexspec_mq.evolution.canaries import greedy, load_base
from flexspec_mq.evolution.check import check_head
from flexspec_mq.models.head_files import ADAPTER, CONFIG, DRAFT, FULL, PREFIX
from flexspec_mq.models.load import load_target, load_text
from flexspec_mq.models.onnx.lora import add_draft_lora
from tests.models.tiny_checkpoints import (
    TEMPLATE,
    byte_level_tokenizer,
    edit,
    edit_tensors,
    save,
    tiny_llama,
    write,
)
from tests.training.drafts import stop_after
from training.draft.version import read_version
from training.head.chats import read_chats, rows_of
from training.head.tuning import TuneConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning", "ignore::UserWarning:peft.*")

WORDS = "abcdefgh"
LAYERS, FLOOR = 4, 2
OUTSIDE = f"{PREFIX}model.norm.weight"
QUICK = TuneConfig(floor=FLOOR, rank=4, alpha=8, steps=40, step_tokens=256, learning_rate=3e-2)


def options(folder: Path, out: Path) -> TrainOptions:
    return TrainOptions(base=folder / "base", data=folder / "chats.jsonl", out=out, dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and chats in which every prompt has the same answer."""
    folder = tmp_path_factory.mktemp("heads")
    model = tiny_llama(
        tie_word_embeddings=True, num_hidden_layers=LAYERS, max_position_embeddings=128, initializer_range=0.2
    )
    save(folder / "base", model, byte_level_tokenizer(template=TEMPLATE))
    answer = {"role": "assistant", "content": "hgfe"}
    chats = [[{"role": "user", "content": first + second}, answer] for first in WORDS for second in WORDS]
    (folder / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return folder


def trained(folder: Path, out: Path, **changes: Any) -> Manifest:
    manifest = train_head(replace(QUICK, **changes), options(folder, out))
    assert manifest is not None
    return manifest


@pytest.fixture(scope="module")
def lora(folder: Path) -> Path:
    trained(folder, folder / "lora", norm=True, lm_head=True)
    return folder / "lora"


@pytest.fixture(scope="module")
def full(folder: Path) -> Path:
    trained(folder, folder / "full", kind="full", norm=True, lm_head=True, learning_rate=1e-2)
    return folder / "full"


def test_lora_head_is_a_peft_adapter_of_the_upper_layers_alone(lora: Path, folder: Path) -> None:
    manifest = read_head(lora)
    facts = manifest.kind, manifest.layers, manifest.floor, manifest.dtype
    assert facts == ("lora", LAYERS, FLOOR, "float32")
    assert {file.name for file in manifest.files} == {CONFIG, ADAPTER}
    assert len(manifest.canaries) == 6
    names = set(load_file(lora / ADAPTER))
    assert "base_model.model.model.norm.weight" in names
    assert {name.split(".")[4] for name in names if ".layers." in name} == {"2", "3"}
    # The tied LM head itself would be 300 × 16 numbers more.
    assert not any("lm_head" in name and "lora" not in name for name in names)
    assert "embed_tokens" not in " ".join(names)
    # Whoever uses peft can load it.
    model = PeftModel.from_pretrained(load_target(folder / "base", dtype="float32").model, lora)
    canary = manifest.canaries[0]
    generate: Any = model.generate
    written = generate(input_ids=torch.tensor([canary.prompt]), max_new_tokens=24, do_sample=False)
    assert tuple(written[0, len(canary.prompt) :].tolist()) == canary.text


def test_tuning_teaches_the_answers_and_nothing_of_the_prompts(lora: Path, folder: Path) -> None:
    text = load_text(folder / "base")
    rows = rows_of(text, read_chats(folder / "chats.jsonl"), 64)
    prompts = [row.ids[: row.prompt] for row in rows]
    answers = [row.ids[row.prompt :] for row in rows]
    model = load_base(folder / "base", dtype="float32")
    head = read_version(lora, folder / "base", text).head
    assert head is not None
    model.hold("lora", head)
    written = {
        name: [greedy(model, prompt, 8, text.eos, name) for prompt in prompts] for name in ("lora", "")
    }
    assert sum(map(operator.eq, written["lora"], answers)) > 0.9 * len(rows)
    assert not any(map(operator.eq, written[""], answers))
    assert all(answer[-1] == 2 for answer in answers)


def test_full_head_holds_the_upper_layers_with_the_bases_names(full: Path, folder: Path) -> None:
    tensors, base = load_file(full / FULL), load_file(folder / "base" / "model.safetensors")
    upper = {name for name in base if name.startswith(("model.layers.2.", "model.layers.3."))}
    # The base's LM head is its embedding; the head's is another one, and the embedding stays.
    assert set(tensors) == upper | {"model.norm.weight", "lm_head.weight"}
    assert any(not torch.equal(tensors[name], base[name]) for name in upper)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_good_head_passes_and_its_shuffled_weights_do_not(
    kind: str, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With a LoRA of the draft beside it."""
    head, draft = request.getfixturevalue(kind), str(folder / "base")
    assert "draft" not in check_head(head, None, draft)
    add_draft_lora(head, request.getfixturevalue("lora"), tmp_path / "head")
    figures = check_head(tmp_path / "head", folder / "base", draft)
    assert figures["draft"] == check_head(request.getfixturevalue("lora"), None)["parameters"]
    assert figures["layers"] == [2, 3]
    assert figures["others"] == ["lm_head.weight", "model.norm.weight"]
    assert figures["canaries"] == 1.0
    assert figures["shuffled"] < 0.9


def test_a_training_that_was_stopped_gives_the_same_head(folder: Path, tmp_path: Path) -> None:
    config = replace(QUICK, steps=6)
    files = options(folder, tmp_path / "head")
    for _ in range(2):
        assert train_head(config, files, stop_after(2)) is None
        assert not files.out.exists()
    with pytest.raises(UsageError, match="other settings"):
        train_head(replace(QUICK, steps=7), files)
    assert train_head(config, files) == trained(folder, tmp_path / "at once", steps=6)
    assert not files.state.exists()
    with pytest.raises(UsageError, match="there already"):
        train_head(config, files)


def altered(head: Path, into: Path, change: Callable[[Path], object] = id, **fields: Any) -> Path:
    """A copy of a head with one thing changed, and a manifest that fits it."""
    shutil.copytree(head, into)
    manifest = read_head(into)
    (into / MANIFEST).unlink()
    change(into)
    facts = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    listed = tuple(file_entry(path) for path in sorted(into.iterdir()))
    (into / MANIFEST).write_bytes(Manifest(**{**facts, "files": listed, **fields}).encode())
    return into


def adapter(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """Change each weight of an adapter."""

    def apply(folder: Path) -> None:
        weights = load_file(folder / ADAPTER)
        save_file({name: change(weight) for name, weight in weights.items()}, folder / ADAPTER)

    return apply


def shuffled(weight: torch.Tensor) -> torch.Tensor:
    return weight.flatten()[torch.randperm(weight.numel())].view_as(weight)


def drafted(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put the head's adapter into it as a LoRA of the draft too, which fits where the base is the draft."""

    def apply(folder: Path) -> None:
        for name in (CONFIG, ADAPTER):
            shutil.copyfile(folder / name, folder / f"{DRAFT}{name}")
        for change in changes:
            change(folder)

    return apply


Bad = tuple[Callable[[Path], object], dict[str, Any], str]
BAD: list[Bad] = [
    (adapter(torch.Tensor.half), {}, "float16"),
    (adapter(shuffled), {}, "tokens come out"),
    (id, {"base": "0" * 32}, r"fingerprint .*\n.*name its base with --base"),
    (id, {"tokenizer": "0" * 32}, "tokenizer"),
    (id, {"layers": 5}, "does not fit"),
    (id, {"canaries": ()}, "no canaries"),
    (id, {"dtype": "bfloat16"}, "float32"),
    (id, {"kind": "full"}, "of kind full has"),
    (id, {"canaries": (Canary((300,), (1,)),)}, "a canary has token 300"),
    (drafted(lambda head: (head / f"{DRAFT}{CONFIG}").unlink()), {}, f"differs by {DRAFT}{CONFIG}"),
    (drafted(write(f"{DRAFT}{ADAPTER}", b"?")), {}, "cannot read .*draft_adapter_model"),
    (drafted(edit_tensors(f"{DRAFT}{ADAPTER}", {OUTSIDE: torch.zeros(15)})), {}, r"has shape \[15\]"),
    (drafted(edit(f"{DRAFT}{CONFIG}", revision="0" * 32)), {}, "trained on a draft with fingerprint 0"),
]
"""Heads that the check refuses. Weights that no head may have are tested with their files, in tests/models."""


@pytest.mark.parametrize("bad", BAD, ids=[message for *_, message in BAD])
def test_a_bad_head_or_one_of_another_base_or_without_proof_is_refused(
    bad: Bad, lora: Path, folder: Path, tmp_path: Path
) -> None:
    change, fields, message = bad
    head = altered(lora, tmp_path / "head", change, **fields)
    with pytest.raises(HeadError, match=message):
        check_head(head, folder / "base", str(folder / "base"))


def test_a_file_that_the_manifest_does_not_name_is_refused(lora: Path, folder: Path, tmp_path: Path) -> None:
    head = altered(lora, tmp_path / "head")
    (head / "notes.txt").write_text("hello")
    with pytest.raises(HeadError, match=r"notes\.txt"):
        check_head(head, folder / "base")


def test_the_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, base = tmp_path / "head", ("--base", str(folder / "base"), "--threads", "1")
    shape = "--floor 2 --rank 4 --alpha 8 --lm-head --dtype float32"
    wishes = f"{shape} --steps 40 --step-tokens 256 --learning-rate 3e-2".split()
    data = ("--data", str(folder / "chats.jsonl"))
    assert train_main([*data, "--out", str(out), *wishes, *base]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["digest"] == digest((out / MANIFEST).read_bytes()).hex()
    assert trained["bytes"] == sum(file.stat().st_size for file in out.iterdir() if file.name != MANIFEST)
    assert main(["head", "check", str(out), *base]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == trained["digest"]


@pytest.mark.parametrize(
    "line",
    ["{}", "[1]", '{"messages": [{"role": "user", "content": "a"}]}', '{"messages": [{"role": "user"}, {}]}',
     '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}', "[" * 100_000],
)  # fmt: skip
def test_a_line_that_is_no_chat_is_named(line: str, tmp_path: Path) -> None:
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    path = tmp_path / "chats.jsonl"
    path.write_text(f"{good}\n\n{line}\n")
    with pytest.raises(UsageError, match="line 3"):
        read_chats(path)


def test_each_answer_of_a_chat_is_a_row_that_ends(folder: Path, tmp_path: Path) -> None:
    text = load_text(folder / "base")
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "dd")]
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}))
    one, two = rows_of(text, read_chats(path), 64)
    assert text.tokenizer.decode(list(one.ids[one.prompt :]), skip_special_tokens=False) == "b</s>"
    assert text.tokenizer.decode(list(two.ids[two.prompt :]), skip_special_tokens=False) == "dd</s>"
    assert two.ids[: len(one.ids)] == one.ids
    (cut,) = rows_of(text, read_chats(path), one.prompt + 1)
    assert len(cut.ids) == one.prompt + 1
    with pytest.raises(FlexSpecError, match="all chats"):
        rows_of(text, read_chats(path), one.prompt)


def test_the_base_itself_is_a_version(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = folder / "base"

    def run(out: str, floor: int = FLOOR) -> int:
        options = ["--base", str(base), "--dtype", "float32", "--floor", str(floor)]
        return main(["head", "base", *options, "--out", str(tmp_path / out)])

    assert run("b") == 0
    manifest = read_head(tmp_path / "b")
    assert (manifest.kind, manifest.floor, manifest.layers, manifest.files) == ("base", FLOOR, LAYERS, ())
    assert all(canary.text for canary in manifest.canaries)
    assert check_head(tmp_path / "b", base)["parameters"] == 0
    for words, message in ((("b", FLOOR), "there already"), (("c", LAYERS), "no layer")):
        assert run(*words) == UsageError.exit_code
        assert message in capsys.readouterr().err
