"""A draft as one file: the device's graphs are the worker's but for the embedding, without torch; damage is named."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save
from zstandard import ZstdCompressor, ZstdDecompressor

from flexspec_mq.errors import ModelError
from flexspec_mq.models.onnx.folder import BACKBONE, EMBEDDING, HEAD, MANIFEST, has_graphs
from flexspec_mq.models.onnx.graphs import weights_of
from flexspec_mq.models.onnx.model import load_onnx
from flexspec_mq.models.onnx.offered import pack, write_offered
from flexspec_mq.models.onnx.write import write_onnx
from tests.models.test_onnx import DECODERS, TEXT, decoder, distance, read
from tests.models.tiny_checkpoints import save as save_checkpoint

TIED = [
    kind for kind, changes in DECODERS.items() if kind.startswith("gemma") or "tie_word_embeddings" in changes
]
_WITHOUT = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "safetensors"):
            raise ModuleNotFoundError("blocked by the test: " + name, name=name)
sys.meta_path.insert(0, Block())
from pathlib import Path
from flexspec_mq.models.onnx.offered import write_offered
write_offered(*map(Path, sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a draft with biases."""
    folder = tmp_path_factory.mktemp("offered")
    pack(save_checkpoint(folder / "model", decoder("smollm2")), folder / "draft.zst")
    return folder / "draft.zst"


@pytest.mark.parametrize("kind", TIED)
def test_a_device_writes_the_graphs_that_the_worker_would(kind: str, tmp_path: Path) -> None:
    checkpoint, file, out = tmp_path / "model", tmp_path / "draft.zst", tmp_path / "out"
    pack(save_checkpoint(checkpoint, decoder(kind)), file)
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, file, out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    there = write_onnx(checkpoint, tmp_path / "there")
    for name in (MANIFEST, BACKBONE, weights_of(BACKBONE), HEAD, "config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (there / name).read_bytes(), name
    ours, theirs = (np.fromfile(folder / EMBEDDING, np.uint16) for folder in (out, there))
    floats = [(numbers.astype(np.uint32) << 16).view(np.float32) for numbers in (ours, theirs)]
    assert 0 < distance(*floats) < 0.01
    assert distance(read(load_onnx(out), TEXT), read(load_onnx(there), TEXT)) < 0.1


def test_a_draft_with_an_lm_head_of_its_own_is_not_offered(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="LM head of its own"):
        pack(save_checkpoint(tmp_path / "model", decoder("mistral")), tmp_path / "draft.zst")


def changed(packed: Path, out: Path, change: Callable[[dict[str, Any], dict[str, str]], object]) -> Path:
    """The file with other tensors or facts."""
    data = ZstdDecompressor().decompress(packed.read_bytes())
    header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors, facts = load(data), header["__metadata__"]
    change(tensors, facts)
    out.write_bytes(ZstdCompressor().compress(save(tensors, facts)))
    return out


def longer(facts: dict[str, str]) -> None:
    """Tell of a layer more than there is."""
    told = msgspec.json.decode(facts["flexspec_draft"])
    told["layers"].append(told["layers"][0])
    facts["flexspec_draft"] = msgspec.json.encode(told).decode()


BAD: dict[str, Callable[[dict[str, Any], dict[str, str]], object]] = {
    "lacks weights": lambda tensors, _: tensors.pop("widened.1.codes"),
    "another shape": lambda tensors, _: tensors.update(
        {"projected.0.codes": tensors["projected.0.codes"][:-1]}
    ),
    "another type": lambda tensors, _: tensors.update(
        {"projected.0.codes": tensors["projected.0.codes"].astype(np.int32)}
    ),
    "not finite": lambda tensors, _: tensors["projected.0.scales"].fill(np.nan),
    "few rows": lambda tensors, _: tensors.update({"embedding.codes": tensors["embedding.codes"][:-1]}),
    "ids that are none": lambda tensors, _: tensors.update({"head_ids.npy": np.array([3, 3], np.int32)}),
    "no tokenizer": lambda tensors, _: tensors.pop("tokenizer.json"),
    "a tokenizer that is none": lambda tensors, _: tensors.update(
        {"tokenizer.json": np.arange(9, dtype=np.uint8)}
    ),
    "no facts": lambda _, facts: facts.pop("flexspec_draft"),
    "more layers than there are": lambda _, facts: longer(facts),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_what_is_no_draft_is_refused_and_leaves_nothing(
    packed: Path, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, str]], object]
) -> None:
    with pytest.raises(ModelError, match="cannot be used"):
        write_offered(changed(packed, tmp_path / "bad.zst", change), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zst"]


def test_what_unpacks_to_more_than_twice_its_size_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "bad.zst").write_bytes(ZstdCompressor().compress(bytes(10_000_000)))
    with pytest.raises(ModelError, match="unpacks to 10000000 bytes"):
        write_offered(tmp_path / "bad.zst", tmp_path / "out")


@given(st.data())
def test_any_damage_is_refused(
    packed: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = packed.read_bytes()
    folder = tmp_path_factory.mktemp("damage")
    end = data.draw(st.integers(0, len(whole) - 1))
    (folder / "bad.zst").write_bytes(whole[:end] + data.draw(st.binary(max_size=30)))
    with pytest.raises(ModelError, match="cannot be used"):
        write_offered(folder / "bad.zst", folder / "out")
    assert not has_graphs(folder / "out")
