"""Conditions that several tests of the laboratory need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads that meet after every small product crawl when another process holds one of two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkout as working directory, so that daemons import what lies there."""
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
