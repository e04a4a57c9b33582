"""The benchmark that sets policies beside the best fixed plan in hindsight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.benchmarks.policies import adaptation
from lab.benchmarks.policies.__main__ import main
from lab.benchmarks.policies.adaptation import ADAPTING
from lab.benchmarks.policies.compared import CHANGES, COMPARED, CONDITIONS, link_names
from lab.simulator.clairvoyant.plans import fixed_plans
from lab.simulator.cost import keep_times
from lab.simulator.recording import keep_recording
from lab.testbed.link.profiles import built_in
from tests.lab.simulator.recordings import TIMES, made


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    recording, times = tmp_path / "texts.json", tmp_path / "times.json"
    keep_recording(recording, made(texts=2, prompt=20))
    keep_times(times, TIMES)
    return ["--recording", str(recording), "--times", str(times), "--answers", "2"]


def results(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(arguments) == 0
    (rows,) = json.loads(capsys.readouterr().out.splitlines()[-1])["results"].values()
    return rows


def test_each_policy_is_a_share_of_the_best_fixed_plan_and_a_multiple_of_the_bound(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = results([*files, "--links", "4g", CHANGES[1], "--conditions", "0"], capsys)
    assert [row["link"] for row in rows] == ["4g", CHANGES[1]]
    for row in rows:
        assert row["fixed_s"][row["best"]] == row["best_s"] == min(row["fixed_s"].values())
        assert row["streaming"] == pytest.approx(row["fixed_s"]["nobody drafts"] / row["best_s"])
        assert all(row[name] > 0.5 for name in COMPARED)
        assert 0.0 < row["bound_s"] < row["best_s"]
        assert {*COMPARED, "best", "each", "streaming"} == set(row["regret"])
        for regret in row["regret"].values():
            assert 1.0 <= regret["median"] <= regret["worst_tenth"]
        assert row["regret"]["each"]["median"] <= row["regret"]["best"]["median"]


def test_a_search_finds_what_is_no_slower_than_the_best_plan_of_each_answer(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = results([*files, "--links", "4g", "--conditions", "1", "--search"], capsys)
    assert 1.0 <= row["regret"]["searched"]["median"] <= 1.05 * row["regret"]["each"]["median"]


def test_after_a_step_each_policy_is_set_beside_the_best_plan_from_there_on(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    keep_recording(Path(files[1]), made(texts=2, prompt=20, limit=96))
    rows = results([*files, "--steps", "--quick", "--conditions", "1"], capsys)
    assert [row["step"] for row in rows] == ["wifi to satellite"]
    for row in rows:
        assert set(row["policies"]) == set(ADAPTING)
        for told in row["policies"].values():
            assert told["best"] in fixed_plans()
            assert 0.0 < told["seconds"] < 60.0
            assert 0.8 < told["ratio"] < 3.0
            assert told["streaming"] >= 1.0


def test_a_policy_that_plans_what_is_best_has_adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = fixed_plans()
    monkeypatch.setattr(adaptation, "ADAPTING", ("fixed",))
    recording = made(texts=2, prompt=20, limit=96)
    (step, *_) = adaptation.steps(
        recording, TIMES, CONDITIONS["worker without, target 60 ms slower"], trials=1, seed=0
    )
    shares = {}
    for name in ("nobody drafts", "K 8, W 2"):
        monkeypatch.setattr(adaptation, "BASE", plans[name])
        told = adaptation.adaptation(step)["policies"]["fixed"]
        shares[name] = told["ratio"]
        if told["best"] == name:
            assert told["ratio"] == 1.0
    assert shares["nobody drafts"] > shares["K 8, W 2"] > 0.95


def test_decisions_are_timed_for_each_policy(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--decisions"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert set(found["decision_us"]) == {*COMPARED, "network alone"}
    assert all(value > 0.0 for value in found["decision_us"].values())


def test_links_are_all_profiles_and_those_that_change() -> None:
    assert {*built_in().profiles, *CHANGES} == set(link_names(None))


def test_fixed_plans_are_all_different() -> None:
    plans = fixed_plans()
    assert len(set(plans.values())) == len(plans)
