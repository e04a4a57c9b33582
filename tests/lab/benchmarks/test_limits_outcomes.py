"""The benchmark that asks policies to keep limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.benchmarks.policies.compared import COMPARED
from lab.benchmarks.policies.limits import ENERGY, LATENCY, LEVELS, Outcome, main, summary
from lab.simulator.cost import keep_times
from lab.simulator.recording import keep_recording
from tests.lab.simulator.recordings import TIMES, made


def test_each_limit_of_each_policy_has_an_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording, times = tmp_path / "texts.json", tmp_path / "times.json"
    keep_recording(recording, made(texts=2, prompt=20))
    keep_times(times, TIMES)
    files = ["--recording", str(recording), "--times", str(times), "--answers", "2"]
    assert main([*files, "--links", "4g", "--conditions", "0"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    (rows,) = found.values()
    assert set(rows) == {*COMPARED, "any"}
    for policy in COMPARED:
        assert [(one["limit"], one["level"]) for one in rows[policy]] == [(ENERGY, level) for level in LEVELS]
        assert all(one["best"] == pytest.approx(1 / one["level"]) for one in rows[policy])
    assert [(one["limit"], one["level"]) for one in rows["any"]] == [
        (LATENCY, level) for level in LEVELS for _ in range(2)
    ]
    assert all(one["ratio"] > 0.2 for of in rows.values() for one in of)


def test_the_table_counts_what_was_kept_of_what_could_be() -> None:
    found = [
        Outcome(ENERGY, 1.05, 0.9, 0.95, "kept"),
        Outcome(ENERGY, 1.05, 1.1, 0.95, "exceeded"),
        Outcome(ENERGY, 1.05, 1.3, 1.2, "kept"),
    ]
    (*_, line) = summary({"rl": found}).splitlines()
    assert line.split() == [ENERGY, "1.05", "rl", "3", "2", "1", "1.10", "2", "1"]
