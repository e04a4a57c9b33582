"""A proof is remembered for what it was made for and for nothing else, and a bad entry is as good as none."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flexspec_mq.models.invariance import proof_cache
from flexspec_mq.models.invariance.proof import Proof, prove
from flexspec_mq.models.invariance.proof_cache import MOST, Candidate, facts_of, proved, quickest
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.packed import PackedModel, candidate
from flexspec_mq.models.runner import ModelInput
from tests.models import tiny_packed

tiny = partial(tiny_packed.tiny, layers=1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "flexspec-mq" / "proofs"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Proof]:
    """The proofs that were really made."""
    found: list[Proof] = []

    def counted(model: PackedModel, **options: Any) -> Proof:
        found.append(prove(model, **options))
        return found[-1]

    monkeypatch.setattr(proof_cache, "prove", counted)
    return found


def model() -> Candidate:
    return candidate(tiny("grouped", torch.float32))


def entry(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def test_a_second_start_remembers(made: list[Proof], folder: Path) -> None:
    shares: list[float] = []
    first, proof, remembered = proved(model(), progress=shares.append)
    assert (proof, remembered) == (made[0], False)
    assert shares[-1] == 1.0
    second, proof, remembered = proved(model())
    assert (proof, remembered) == (made[0], True)
    assert second.shapes == first.shapes
    assert len(made) == 1
    assert entry(folder).suffix == ".json"


def test_the_rows_that_this_machine_needs_are_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, _ = proved(model())
    monkeypatch.setattr(Shapes, "for_products", lambda *_: pytest.fail("asked again"))
    assert proved(model())[0].shapes == first.shapes


def test_a_proof_can_be_asked_for_again(made: list[Proof], folder: Path) -> None:
    proved(model())
    assert proved(model(), again=True)[1:] == (made[1], False)
    assert proved(model())[1:] == (made[1], True)
    assert entry(folder)


def test_one_that_failed_is_remembered_as_failed(made: list[Proof]) -> None:
    bad = Shapes(min_rows=1, max_rows=None, attention_rows=1, context_grain=1, value_block=10**9)
    _, proof, _ = proved(candidate(tiny("grouped", torch.bfloat16)), bad)
    assert not proof.exact
    again, *found = proved(candidate(tiny("grouped", torch.bfloat16)), bad)
    assert (again.shapes, *found) == (bad, proof, True)
    assert len(made) == 1


def other_weights() -> Candidate:
    found = tiny("grouped", torch.float32)
    with torch.no_grad():
        found.get_parameter("model.layers.0.mlp.up_proj.weight").view(torch.int32)[3, 5] ^= 1
    return candidate(found)


OTHERS: dict[str, Callable[[], tuple[Candidate, Shapes | None]]] = {
    "weights": lambda: (other_weights(), None),
    "dtype": lambda: (candidate(tiny("grouped", torch.bfloat16)), None),
    "shapes": lambda: (model(), Shapes(64, None, 64, 64, 64)),
    "heads": lambda: (candidate(tiny("all", torch.float32)), None),
    "architecture": lambda: (candidate(tiny("grouped", torch.float32, window=4000)), None),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_model_is_not_vouched_for(what: str, made: list[Proof]) -> None:
    proved(model())
    assert not proved(*OTHERS[what]())[2]
    assert len(made) == 2


def test_other_threads_variables_and_processors_are_not_vouched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [facts_of(model(), None), facts_of(model(), None)]
    torch.set_num_threads(2)
    seen.append(facts_of(model(), None))
    torch.set_num_threads(1)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    seen.append(facts_of(model(), None))
    monkeypatch.delenv("MKL_CBWR")
    monkeypatch.setattr(proof_cache, "_processor", lambda: "another")
    seen.append(facts_of(model(), None))
    differing = [{key for key in seen[0] if facts[key] != seen[0][key]} for facts in seen]
    assert differing == [set(), set(), {"threads"}, {"variables"}, {"processor"}]


def test_all_of_our_code_that_decides_tokens_is_vouched_for() -> None:
    names = {f"{path.parent.name}/{path.name}" for path in proof_cache.our_code()}
    assert names >= {"compact/exact.py", "invariance/attention.py", "models/packed.py", "sampling/choose.py"}


def say(part: str, **changes: object) -> Callable[[Path], object]:
    """Change fields of an entry's part, and leave its seal."""

    def damage(path: Path) -> None:
        entry = json.loads(path.read_text())
        entry[part] |= changes
        path.write_text(json.dumps(entry))

    return damage


