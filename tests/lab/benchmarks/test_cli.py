"""Every benchmark can be asked for help, refuses nonsense, and ends with one JSON object."""

import json
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from flexspec_mq.heads.manifest import MANIFEST, Manifest, file_entry
from flexspec_mq.models.head_files import FULL
from flexspec_mq.models.onnx.write import write_onnx
from lab.benchmarks import acceptance, engine, evolution
from tests.lab.traditional.noisy_models import checkpoint as noisy_checkpoint
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = sorted(
    path.stem
    for path in (ROOT / "lab" / "benchmarks").glob("*.py")
    if '__name__ == "__main__"' in path.read_text("utf-8")
)
Main = Callable[[Sequence[str]], int]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = tiny_llama(max_position_embeddings=512, head_dim=16).bfloat16()  # as a device keeps embeddings
    folder = tmp_path_factory.mktemp("tiny")
    return str(save(folder, model, byte_level_tokenizer()))


@pytest.fixture(scope="module")
def draft(checkpoint: str) -> str:
    """The target itself as a draft, with all of its bits."""
    return str(write_onnx(Path(checkpoint), Path(f"{checkpoint}-graphs"), "float32", 0))


def run(command: str, flag: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """As ``python -m benchmarks.<command> <flag>``; the exit code."""
    name = f"lab.benchmarks.{command}"
    monkeypatch.setattr(sys, "argv", [name, flag])
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    return ended.value.code


def last_json(text: str) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(text.splitlines()[-1])
    return printed


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_and_an_unknown_flag_refused(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "--help", monkeypatch) == 0
    help_text = capsys.readouterr().out
    assert help_text.startswith("usage:")
    assert "--quick" in help_text
    assert run(command, "--no-such-flag", monkeypatch) == 2
    printed = capsys.readouterr()
    assert "usage:" in printed.err
    assert "--" in printed.err.splitlines()[-1]
    assert printed.out == ""


@pytest.mark.parametrize(
    ("main", "arguments", "named"),
    [
        (acceptance.main, ["--k", "65"], "--k 65"),
        (acceptance.main, ["--k", "-1"], "--k -1"),
        (acceptance.main, ["--tokens", "0"], "--tokens 0"),
        (acceptance.main, ["--at-once", "0"], "--at-once 0"),
        (acceptance.main, ["--questions", "0"], "--questions 0"),
        (acceptance.main, ["--draft", "none"], "draft"),
        (acceptance.main, ["--temperatures", "0", "0"], "twice"),
        (acceptance.main, ["--temperatures", "-1"], "temperature -1"),
        (acceptance.main, ["--threads", "0"], "threads 0"),
        (acceptance.main, ["--prompts", "/no/such/file"], "/no/such/file"),
        (engine.main, ["--context", "0"], "--context 0"),
        (engine.main, ["--turns", "0"], "--turns 0"),
        (engine.main, ["--context", "9000"], "--context 9000"),
        (engine.main, ["--gguf", "/no/such/file"], "/no/such/file"),
        (engine.main, ["--target", "/no/such/folder"], "/no/such/folder"),
        (evolution.main, ["--updates", "-1"], "--updates -1"),
    ],
)
def test_bad_values_are_named(
    main: Main, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) != 0
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert named in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"turns": []}', '{"question": "Why?"}', '{"prompt": " "}', '{"prompt": 3}']
)
def test_a_bad_question_is_named(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"prompt": "Why?"}\n' + line + "\n", "utf-8")
    assert acceptance.main(["--prompts", str(path)]) == 2
    assert "line 2" in capsys.readouterr().err


def test_tokenizers_that_differ_are_refused(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(save(tmp_path, tiny_llama(head_dim=16), byte_level_tokenizer(("other", "words"))))
    assert acceptance.main(["--draft", other, "--target", checkpoint]) == 3
    assert "different tokenizers" in capsys.readouterr().err


def test_acceptance_of_the_target_as_its_own_draft(
    checkpoint: str, draft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All is accepted at any temperature, so 12 tokens with K = 3 take three rounds or fewer."""
    path = tmp_path / "questions.jsonl"
    path.write_text(
        '{"category": "b", "turns": ["Why?", "Really?"]}\n{"category": "a", "turns": ["What is it?"]}\n',
        "utf-8",
    )
    flags = ["--draft", draft, "--target", checkpoint, "--dtype", "float32", "--prompts", str(path)]
    assert acceptance.main([*flags, "--tokens", "12", "--k", "3", "--temperatures", "0", "0.7"]) == 0
    printed = last_json(capsys.readouterr().out)
    assert printed["benchmark"] == "acceptance"
    results = printed["results"]
    assert (results["questions"], results["k"], results["exact"]) == (2, 3, True)
    assert set(results["drafts"][draft]) == {"0", "0.7"}
    for found in results["drafts"][draft].values():
        assert found["acceptance"][0] == found["of_first"][0] == 1.0
        assert 2 * 12 / 6 <= found["tokens_per_round"][0] <= 4
    assert results["ms_per_token"].keys() == {draft, "target"}
    assert min(results["ms_per_token"].values()) > 0


def test_acceptance_of_two_drafts_on_one_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A head writes them: the target with its weights is right everywhere, the target alone is not."""
    target, merged = (
        str(noisy_checkpoint(tmp_path / f"{noise}", noise, head_dim=16)) for noise in (0.0, 1.0)
    )
    weights = load_file(f"{merged}/model.safetensors").items()
    (head := tmp_path / "head").mkdir()
    save_file({n: w for n, w in weights if n.startswith(("model.layers.1.", "lm_head"))}, head / FULL)
    facts = {"kind": "full", "base": "0" * 32, "tokenizer": "0" * 32, "layers": 2, "floor": 1}
    manifest = Manifest(files=(file_entry(head / FULL),), **facts)  # type: ignore[arg-type]
    (head / MANIFEST).write_bytes(manifest.encode())
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f'{{"prompt": "Why is {word}?"}}\n' for word in "abcdef"), "utf-8")
    flags = ["--target", target, "--dtype", "float32", "--prompts", str(path), "--tokens", "12"]
    drafted = [str(write_onnx(Path(each), Path(f"{each}-graphs"), "float32", 0)) for each in (merged, target)]
    flags += ["--k", "3", "--temperatures", "0", "1", "--draft", *drafted, "--head", str(head)]
    assert acceptance.main(flags) == 0
    drafts = last_json(capsys.readouterr().out)["results"]["drafts"]
    for temperature in ("0", "1"):
        mine, theirs = (drafts[each][temperature] for each in drafted)
        assert min(mine["acceptance"]) > 0.9  # embeddings of devices are in half as many bits
        assert mine["of_first"] == [1.0, 1.0, 1.0]
        assert theirs["acceptance"][0] < 0.7
        assert theirs["of_first"][0] == pytest.approx(
            theirs["tokens_per_round"][0] / mine["tokens_per_round"][0]
        )
        assert theirs["of_first"][1] <= theirs["of_first"][0] <= theirs["of_first"][2] < 1
