"""Few bits beside a file's own weights: the reference is transformers', and each figure is of its model."""

import asyncio
import json
from pathlib import Path

import pytest
import torch

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.compact.integers import check_integers
from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.load import load_target, load_text
from flexspec_mq.models.runner import ModelInput
from lab.benchmarks.exact.reference import ReferenceText, Text
from lab.benchmarks.exact.sampling import Params
from lab.benchmarks.exact.texts import ReferencePool
from lab.benchmarks.quality import compared, main, reference
from tests.models.test_gguf import SHAPES, tiny, write

TEXT = "The lighthouse keeper read the letter twice, and then once more by the lamp. " * 6


@pytest.fixture(scope="module", autouse=True)
def processor() -> None:
    try:
        check_integers()
    except ModelError as error:
        pytest.skip(error.message)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    arch, changes = SHAPES["Qwen2"]
    return write(tmp_path / "a.gguf", arch, tiny(arch, changes))


def test_the_reference_is_the_file_in_float32(target: Path) -> None:
    ids = list(range(5, 45))
    theirs = load_target(target, dtype="float32").model
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(reference(target, load_text(str(target)))(ids), wanted, rtol=1e-4, atol=1e-4)


def test_each_kind_of_weights_is_told_with_its_distance(
    target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--target", str(target), "--texts", str(target.with_name("text.txt")), "--tokens", "60"]
    assert main(flags) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert told["tokens"] == 60
    for name, most in (("8-bit integers", 0.1), ("bfloat16", 0.02)):
        lost, equal = told["kl"][name]["text.txt"]
        assert 0.0 < lost < most
        assert 0.8 < equal <= 1.0


def test_a_text_that_is_too_short_is_refused(target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = str(target.with_name("text.txt"))
    assert main(["--target", str(target), "--texts", text, "--tokens", "100000"]) == UsageError.exit_code
    assert "fewer --tokens" in capsys.readouterr().err


def test_a_target_that_is_no_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "default"]) == UsageError.exit_code
    assert "default is no file" in capsys.readouterr().err


def test_the_distance_is_the_divergence_of_the_reference() -> None:
    mine = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    other = torch.log(torch.tensor([[0.25, 0.75], [0.9, 0.1]])) + 3.0
    lost, equal = compared(mine, other)
    assert lost == pytest.approx(0.5 * torch.log(torch.tensor(4 / 3)).item())
    assert equal == 1


def test_one_row_after_another_writes_what_all_at_once_do(target: Path) -> None:
    text = load_text(str(target))
    model = Checkpoint(target, text, torch.bfloat16, "int8").load()
    prompt = tuple(range(5, 25))
    pool = ReferencePool(str(target), "bfloat16", 1)

    async def asked() -> ReferenceText:
        pool.start()
        try:
            return await pool.write(Text(3, prompt, Params(0.0, 0, 1.0, 7), 8, ()))
        finally:
            await pool.end()

    written = asyncio.run(asked())
    assert (written.number, written.reason, len(written.tokens)) == (3, "length", 8)
    ids = [*prompt, *written.tokens]
    rows = model.forward([ModelInput(model.new_kv(), ids[:-1], 8)])
    assert rows.argmax(1).tolist() == written.tokens
