"""Heads in the compact target: a row's bits are those of its version alone, and those of peft."""

import random
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexspec_mq.errors import LocalProtocolError
from flexspec_mq.heads.manifest import Canary, HeadError
from flexspec_mq.models.compact.exact import ExactModel
from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.head import FullHead, Head
from flexspec_mq.models.head_files import read_full, read_lora
from flexspec_mq.models.invariance import proof_cache
from flexspec_mq.models.invariance.proof import Proof, proving_head
from flexspec_mq.models.invariance.target import TargetModel, canary_share
from flexspec_mq.models.load import load_target, load_text
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput
from tests.models.tiny_checkpoints import save
from tests.models.tiny_heads import save_full, save_lora, with_lora
from tests.models.tiny_models import built
from tests.models.tiny_packed import DTYPES, read

T = TypeVar("T")
VERSIONS = ("", "mild", "strong", "full")
TEXT = random.Random(3).choices(range(320), k=100)
FLOOR = 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("heads")
    base = save(root / "base", built("llama"))
    return {
        "base": base,
        "mild": save_lora(base, root / "mild", rank=8, floor=FLOOR),
        "strong": save_lora(
            base,
            root / "strong",
            rank=20,
            floor=2,
            seed=5,
            target_modules=["q_proj", "v_proj", "down_proj", "lm_head"],
            modules_to_save=["model.norm"],
            lora_alpha=30,
            save={"save_embedding_layers": False},
        ),
        "other": save_lora(
            base, root / "other", rank=4, floor=FLOOR, seed=9, modules_to_save=["lm_head"], use_rslora=True
        ),
        "full": save_full(base, root / "full", floor=FLOOR),
    }


def head(folders: dict[str, Path], name: str) -> Head:
    shape = Checkpoint(folders["base"], load_text(folders["base"]), torch.float32).shape
    return (read_full if name == "full" else read_lora)(folders[name], shape, FLOOR)


def fresh(folders: dict[str, Path], dtype: str) -> ExactModel:
    base = folders["base"]
    return Checkpoint(base, load_text(base), DTYPES[dtype]).load()


@cache
def holding(dtype: str, base: Path) -> tuple[ExactModel, dict[str, torch.Tensor]]:
    """A model that holds all versions, and what each says alone, in a model that holds no other."""
    folders = {name: base.parent / name for name in ("base", *VERSIONS[1:], "other")}
    alone = {}
    for name in VERSIONS:
        model = fresh(folders, dtype)
        if name:
            model.hold(name, head(folders, name))
        alone[name] = read(model, TEXT, [1] * len(TEXT), name)
    model = fresh(folders, dtype)
    for name in ("strong", "full", "mild"):
        model.hold(name, head(folders, name))
    return model, alone


def finish(steps: Generator[float, None, T]) -> tuple[T, int]:
    """Result of a proof that runs in steps, and the number of steps."""
    count = 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as ended:
            return ended.value, count


def prove_head(model: TargetModel, name: str) -> Proof:
    return finish(proving_head(model, name))[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_versions_differ(dtype: str, folders: dict[str, Path]) -> None:
    _, alone = holding(dtype, folders["base"])
    for one in VERSIONS:
        for other in VERSIONS:
            changed = (alone[one].argmax(dim=1) != alone[other].argmax(dim=1)).float().mean()
            assert (changed > 0.05) == (one != other)


def test_a_kv_cache_stays_with_its_head(folders: dict[str, Path]) -> None:
    model, alone = holding("bfloat16", folders["base"])
    kv = model.new_kv()
    model.forward([ModelInput(kv, TEXT[:9], 0, "mild")])
    for other in ("", "full", "strong"):
        with pytest.raises(LocalProtocolError, match="KV cache of head 'mild'"):
            model.forward([ModelInput(kv, TEXT[9:10], 1, other)])
    assert torch.equal(model.forward([ModelInput(kv, TEXT[9:10], 1, "mild")]), alone["mild"][9:10])
    kv.roll_back(0)  # what is empty belongs to nobody
    assert torch.equal(model.forward([ModelInput(kv, TEXT[:9], 1, "full")]), alone["full"][8:9])


COMPANY = st.lists(
    st.tuples(st.sampled_from(VERSIONS), st.integers(0, 66), st.integers(1, 33), st.integers(0, 33)),
    min_size=1,
    max_size=7,
)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15)
@given(company=COMPANY)
@example(company=[(name, 10, 1, 1) for name in VERSIONS])
@example(company=[(name, 0, 40, 40) for name in VERSIONS])
def test_whatever_shares_a_forward_changes_no_bit(
    dtype: str, folders: dict[str, Path], company: list[tuple[str, int, int, int]]
) -> None:
    model, alone = holding(dtype, folders["base"])
    inputs, wanted = [], []
    for name, held, count, rows in company:
        kv = model.new_kv()
        if held:
            model.forward([ModelInput(kv, TEXT[:held], 0, name)])
        answer = min(rows, count)
        inputs.append(ModelInput(kv, TEXT[held : held + count], answer, name))
        wanted.append(alone[name][held + count - answer : held + count])
    assert torch.equal(model.forward(inputs), torch.cat(wanted))


