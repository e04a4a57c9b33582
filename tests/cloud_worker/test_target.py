"""Which engine runs a target, with what a worker drafts for it, and what is said where none can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from cloud_worker.engine import draft, target
from cloud_worker.settings import WorkerSettings
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.compact.exact import ExactModel
from flexspec_mq.models.load import LoadedText, load_text
from flexspec_mq.models.packed import PackedModel
from flexspec_mq.models.shape import UnknownModel
from tests.edge_node.api.served import speech
from tests.models.test_compact import SIZES, built
from tests.models.tiny_checkpoints import TEMPLATE, byte_level_tokenizer, save, tiny_llama


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), built("llama"))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the compact engine does not know."""
    config = MistralConfig(**SIZES, sliding_window=16)
    return save(tmp_path_factory.mktemp("windowed"), MistralForCausalLM(config))


@pytest.fixture
def no_proofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def load(folder: Path, **settings: Any) -> target.Target:
    return target.load(WorkerSettings(target=str(folder), **settings), lambda _: None)


@pytest.mark.usefixtures("no_proofs")
def test_the_compact_engine_runs_what_it_knows(llama: Path) -> None:
    found = load(llama)
    assert isinstance(found.model, ExactModel)
    assert (found.engine, found.remembered, found.proof.exact) == ("compact", False, True)
    again = load(llama)
    assert (again.remembered, again.proof) == (True, found.proof)


@pytest.mark.usefixtures("no_proofs")
def test_transformers_runs_the_rest_and_whatever_is_asked_for(llama: Path, windowed: Path) -> None:
    assert isinstance(load(windowed).model, PackedModel)
    found = load(llama, engine="transformers")
    assert (type(found.model), found.engine) == (PackedModel, "transformers")
    assert found.proof.exact


def test_what_was_asked_for_is_not_replaced(windowed: Path) -> None:
    for asked in ({"engine": "compact"}, {"weights": "int8", "version": "eight"}):
        with pytest.raises(UnknownModel, match="sliding window"):
            load(windowed, **asked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
def test_another_device_is_for_transformers(llama: Path) -> None:
    with pytest.raises(UnknownModel, match="runs on cpu, not on cuda"):
        load(llama, engine="compact", device="cuda")


@pytest.mark.usefixtures("no_proofs")
def test_few_bits_need_a_version_of_their_own(llama: Path) -> None:
    with pytest.raises(UsageError, match="another version") as caught:
        load(llama, weights="int8")
    assert "--version base-int8" in caught.value.hint
    found = load(llama, weights="int8", version="base-int8")
    assert found.proof.exact
    assert not load(llama, weights="int4", version="base-int4").remembered


# The worker's own draft


def drafts_with(target: str, drafts: str, said: list[str], of: LoadedText | None = None) -> str | None:
    """Name of what the worker drafts with."""
    found = draft.load(WorkerSettings(target=target, draft=drafts), of or speech(), said.append)
    return None if found is None else found.name


def test_a_target_without_a_draft_is_left_to_lookups() -> None:
    said: list[str] = []
    assert drafts_with("/models/mine", "auto", said) == "lookup"
    assert drafts_with("default", "lookup", said) == "lookup"
    assert drafts_with("/models/mine", "none", said) is None
    assert said == []


def test_a_default_draft_that_does_not_load_is_told_and_left_to_lookups() -> None:
    """Its vocabulary is another one than that of this target."""
    said: list[str] = []
    assert drafts_with("default", "auto", said) == "lookup"
    assert any("left to lookups" in line for line in said)


def test_one_that_was_asked_for_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        drafts_with("/models/mine", str(tmp_path / "none"), [])


def test_any_model_with_the_targets_vocabulary_drafts_whatever_its_chat_template(tmp_path: Path) -> None:
    target = load_text(
        save(tmp_path / "target", tiny_llama(), byte_level_tokenizer(("cat", "dog"), TEMPLATE))
    )
    other = save(tmp_path / "other", tiny_llama(), byte_level_tokenizer(("cat", "dog"), TEMPLATE + " "))
    assert str(drafts_with("mine", str(other), [], target)).startswith("other, ")
    swapped = save(tmp_path / "swapped", tiny_llama(), byte_level_tokenizer(("dog", "cat"), TEMPLATE))
    with pytest.raises(UsageError, match="tokens as ours, and some of them are others"):
        drafts_with("mine", str(swapped), [], target)
