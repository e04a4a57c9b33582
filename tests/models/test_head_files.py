"""Heads as files: what peft saves is read, and whatever a head must not be is refused with what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from flexspec_mq.errors import ModelError
from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.head import LoraDelta
from flexspec_mq.models.head_files import ADAPTER, CONFIG, FULL, read_full, read_lora
from flexspec_mq.models.invariance.lora_bank import LoraBank
from flexspec_mq.models.load import load_text
from flexspec_mq.models.matrices import Plain
from flexspec_mq.models.shape import Shape
from flexspec_mq.models.weights import fingerprint_of, weights_fingerprint
from tests.models.tiny_checkpoints import edit, edit_tensors, save, write
from tests.models.tiny_heads import save_full, save_lora
from tests.models.tiny_models import built

FLOOR = 1


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("base") / "base", built("tied, biases everywhere"))


@pytest.fixture(scope="module")
def shape(base: Path) -> Shape:
    return Shape.from_config(load_text(base).config)


@pytest.fixture
def lora(base: Path, tmp_path: Path) -> Path:
    return save_lora(base, tmp_path / "lora", rank=4, floor=FLOOR)


def test_an_adapter_of_peft_is_read(base: Path, shape: Shape, tmp_path: Path) -> None:
    folder = save_lora(
        base,
        tmp_path / "lora",
        rank=4,
        floor=FLOOR,
        lora_alpha=6,
        modules_to_save=["model.norm"],
        rank_pattern={"down_proj": 2},
        target_modules=["q_proj", "down_proj", "lm_head"],
        save={"save_embedding_layers": False},
    )
    head = read_lora(folder, shape, FLOOR)
    saved = load_file(folder / ADAPTER)
    assert {index: set(modules) for index, modules in head.layers.items()} == {
        1: {"q", "down"},
        2: {"q", "down"},
    }
    delta = head.layers[2]["down"]
    name = "base_model.model.model.layers.2.mlp.down_proj.lora_"
    assert torch.equal(delta.down, saved[f"{name}A.weight"])
    assert torch.equal(delta.up, saved[f"{name}B.weight"])
    assert (delta.rank, delta.scale) == (2, 3.0)
    assert (head.layers[1]["q"].rank, head.layers[1]["q"].scale) == (4, 1.5)
    assert isinstance(head.lm_head, LoraDelta)
    assert head.norm is not None


def test_root_scaling_is_what_peft_computes(base: Path, shape: Shape, tmp_path: Path) -> None:
    folder = save_lora(base, tmp_path / "lora", rank=4, floor=FLOOR, use_rslora=True, lora_alpha=6)
    assert read_lora(folder, shape, FLOOR).layers[1]["o"].scale == 3.0


def test_a_whole_lm_head_is_read(base: Path, shape: Shape, tmp_path: Path) -> None:
    folder = save_lora(base, tmp_path / "lora", rank=4, floor=FLOOR, modules_to_save=["lm_head"])
    found = read_lora(folder, shape, FLOOR).lm_head
    assert isinstance(found, torch.Tensor)
    assert found.shape == (shape.vocab_size, shape.width)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "below the floor": ({"layers_to_transform": [0, 1]}, "layer 0", r"layers_to_transform=\[1, …, 2\]"),
    "every norm": ({"modules_to_save": ["norm"]}, "norm inside of a layer", r"\['model\.norm'\]"),
    "a copy of the embedding": (
        {"target_modules": ["q_proj", "lm_head"]},
        "which belongs to the base",
        "`flexspec head import` leaves a copy",
    ),
    "an embedding": ({"modules_to_save": ["embed_tokens"]}, "embed", "no head may have one that was trained"),
    "DoRA": ({"use_dora": True}, "use_dora=True", "plain LoRA"),
    "biases": ({"bias": "all"}, "bias='all'", "plain LoRA"),
    "biases of additions": ({"lora_bias": True}, "lora_bias=True", "plain LoRA"),
    "several scales": ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern", "plain LoRA"),
    "a start that moves the base": ({"init_lora_weights": "pissa"}, "pissa", "plain LoRA"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_head_must_not_do_is_refused(what: str, base: Path, shape: Shape, tmp_path: Path) -> None:
    options, message, hint = REFUSED[what]
    folder = save_lora(base, tmp_path / "lora", rank=4, floor=FLOOR, **options)
    with pytest.raises(HeadError, match=message) as caught:
        read_lora(folder, shape, FLOOR)
    assert caught.match(hint)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / ADAPTER), folder / "adapter_model.bin")
    (folder / ADAPTER).unlink()


Q = "base_model.model.model.layers.1.self_attn.q_proj.lora_"


def copied(part: str, instead: str) -> Callable[[Path], None]:
    """Damage: a second copy of a LoRA pair, under a name in which `part` is replaced."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / ADAPTER)
        more = {
            f"{Q}{half}".replace(part, instead): tensors[f"{Q}{half}"] for half in ("A.weight", "B.weight")
        }
        edit_tensors(ADAPTER, more)(folder)

    return change


