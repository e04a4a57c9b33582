"""With what a worker drafts: a model where there is one for its target, and lookups where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_worker.engine import draft
from cloud_worker.settings import WorkerSettings
from flexspec_mq.errors import ModelError

FINGERPRINT = bytes(16)


def load(target: str, drafts: str, said: list[str]) -> str | None:
    """Name of what the worker drafts with."""
    found = draft.load(WorkerSettings(target=target, draft=drafts), FINGERPRINT, 128, said.append)
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