def of_other_weights(path: Path) -> None:
    """A whole entry under another one's name."""
    proved(other_weights())
    (other,) = (file for file in path.parent.iterdir() if file != path)
    other.replace(path)


def turn_into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "no JSON": lambda path: path.write_bytes(b"\xff\x00"),
    "another form": lambda path: path.write_bytes(b'{"exact": true}'),
    "of other weights": of_other_weights,
    "other rows": say("shapes", min_rows=9),
    "exact though rows differ": say("proof", exact=True, differing=3),
    "a wrong type": say("proof", exact="yes"),
    "a folder": turn_into_a_folder,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_bad_entry_is_as_good_as_none(kind: str, made: list[Proof], folder: Path) -> None:
    proved(model())
    DAMAGE[kind](entry(folder))
    assert proved(model())[1:] == (made[-1], False)
    if kind != "a folder":  # which nothing replaces; the proof is only not remembered
        assert proved(model())[1:] == (made[-1], True)
    assert entry(folder)


def test_where_nothing_can_be_kept_a_start_proves(
    made: list[Proof], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flexspec-mq").write_text("a file where the folder would be")
    assert proved(model())[1:] == (made[0], False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert proved(model())[1:] == (made[1], False)


def test_the_oldest_entries_go(made: list[Proof], folder: Path) -> None:
    folder.mkdir(parents=True)
    for age in range(MOST + 3):
        path = folder / f"{age}.json"
        path.write_text("{}")
        os.utime(path, ns=(age, age))
    proved(model())
    kept = {path.stem for path in folder.iterdir()}
    assert len(kept) == MOST
    assert not kept & {"0", "1", "2", "3"}
    assert proved(model())[1:] == (made[0], True)


# Padding that makes a forward of one row quicker, and changes no bit of it


class Paced(PackedModel):
    """Forwards of one row take as long as somebody says for their least rows, on a clock of its own."""

    seconds: dict[int, float]
    now = 0.0

    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        if inputs[0].rows:
            self.now += self.seconds[self.shapes.min_rows]
        return super().forward(inputs)


@pytest.mark.parametrize(
    ("shapes", "seconds", "least"),
    [
        # Row counts below the model's minimum or above 8 are never timed.
        ((2, None), {2: 0.03, 3: 0.03, 4: 0.024, 5: 0.025, 6: 0.03, 7: 0.03, 8: 0.03}, 4),
        ((6, None), {6: 0.03, 7: 0.0295, 8: 0.03}, 6),
        ((16, None), {}, 16),
        ((8, None), {}, 8),
        ((2, 2), {}, 2),
    ],
    ids=["quicker", "a difference by chance", "more than the most", "the most", "no choice"],
)
def test_the_least_rows_that_are_quick_are_taken(
    shapes: tuple[int, int | None], seconds: dict[int, float], least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Paced(tiny("grouped", torch.bfloat16))
    model.seconds = seconds
    given = model.shapes = replace(model.shapes, min_rows=shapes[0], max_rows=shapes[1])
    monkeypatch.setattr(proof_cache, "time", SimpleNamespace(perf_counter=lambda: model.now))
    assert quickest(model) == replace(given, min_rows=least)
    assert model.shapes == given
    monkeypatch.setattr(model, "seconds", {})
    if seconds:
        with pytest.raises(KeyError):
            quickest(model)
        assert model.shapes == given  # a failure leaves it as it was


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_padded_rows_have_the_same_bits(dtype: torch.dtype) -> None:
    model = PackedModel(tiny("grouped", dtype))
    given = model.shapes
    ids, results = list(range(3, 40)), []
    for least in range(given.min_rows, max(given.min_rows, 8) + 1):
        model.shapes = replace(given, min_rows=least)
        kv = model.new_kv()
        model.forward([ModelInput(kv, ids, 0)])
        results.append(torch.cat([model.forward([ModelInput(kv, [token], 1)]) for token in (7, 9)]))
    assert all(torch.equal(rows, results[0]) for rows in results)
