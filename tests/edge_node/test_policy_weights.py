"""Weights of one's own for a learned policy, as a setting of an edge node."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.settings import PlanOptions
from flexspec_mq.controller.network import network_text, shipped_network
from flexspec_mq.controller.plan import Observation
from flexspec_mq.errors import ModelError, UsageError


def test_weights_that_are_named_are_read_at_the_start(tmp_path: Path) -> None:
    weights = tmp_path / "rl.json"
    weights.write_text(network_text(shipped_network()), "utf-8")
    options = PlanOptions(policy="rl", policy_weights=weights)
    assert options.new_policy().plan(Observation()).draft_length == options.draft_length
    with pytest.raises(UsageError, match="'closed-form' has no weights"):
        PlanOptions(policy="closed-form", policy_weights=weights)
    with pytest.raises(ModelError, match="cannot be read"):
        PlanOptions(policy="rl", policy_weights=tmp_path / "none.json")