@pytest.mark.parametrize("dtype", DTYPES)
def test_holding_and_dropping_leaves_the_others_as_they_were(dtype: str, folders: dict[str, Path]) -> None:
    """In the middle of texts: sessions of the base and of a head go on with the bits that they had."""
    _, alone = holding(dtype, folders["base"])
    model = fresh(folders, dtype)
    model.hold("mild", head(folders, "mild"))
    kvs = {name: model.new_kv() for name in ("", "mild")}
    at = 0
    changes: list[tuple[str, str]] = [
        ("other", "other"),
        ("strong", "strong"),
        ("full", "full"),
        ("other", ""),
        ("again", "other"),
        ("strong", ""),
        ("full", ""),
        ("again", ""),
    ]
    for name, source in changes:
        inputs = [ModelInput(kvs[one], TEXT[at : at + 7], 7, one) for one in kvs]
        for one, rows in zip(kvs, torch.split(model.forward(inputs), 7), strict=True):
            assert torch.equal(rows, alone[one][at : at + 7])
        at += 7
        if source:
            model.hold(name, head(folders, source))
        else:
            model.drop(name)
    assert model.held == ("mild",)
    model.drop("mild")
    with pytest.raises(HeadError, match="no head named 'mild' is held"):
        model.forward([ModelInput(kvs["mild"], TEXT[at : at + 1], 1, "mild")])
    assert torch.equal(model.forward([ModelInput(kvs[""], TEXT[at : at + 1])]), alone[""][at : at + 1])


def test_a_name_is_held_once(folders: dict[str, Path]) -> None:
    model = fresh(folders, "bfloat16")
    model.hold("mild", head(folders, "mild"))
    with pytest.raises(HeadError, match="held already"):
        model.hold("mild", head(folders, "full"))
    with pytest.raises(HeadError, match="held already"):
        model.hold("", head(folders, "full"))
    with pytest.raises(HeadError, match="no head named"):
        model.drop("full")


