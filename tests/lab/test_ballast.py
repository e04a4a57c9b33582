"""Layers that change nothing: more bytes, and the logits of the model that they were added to."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.gguf.tensors import open_gguf, unpack
from flexspec_mq.models.load import load_target
from lab.ballast import main
from tests.models.test_gguf import ROPE, SHAPES, Floats, Stored, tiny, write
from tests.models.tiny_checkpoints import save, tiny_llama

IDS = torch.randint(300, (1, 60), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(IDS).logits


def parameters(module: Any) -> int:
    return sum(each.numel() for each in module.parameters())


def test_blocks_of_zero_bytes_are_zeros() -> None:
    known = set()
    for kind, (_, size) in gguf.GGML_QUANT_SIZES.items():
        with suppress(ModelError):
            assert not unpack(np.zeros((1, size), np.uint8), kind, kind.name).any()
            known.add(kind.name)
    assert known > {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"}


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_the_models_own(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arch, changes = SHAPES[name]
    source = write(tmp_path / "a.gguf", arch, tiny(arch, changes))
    before = load_target(source, dtype="float32").model
    for out in (tmp_path / "b.gguf", tmp_path / "b"):
        assert main([str(source), "--like", "0.0004B", "--out", str(out)]) == 0
        after = load_target(out, dtype="float32").model
        assert torch.equal(logits(after), logits(before))
        many, more = (model.config.num_hidden_layers for model in (before, after))
        whole, layer = parameters(after), parameters(after.model.layers[0])
        assert abs(whole - 400_000) <= layer / 2
        said = capsys.readouterr().out
        assert f": {many} layers before, {more} now" in said
        assert f": {parameters(before):,} before, {whole:,} now" in said
        for last in after.model.layers[more - 1].self_attn.o_proj, after.model.layers[many].mlp.down_proj:
            assert not last.weight.any()


def test_a_file_has_the_bytes_of_the_models_layers_and_its_metadata(tmp_path: Path) -> None:
    def stored(name: str, values: Floats) -> Stored:
        kind = gguf.GGMLQuantizationType["Q6_K" if "layers.1.mlp.down" in name else "Q4_K"]
        shape = gguf.quant_shape_to_byte_shape(values.shape, kind)
        return np.random.default_rng(len(name)).integers(0, 40, shape, np.uint8), kind

    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "rope_parameters": ROPE}
    source, out = tmp_path / "a.gguf", tmp_path / "b.gguf"
    write(source, "qwen2", tiny("qwen2", sizes), stored)
    assert main([str(source), "--like", "0.002B", "--out", str(out)]) == 0
    theirs, ours = open_gguf(source), open_gguf(out)
    before, after = ({each.name: each for each in reader.tensors} for reader in (theirs, ours))
    for name, tensor in after.items():
        _, number, role = name.split(".", 2) if name.startswith("blk.") else ("", "0", "")
        own = before[f"blk.{int(number) % 2}.{role}" if role else name]
        zero = int(number) >= 2 and role in {"attn_output.weight", "ffn_down.weight"}
        assert tensor.tensor_type == own.tensor_type
        assert np.array_equal(tensor.data, np.zeros_like(own.data) if zero else own.data), name
    facts, more = ({key: each.contents() for key, each in reader.fields.items()} for reader in (theirs, ours))
    changed = {key for key in more if more[key] != facts.get(key)}
    assert changed == {"GGUF.tensor_count", "GGUF.kv_count", "qwen2.block_count", "flexspec.ballast"}
    assert facts.keys() < more.keys()
    assert more["qwen2.block_count"] == len({name for name in after if name.endswith("ffn_down.weight")})


def test_a_folder_is_loaded_by_transformers(tmp_path: Path) -> None:
    source, out = save(tmp_path / "a", tiny_llama(vocab_size=300).bfloat16()), tmp_path / "b"
    assert main([str(source), "--like", "0.0001B", "--out", str(out)]) == 0
    models = [AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32) for each in (source, out)]
    assert torch.equal(logits(models[0]), logits(models[1]))
    assert models[1].config.num_hidden_layers > 20
    kept = {each.name for each in source.iterdir()}
    assert {each.name for each in out.iterdir()} == kept
    weights = parameters(models[1])
    assert 2 * weights < (out / "model.safetensors").stat().st_size < 2 * weights + 50_000


@pytest.mark.parametrize(
    ("like", "out"), [("0.00001B", "b"), ("9B", "b"), ("0.0001B", "a"), ("0.0001B", "b.gguf")]
)
def test_nothing_is_written_of_what_cannot_be_done(like: str, out: str, tmp_path: Path) -> None:
    """Too few parameters, too many, a folder that is there, and a folder as a file."""
    source = save(tmp_path / "a", tiny_llama(vocab_size=300).bfloat16())
    assert main([str(source), "--like", like, "--out", str(tmp_path / out)]) == UsageError.exit_code
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
