"""The compact target: the bits of transformers' own code, whatever shares the forward."""

import random
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexspec_mq.errors import UsageError
from flexspec_mq.models.compact.exact import ExactModel
from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.invariance.proof import prove
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.load import load_target, load_text
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput
from tests.models.tiny_checkpoints import save, save_base
from tests.models.tiny_models import built
from tests.models.tiny_packed import read

KINDS = ("llama", "tied, biases everywhere", "wide heads, all keys", "llama3", "linear", "qwen2", "qwen3")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TEXT = random.Random(3).choices(range(320), k=200)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exact")
    return {kind: save(root / str(place), built(kind)) for place, kind in enumerate(KINDS)}


def exact(folder: Path, dtype: str) -> ExactModel:
    return Checkpoint(folder, load_text(folder), DTYPES[dtype]).load()


def transformers_own(folder: Path, dtype: str, shapes: Shapes) -> PackedModel:
    """transformers' modules, with products of the same shapes."""
    return PackedModel(load_target(folder, dtype=dtype, attn_implementation=register()).model, shapes)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*product(KINDS, ("bfloat16", "float32")), ("llama", "float16"), ("wide heads, all keys", "float16")],
)
def test_every_step_rounds_where_transformers_rounds(kind: str, dtype: str, folders: dict[str, Path]) -> None:
    """So the bits are the same, but where a joined matrix is so narrow that its kernel sums in another order."""
    model = exact(folders[kind], dtype)
    wanted = read(transformers_own(folders[kind], dtype, model.shapes), TEXT, [1, 1, 5, 60, 3])
    found = read(model, TEXT, [1, 1, 5, 60, 3])
    assert wanted.std() > 0.1
    if dtype == "bfloat16":
        assert torch.equal(found, wanted)
    else:
        assert (found - wanted).abs().max() < (1e-4 if dtype == "float32" else 2e-2)


def test_all_of_a_model_lies_on_its_device(folders: dict[str, Path]) -> None:
    """Asked without a GPU, on a device that computes nothing."""
    meta = torch.device("meta")
    checkpoint = Checkpoint(folders["qwen3"], load_text(folders["qwen3"]), torch.bfloat16, device=meta)
    model = checkpoint.load(Shapes(2, 64, 4, 64, 128))
    kvs = [model.new_kv(), model.new_kv()]
    for text in (TEXT[:70], TEXT[:3]):
        logits = model.forward([ModelInput(kv, text, 2) for kv in kvs])
        assert (logits.shape, logits.device) == ((4, 320), meta)


@pytest.mark.parametrize(("kind", "dtype"), [("llama", "float32"), ("qwen3", "bfloat16")])
def test_it_is_proved(kind: str, dtype: str, folders: dict[str, Path]) -> None:
    proof = prove(exact(folders[kind], dtype))
    assert proof.exact, str(proof)


@pytest.mark.parametrize("kind", ["llama", "tied, biases everywhere", "qwen3"])
def test_few_bits_are_another_target_and_exact_to_itself(kind: str, folders: dict[str, Path]) -> None:
    text = load_text(folders[kind])
    checkpoint = Checkpoint(folders[kind], text, torch.bfloat16, "int8")
    native = Checkpoint(folders[kind], text, torch.bfloat16)
    model, whole = checkpoint.load(), native.load()
    found, wanted = (read(one, TEXT, [1, 5, 60]) for one in (model, whole))
    distance = float((found - wanted).norm() / wanted.norm())
    assert 0.001 < distance < 0.05
    assert torch.equal(read(checkpoint.load(), TEXT, [60, 5, 1]), found), "another worker's bits are the same"
    proof = prove(model)
    assert proof.exact, str(proof)
    assert checkpoint.candidate().architecture != native.candidate().architecture


def test_few_bits_need_bfloat16(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="beside int8 weights all is bfloat16"):
        Checkpoint(folders["llama"], load_text(folders["llama"]), torch.float32, "int8")


def test_another_weight_is_another_candidate(tmp_path: Path) -> None:
    folder = save(tmp_path / "other", built("llama"))
    before = Checkpoint(folder, load_text(folder), torch.bfloat16).candidate()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] += 1.0
    save_file(tensors, folder / "model.safetensors")
    after = Checkpoint(folder, load_text(folder), torch.bfloat16).candidate()
    assert before.weights != after.weights
    assert before.architecture == after.architecture


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of the default model, whose products have the sizes of all."""
    return save_base(tmp_path_factory.mktemp("real") / "base", 2)


@pytest.mark.model
def test_the_default_model_has_the_bits_of_transformers(real: Path) -> None:
    rng, model = random.Random(4), exact(real, "bfloat16")
    text = [rng.randrange(model.vocab_size) for _ in range(300)]
    pieces = [130, 1, 1, 5, 9, 40]
    wanted = read(transformers_own(real, "bfloat16", model.shapes), text, pieces)
    assert torch.equal(read(model, text, pieces), wanted)


@pytest.mark.model
def test_the_default_model_is_proved(real: Path) -> None:
    proof = prove(exact(real, "bfloat16"))
    assert proof.exact, str(proof)
