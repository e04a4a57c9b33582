"""Conditions that several tests of the laboratory need."""

from pathlib import Path

import pytest


@pytest.fixture
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkout as working directory, so that daemons import what lies there."""
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
