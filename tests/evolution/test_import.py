"""Adapters as peft itself saves them become heads; what no worker may serve is refused in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from flexspec_mq.cli import main
from flexspec_mq.evolution.check import check_head
from flexspec_mq.heads.manifest import MANIFEST, read_head
from flexspec_mq.models.head_files import ADAPTER, CONFIG
from flexspec_mq.models.load import load_target
from tests.models.tiny_checkpoints import TEMPLATE, byte_level_tokenizer, save, tiny_llama

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")

FLOOR, LAYERS = 2, 4


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Checkpoints, by whether their embeddings are tied."""
    sizes: dict[str, Any] = {
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": 160,
        "initializer_range": 0.2,
    }
    tokenizer = byte_level_tokenizer(template=TEMPLATE)
    return {
        tied: save(tmp_path_factory.mktemp("base"), tiny_llama(tie_word_embeddings=tied, **sizes), tokenizer)
        for tied in (True, False)
    }


@pytest.fixture
def base(bases: dict[bool, Path]) -> Path:
    return bases[True]


def adapter(base: Path, folder: Path, dtype: str = "float32", **changes: Any) -> Path:
    """An adapter that is not trained, but not 0 either, as peft saves it with no wishes of ours."""
    wishes = {
        "target_modules": ["q_proj", "v_proj"],
        "layers_to_transform": [2, 3],
        "lora_alpha": 64,
        **changes,
    }
    model = get_peft_model(
        load_target(base, dtype=dtype).model,
        LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **wishes),
        autocast_adapter_dtype=False,
    )
    model.save_pretrained(str(folder))
    (folder / "training_args.bin").write_bytes(b"a trainer leaves such things behind")
    return folder


def imported(folder: Path, base: Path, out: Path, *flags: str) -> int:
    floor = () if "--floor" in flags else ("--floor", str(FLOOR))
    return main(["head", "import", str(folder), "--base", str(base), "--out", str(out), *floor, *flags])


@pytest.mark.parametrize(
    ("tied", "saved", "dtype", "changes"),
    [
        (True, "float32", "float32", {}),
        (False, "bfloat16", "bfloat16", {}),
        (True, "float32", "bfloat16", {"target_modules": ["q_proj", "lm_head"]}),
        (False, "float32", "bfloat16", {"target_modules": ["q_proj", "lm_head"]}),
        (True, "bfloat16", "float32", {"modules_to_save": ["model.norm"]}),
        (True, "float32", "bfloat16", {"use_rslora": True}),
    ],
)
def test_what_peft_saves_becomes_a_head(
    bases: dict[bool, Path], tmp_path: Path, tied: bool, saved: str, dtype: str, changes: dict[str, Any]
) -> None:
    base = bases[tied]
    folder = adapter(base, tmp_path / "adapter", saved, **changes)
    assert imported(folder, base, tmp_path / "head", "--dtype", dtype) == 0
    manifest = read_head(tmp_path / "head")
    assert (manifest.kind, manifest.floor, manifest.layers, manifest.dtype) == ("lora", FLOOR, LAYERS, dtype)
    assert {file.name for file in manifest.files} == {CONFIG, ADAPTER}
    assert check_head(tmp_path / "head", base)["canaries"] == 1.0
    before, after = load_file(folder / ADAPTER), load_file(tmp_path / "head" / ADAPTER)
    assert all(torch.equal(before[name].to(getattr(torch, dtype)), tensor) for name, tensor in after.items())
    assert {name for name in before if "lora" in name or "norm" in name} == set(after)


def below(base: Path, folder: Path) -> None:
    adapter(base, folder, layers_to_transform=None)


def dora(base: Path, folder: Path) -> None:
    adapter(base, folder, use_dora=True)


def pickled(base: Path, folder: Path) -> None:
    adapter(base, folder)
    (folder / ADAPTER).rename(folder / "adapter_model.bin")


def trained_embedding(base: Path, folder: Path) -> None:
    adapter(base, folder)
    tensors = load_file(folder / ADAPTER)
    tensors["base_model.model.model.embed_tokens.weight"] = torch.ones(300, 16)
    save_file(tensors, folder / ADAPTER)


def too_large(base: Path, folder: Path) -> None:
    adapter(base, folder)
    save_file({name: tensor * 1e6 for name, tensor in load_file(folder / ADAPTER).items()}, folder / ADAPTER)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (below, "the layers below 2 are the family's backbone"),
        (dora, "use_dora=True, which is not computed here"),
        (pickled, "pickle files are never read"),
        (trained_embedding, "no head may have one that was trained"),
        (too_large, "give --dtype bfloat16"),
    ],
)
def test_what_no_worker_serves_is_refused_and_nothing_is_left(
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path, Path], None],
    says: str,
) -> None:
    make(base, tmp_path / "adapter")
    assert imported(tmp_path / "adapter", base, tmp_path / "head", "--dtype", "float16") == 3
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_family_without_a_backbone_takes_adapters_of_all_layers(base: Path, tmp_path: Path) -> None:
    below(base, tmp_path / "adapter")
    assert imported(tmp_path / "adapter", base, tmp_path / "head", "--floor", "0") == 0
    assert check_head(tmp_path / "head", base)["layers"] == list(range(LAYERS))


def test_commands_that_want_a_head_name_the_one_that_makes_it(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = adapter(base, tmp_path / "adapter")
    assert main(["head", "check", str(folder), "--base", str(base)]) == 3
    assert "`import` makes one of an adapter that PEFT has saved" in capsys.readouterr().err
    assert imported(folder, base, tmp_path / "head") == 0
    manifest = json.loads((tmp_path / "head" / MANIFEST).read_text())
    (tmp_path / "head" / MANIFEST).write_text(json.dumps({**manifest, "dtype": "float32"}))
    assert main(["head", "check", str(tmp_path / "head"), "--base", str(base)]) == 3
    assert "`flexspec head import FOLDER --dtype float32` converts" in capsys.readouterr().err
