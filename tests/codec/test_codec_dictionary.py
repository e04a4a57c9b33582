"""The dictionary that ships, and the program that trains it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flexspec_mq.codec.compression import CURRENT, DICTIONARIES, ZSTD, dictionary
from training.dictionary import load_text, main, split_by_prompt

ROWS = json.loads(Path(__file__).with_name("unseen_rows.json").read_text(encoding="utf-8"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """The unseen rows in several disguises, as an ``.npz`` file of the kind that training reads."""
    disguised = []
    for shift in range(6):
        for row in ROWS:
            words = [token + shift for token in row["prompt"][24:-6]]
            disguised.append((row["prompt"][:24] + words + row["prompt"][-6:], row["answer"]))
    lengths = [len(prompt) + len(answer) for prompt, answer in disguised]
    path = tmp_path / "text.npz"
    np.savez(
        path,
        ids=np.array([token for prompt, answer in disguised for token in prompt + answer], dtype=np.uint16),
        start=np.cumsum([0, *lengths]),
        prompt_len=np.array([len(prompt) for prompt, _ in disguised], dtype=np.int32),
        temperature=np.full(len(disguised), 0.7, dtype=np.float32),
    )
    return path


def test_every_dictionary_ships_and_is_small() -> None:
    assert DICTIONARIES
    for code in DICTIONARIES:
        data = dictionary(code)
        assert data is not None
        assert 1000 < len(data) <= 64 * 1024
    assert dictionary(ZSTD) is None
    assert CURRENT in DICTIONARIES


def test_the_split_is_by_prompt(text: Path) -> None:
    rows = load_text(text)
    training, test = split_by_prompt(rows + rows)
    assert len(training) + len(test) == 2 * len(rows)
    assert test
    assert not {row.prompt for row in training} & {row.prompt for row in test}


def test_training_twice_gives_the_same_bytes(text: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        assert main([str(text), str(out)]) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert outs[0].read_bytes()[:4] == bytes.fromhex("37a430ec")