@pytest.mark.parametrize("name", ["mild", "strong", "other"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_head_says_what_peft_says(name: str, dtype: str, folders: dict[str, Path]) -> None:
    """In bfloat16 the same bits, but where peft's products have so few columns that kernels sum in another order."""
    model = fresh(folders, dtype)
    model.hold(name, head(folders, name))
    theirs = load_target(folders["base"], dtype=dtype, attn_implementation=register()).model
    pieces = [1, 5, 60, 3]
    wanted = read(PackedModel(with_lora(theirs, folders[name]), model.shapes), TEXT, pieces)
    found = read(model, TEXT, pieces, name)
    base = read(model, TEXT, pieces)
    assert (found - base).abs().max() > 1.0
    assert (found - wanted).abs().max() < (1e-3 if dtype == "float32" else 0.06) * wanted.std()
    if dtype == "bfloat16":
        assert (found == wanted).all(dim=1).float().mean() > 0.9
    best = wanted.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > (1e-3 if dtype == "float32" else 0.1)
    assert clear.float().mean() > 0.5
    assert torch.equal(found.argmax(dim=1)[clear], wanted.argmax(dim=1)[clear])


def test_full_layers_are_the_model_that_has_them(folders: dict[str, Path], tmp_path: Path) -> None:
    """The same bits as a checkpoint into which the head's tensors were written."""
    network = load_target(folders["base"], dtype="float32").model
    given = head(folders, "full")
    assert isinstance(given, FullHead)
    missing = network.load_state_dict(dict(given.tensors), strict=False)
    assert not missing.unexpected_keys
    merged = save(tmp_path / "merged", network)
    whole = fresh({"base": merged}, "bfloat16")
    model = fresh(folders, "bfloat16")
    model.hold("full", given)
    assert torch.equal(read(model, TEXT, [1, 60, 5], "full"), read(whole, TEXT, [1, 60, 5]))


def test_heads_are_proved(folders: dict[str, Path]) -> None:
    model, _ = holding("bfloat16", folders["base"])
    for name in VERSIONS[1:]:
        proof = prove_head(model, name)
        assert proof.exact, (name, str(proof))
        assert proof.rows > 60


def test_the_proof_finds_a_head_that_depends_on_its_company(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh(folders, "float32")
    model.hold("mild", head(folders, "mild"))
    real = model.forward
    monkeypatch.setattr(model, "forward", lambda inputs: real(inputs) + 1e-3 * (len(inputs) > 1))
    proof = prove_head(model, "mild")
    assert not proof.exact
    assert proof.differing > 0


def test_a_heads_proof_is_remembered_for_its_digest(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    base = folders["base"]
    source = Checkpoint(base, load_text(base), torch.float32).candidate()
    model = source.build(None)
    model.hold("mild", head(folders, "mild"))

    def proved(digest: str) -> tuple[bool, bool, int]:
        (proof, remembered), count = finish(proof_cache.proving_remembered(source, model, "mild", digest))
        return proof.exact, remembered, count

    exact, remembered, count = proved("11" * 32)
    assert (exact, remembered) == (True, False)
    assert count > 20  # other work fits in between
    assert proved("11" * 32) == (True, True, 0)
    assert proved("22" * 32)[1] is False


def test_canaries_pass_on_their_head_only(folders: dict[str, Path]) -> None:
    model, _ = holding("bfloat16", folders["base"])
    canaries = []
    for start in (0, 40):
        prompt = TEXT[start : start + 12]
        text: list[int] = []
        for _ in range(70):
            logits = model.forward([ModelInput(model.new_kv(), [*prompt, *text], 1, "mild")])
            text.append(int(logits[0].argmax()))
        canaries.append(Canary(tuple(prompt), tuple(text)))
    assert canary_share(model, "mild", canaries) == 1.0
    assert canary_share(model, "", canaries) < 0.5
    assert canary_share(model, "full", canaries) < 0.5
    assert canary_share(model, "mild", ()) == 1.0
    assert canary_share(model, "mild", [Canary(canaries[0].prompt[:1], (5,))]) in {0.0, 1.0}
    changed = Canary(canaries[0].prompt, (*canaries[0].text[:-1], (canaries[0].text[-1] + 1) % 320))
    assert canary_share(model, "mild", [changed]) == pytest.approx(69 / 70)
    with pytest.raises(HeadError, match="beyond the model's 320"):
        canary_share(model, "mild", [Canary((5,), (320,))])


def test_a_base_in_few_bits_takes_heads_too(folders: dict[str, Path]) -> None:
    base = folders["base"]
    model = Checkpoint(base, load_text(base), torch.bfloat16, "int8").load()
    before = read(model, TEXT, [60, 5])
    for name in VERSIONS[1:]:
        model.hold(name, head(folders, name))
        assert prove_head(model, name).exact
    assert torch.equal(read(model, TEXT, [60, 5]), before)


def test_layers_of_another_base_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its biases would be left out."""
    other = save(tmp_path / "biased", built("qwen2"))
    model = Checkpoint(other, load_text(other), torch.bfloat16).load()
    with pytest.raises(HeadError, match=r"lacks model\.layers\.1\.self_attn\.k_proj\.bias"):
        model.hold("full", head(folders, "full"))
    assert model.held == ()
