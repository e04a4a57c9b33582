"""The benchmark that compares policies in simulated time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.benchmarks import policies
from lab.simulator.cost import keep_times
from lab.simulator.recording import keep_recording
from tests.lab.simulator.recordings import TIMES, made


def test_each_policy_is_simulated_over_each_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording, times = tmp_path / "recording.json", tmp_path / "times.json"
    keep_recording(recording, made(texts=2, prompt=20))
    keep_times(times, TIMES)
    flags = ["--recording", str(recording), "--times", str(times), "--answers", "2"]
    flags += ["--links", "4g", policies.CHANGES[0], "--policies", "fixed", "rl"]
    found = []
    for _ in range(2):
        assert policies.main(flags) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1])["results"])
    assert found[0] == found[1]
    assert list(found[0]) == ["4g", policies.CHANGES[0]]
    for means in found[0].values():
        assert set(means) == {"streaming", "fixed", "rl"}
        assert all(0.1 < seconds < 60.0 for seconds in means.values())
