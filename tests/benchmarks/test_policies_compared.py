"""The benchmark that sets policies beside the best fixed plan in hindsight."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from benchmarks.policies.__main__ import main
from benchmarks.policies.compared import CHANGING, COMPARED, fixed_plans, link_names, plan_of
from flexspec_mq.link.profiles import built_in
from flexspec_mq.simulator.cost import keep_times
from flexspec_mq.simulator.recording import keep_recording
from tests.simulator.recordings import TIMES, made


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    recording, times = tmp_path / "texts.json", tmp_path / "times.json"
    keep_recording(recording, made(texts=2, prompt=20))
    keep_times(times, TIMES)
    return ["--recording", str(recording), "--times", str(times), "--answers", "2"]


def test_each_policy_is_a_share_of_the_best_fixed_plan(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "--links", "4g", CHANGING, "--conditions", "0"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    (rows,) = found.values()
    assert [row["link"] for row in rows] == ["4g", CHANGING]
    for row in rows:
        assert row["fixed_s"][row["best"]] == row["best_s"] == min(row["fixed_s"].values())
        assert row["streaming"] == pytest.approx(row["fixed_s"]["nobody drafts"] / row["best_s"])
        assert all(row[name] > 0.5 for name in COMPARED)


def test_decisions_are_timed_for_each_policy(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--decisions"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert set(found["decision_us"]) == {*COMPARED, "network alone"}
    assert all(value > 0.0 for value in found["decision_us"].values())


def test_the_changing_link_is_another_one_every_so_often() -> None:
    plan = plan_of(CHANGING, 3, None)
    assert len(plan.lasts_s) == len(plan.profile.states) > 2
    for state in plan.profile.states:
        assert msgspec.structs.replace(state, name="", next={}, dwell_s=None) in [
            msgspec.structs.replace(one, name="", next={}, dwell_s=None)
            for profile in built_in().profiles.values()
            for one in profile.states
        ]
    assert {*built_in().profiles, CHANGING} == set(link_names(None))


def test_fixed_plans_are_all_different() -> None:
    plans = fixed_plans()
    assert len(set(plans.values())) == len(plans)