NORM = "base_model.model.model.norm.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (pickled, "pickle files are never read"),
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), "PEFT saved"),
    "configuration that is no JSON": (write(CONFIG, "{"), "PEFT saved"),
    "another kind": (edit(CONFIG, peft_type="IA3"), "LoraConfig"),
    "no alpha": (edit(CONFIG, lora_alpha=None), "save it with peft again"),
    "an unknown setting": (edit(CONFIG, use_new_thing=True), "plain LoRA"),
    "cut off": (lambda folder: os.truncate(folder / ADAPTER, 500), "save it"),
    "empty": (lambda folder: save_file({}, folder / ADAPTER), "train the adapter"),
    "one half": (edit_tensors(ADAPTER, {f"{Q}A.weight": None}), "save the adapter again"),
    "another width": (edit_tensors(ADAPTER, {f"{Q}A.weight": torch.ones(4, 60)}), "another base"),
    "ranks that disagree": (edit_tensors(ADAPTER, {f"{Q}B.weight": torch.ones(64, 5)}), "another base"),
    "a vector": (edit_tensors(ADAPTER, {f"{Q}A.weight": torch.ones(64)}), "ranks go from"),
    "too high a rank": (
        edit_tensors(ADAPTER, {f"{Q}A.weight": torch.ones(300, 64), f"{Q}B.weight": torch.ones(64, 300)}),
        "ranks go from",
    ),
    "integers": (
        edit_tensors(ADAPTER, {f"{Q}A.weight": torch.ones(4, 64, dtype=torch.int8)}),
        "floating point",
    ),
    "not a number": (
        edit_tensors(ADAPTER, {f"{Q}B.weight": torch.full((64, 4), torch.nan)}),
        "train the head again",
    ),
    "a layer that the base lacks": (copied(".1.", ".3."), "another base"),
    "a module that is none": (copied("q_proj", "rotary"), "target_modules among"),
    "a bias": (edit_tensors(ADAPTER, {f"{Q.removesuffix('lora_')}bias": torch.ones(64)}), "modules_to_save"),
    "a norm of another width": (edit_tensors(ADAPTER, {NORM: torch.ones(63)}), "another base"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_adapter_is_refused(what: str, lora: Path, shape: Shape) -> None:
    damage, hint = DAMAGES[what]
    read_lora(lora, shape, FLOOR)
    damage(lora)
    with pytest.raises(HeadError, match=hint):
        read_lora(lora, shape, FLOOR)


def test_full_layers_are_read(base: Path, shape: Shape, tmp_path: Path) -> None:
    head = read_full(save_full(base, tmp_path / "full", floor=FLOOR), shape, FLOOR)
    assert head.floor == FLOOR
    assert head.norm is not None
    assert head.lm_head is None  # it is tied
    assert min(int(name.split(".")[2]) for name in head.tensors if "layers" in name) == FLOOR


BAD_LAYERS: dict[str, tuple[str, torch.Tensor | None, str]] = {
    "a layer too low": ("model.layers.0.mlp.up_proj.weight", torch.ones(160, 64), "backbone"),
    "a layer too high": ("model.layers.3.mlp.up_proj.weight", torch.ones(160, 64), "another base"),
    "the embedding": ("model.embed_tokens.weight", torch.ones(320, 64), "no head may change"),
    "a stranger": ("model.layers.1.mlp.router.weight", torch.ones(3), "no head may change"),
    "a gap": ("model.layers.2.input_layernorm.weight", None, "save all layers"),
    "another width": ("model.layers.1.mlp.up_proj.weight", torch.ones(160, 60), "another base"),
}


@pytest.mark.parametrize("what", BAD_LAYERS)
def test_bad_full_layers_are_refused(what: str, base: Path, shape: Shape, tmp_path: Path) -> None:
    name, tensor, hint = BAD_LAYERS[what]
    folder = save_full(base, tmp_path / "full", floor=FLOOR)
    edit_tensors(FULL, {name: tensor})(folder)
    with pytest.raises(HeadError, match=hint):
        read_full(folder, shape, FLOOR)


def test_pickled_full_layers_are_not_read(shape: Shape, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "head.bin")
    with pytest.raises(HeadError, match="pickle files are never read"):
        read_full(tmp_path, shape, FLOOR)


def test_a_base_is_known_by_its_weights(base: Path, tmp_path: Path) -> None:
    """Not by how they are spread over files."""
    tensors = load_file(base / "model.safetensors")
    found = weights_fingerprint(base)
    assert len(found) == 32
    assert found == fingerprint_of(sorted(tensors.items()))
    names = sorted(tensors)
    where = {name: f"part{place % 2}.safetensors" for place, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert weights_fingerprint(tmp_path) == found
    tensors[names[3]].view(-1)[5] += 1
    (tmp_path / "other").mkdir()
    save_file(tensors, tmp_path / "other" / "model.safetensors")
    assert weights_fingerprint(tmp_path / "other") != found
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        weights_fingerprint(tmp_path / "missing")


RANKS = st.lists(st.integers(1, 40), min_size=1, max_size=3)


@given(st.lists(st.tuples(st.sampled_from("abcd"), RANKS), max_size=8))
def test_places_of_additions_never_overlap_nor_move(changes: list[tuple[str, list[int]]]) -> None:
    """And each begins at a multiple of the power of two that holds it."""
    bank = LoraBank(8, (4, 4, 4), Plain, torch.empty(0))
    for name, ranks in changes:
        before = {slot for slot in bank.layout if slot[0] != name}
        if name in bank.owners:
            bank.drop(name)
            assert set(bank.layout) == before
            continue
        bank.hold(
            name,
            {
                part: LoraDelta(torch.ones(rank, 8), torch.ones(4, rank), 2.0)
                for part, rank in enumerate(ranks)
            },
        )
        assert before <= set(bank.layout)
        taken = [column for _, first, end in bank.layout for column in range(first, end)]
        assert len(taken) == len(set(taken))
        assert bank.columns % 64 == 0
        assert max(taken) < bank.columns
        for _, first, end in bank.layout:
            grain = max(8, 1 << (end - first - 1).bit_length())
            assert first % grain == 0
