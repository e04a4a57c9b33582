"""Policies beside each other in simulated time."""

from __future__ import annotations

import json

import pytest

from lab.simulator import __main__ as policies


def test_each_policy_is_simulated_over_each_link(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--answers", "2"]
    flags += ["--links", "4g", policies.CHANGES, "--policies", "fixed", "rl"]
    found = []
    for _ in range(2):
        assert policies.main(flags) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1])["results"])
    assert found[0] == found[1]
    assert list(found[0]) == ["4g", policies.CHANGES]
    for means in found[0].values():
        assert set(means) == {"streaming", "fixed", "rl"}
        assert all(0.1 < seconds < 60.0 for seconds in means.values())
