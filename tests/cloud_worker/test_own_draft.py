"""With what a worker drafts: a model where there is one for its target, and lookups where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_worker.engine import draft
from cloud_worker.settings import WorkerSettings
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.load import LoadedText, load_text
from tests.edge_node.api.served import speech
from tests.models.tiny_checkpoints import TEMPLATE, byte_level_tokenizer, save, tiny_llama


def load(target: str, drafts: str, said: list[str], of: LoadedText | None = None) -> str | None:
    """Name of what the worker drafts with."""
    found = draft.load(WorkerSettings(target=target, draft=drafts), of or speech(), said.append)
    return None if found is None else found.name


def test_a_target_without_a_draft_is_left_to_lookups() -> None:
    said: list[str] = []
    assert load("/models/mine", "auto", said) == "lookup"
    assert load("default", "lookup", said) == "lookup"
    assert load("/models/mine", "none", said) is None
    assert said == []


def test_a_default_draft_that_does_not_load_is_told_and_left_to_lookups() -> None:
    """Its vocabulary is another one than that of this target."""
    said: list[str] = []
    assert load("default", "auto", said) == "lookup"
    assert any("left to lookups" in line for line in said)


def test_one_that_was_asked_for_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load("/models/mine", str(tmp_path / "none"), [])


def test_any_model_with_the_targets_vocabulary_drafts_whatever_its_chat_template(tmp_path: Path) -> None:
    target = load_text(
        save(tmp_path / "target", tiny_llama(), byte_level_tokenizer(("cat", "dog"), TEMPLATE))
    )
    other = save(tmp_path / "other", tiny_llama(), byte_level_tokenizer(("cat", "dog"), TEMPLATE + " "))
    assert str(load("mine", str(other), [], target)).startswith("other, ")
    swapped = save(tmp_path / "swapped", tiny_llama(), byte_level_tokenizer(("dog", "cat"), TEMPLATE))
    with pytest.raises(UsageError, match="tokens as ours, and some of them are others"):
        load("mine", str(swapped), [], target)
