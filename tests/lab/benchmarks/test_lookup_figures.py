"""The benchmark of lookups counts what it says, and its fit finds the prior that outcomes were drawn from."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from flexspec_mq.drafting.prompt_lookup import Found, Support
from flexspec_mq.drafting.prompt_lookup_confidence import prior
from lab.benchmarks import lookup
from lab.benchmarks.lookup import Outcome, fitted, log_loss, shares
from training.draft.rows import TextRows, save_rows


def drawn(count: int) -> list[Outcome]:
    rng = random.Random(1)
    made = []
    for _ in range(count):
        found = Found(
            1, rng.choice([2, 3, 5, 9, 17, 30]), rng.choice([Support.ALONE, Support.ALL, Support.FEW])
        )
        temperature = rng.choice([0.0, 0.7, 1.0])
        made.append(Outcome(0, temperature, found, rng.random() < prior(found, temperature)))
    return made


def test_the_fit_finds_what_outcomes_were_drawn_from() -> None:
    outcomes = drawn(20_000)
    made = fitted(outcomes)
    assert set(made) == {Support.ALONE, Support.ALL, Support.FEW}
    ours = log_loss(outcomes, [prior(one.found, one.temperature) for one in outcomes])
    anew = log_loss(outcomes, [lookup._likely(made, one) for one in outcomes])
    assert anew <= ours
    assert ours - anew < 0.002
    assert log_loss(outcomes, [0.5] * len(outcomes)) > ours + 0.1


def test_shares_are_counted_by_support_length_and_temperature() -> None:
    found = [
        Outcome(0, 0.0, Found(1, length, Support.ALONE), right)
        for length, right in ((2, True), (2, False), (7, True))
    ]
    found.append(Outcome(0, 1.0, Found(1, 32, Support.ALL), right=False))
    rows = shares(found)
    assert [row[:2] for row in rows] == [["alone, T = 0", 3], ["all, T = 1", 1]]
    assert rows[0][2:] == [None, 0.5, None, None, 1.0, None, None, None, None]
    assert rows[1][-1] == 0.0


def test_a_periodic_text_is_found_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = [1, 2, 3, 4, 5] * 20
    text = TextRows(
        ids=np.array(row * 4, dtype=np.int64),
        start=np.arange(5, dtype=np.int64) * len(row),
        prompt_len=np.full(4, 10, dtype=np.int32),
        temperature=np.zeros(4, dtype=np.float32),
    )
    path = tmp_path / "text.npz"
    save_rows(path, text)
    assert lookup.main(["--text", str(path), "--every", "1"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert results["rows"] == 4
    assert results["lookups"] == results["right"] == results["tokens"] == 4 * 90
    assert results["log_loss"]["shipped prior"] < 0.3


@pytest.mark.parametrize("flags", [[], ["--text", "nowhere.npz"], ["--every", "0"]])
def test_what_cannot_be_looked_into_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert lookup.main(flags) in {2, 3}
    assert capsys.readouterr().out == ""
