"""Outages of a link meet an answer, and the time between two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexspec_mq.errors import UsageError
from lab.benchmarks.outages import BEGINS_S, cases_of, main, plan_of
from lab.testbed.link.impairment import Impairment
from tests.lab.link.plans import needs_namespaces
from tests.models.tiny_checkpoints import save_pair


def test_each_case_has_an_outage_of_its_own_and_the_link_has_no_other() -> None:
    cases = cases_of([2.0, 30.0])
    impaired = Impairment(plan_of("tunnel", cases, 3), "down").outages.between(0.0, cases[-1][1] + 900.0)
    begins = [(start + BEGINS_S, length) for length, start in cases]
    assert [tuple(span) for span in impaired] == [
        pytest.approx((begin, begin + length)) for begin, length in begins
    ]


@pytest.mark.parametrize("lengths", [[0.0], [-1.0], [500.0], [2.0, 2.0]])
def test_lengths_that_are_none(lengths: list[float]) -> None:
    with pytest.raises(UsageError, match="lengths"):
        cases_of(lengths)


def test_an_unknown_profile_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--profile", "pigeon"]) == 2
    assert "pigeon" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "name", "answers"),
    [
        pytest.param(["--lengths", "1.5", "--killed"], "1.5 s", 1, marks=needs_namespaces),
        (["--lengths", "--killed", "1.5", "--streams", "3", "--tokens", "500"], "broker 1.5 s", 3),
    ],
)
@pytest.mark.usefixtures("in_checkout")
@pytest.mark.timeout(200)
def test_real_daemons_over_an_outage_and_with_a_broker_that_is_killed(
    flags: list[str], name: str, answers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = save_pair(tmp_path)
    assert main(["--target", models["target"], "--draft", models["draft"], "--tries", "1", *flags]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert {case: len(took) for case, took in results.items()} == {name: answers}
    # Texts of tiny models are short: one may be over before the outage is.
    assert -1.8 < min(results[name]) <= max(results[name]) < 10.0
