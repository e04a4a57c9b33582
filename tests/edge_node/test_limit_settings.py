"""Limits as users give them, and meters and batteries that tell whether they are kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from edge_node.cli.main import main as edge
from edge_node.energy import MeasuredEnergy, energy_meter
from edge_node.limits import BatteryGauge, LimitOptions
from edge_node.settings import EdgeSettings, PlanOptions
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.rl import network_of
from flexspec_mq.energy.battery import Batteries
from flexspec_mq.energy.meters import Rapl
from flexspec_mq.errors import ModelError, UsageError
from lab.policy_training.learner import network_text

METER = energy_meter(EdgeSettings(energy="raspberry-pi-5"))


def test_limits_have_the_units_of_the_code() -> None:
    options = LimitOptions(energy_budget=0.3, battery_floor=20.0, latency_target=80.0)
    limits = options.limits(PlanOptions(), METER)
    assert limits is not None
    assert (limits.energy_budget, limits.battery_floor, limits.latency_target) == (0.3, 0.2, 0.08)
    assert limits.energy is METER
    assert LimitOptions().limits(PlanOptions(policy="fixed"), None) is None


def test_a_policy_of_the_settings_keeps_them() -> None:
    limits = LimitOptions(energy_budget=0.3).limits(PlanOptions(), METER)
    assert PlanOptions().new_policy().plan(Observation()).draft_length == 4
    assert PlanOptions().new_policy(limits).plan(Observation()).draft_length == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--energy-budget", "0.3"], "an energy budget needs"),
        (["--energy-budget", "0"], "energy_budget"),
        (["--battery-floor", "120"], "battery_floor"),
        (["--latency-target", "50", "--policy", "fixed"], "keeps no --latency-target"),
        (["--policy", "other"], "closed-form, fixed, rl"),
    ],
)
def test_a_node_refuses_such_limits_before_it_loads_anything(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edge(["ask", "hi", *arguments]) == 2
    said = capsys.readouterr().err
    assert words.replace("_", "-") in said.replace("_", "-")


def supply(root: Path, name: str, **files: object) -> None:
    (root / name).mkdir(exist_ok=True)
    for file, value in files.items():
        (root / name / file).write_text(f"{value}\n")


def test_a_battery_is_read_seldom_and_only_while_it_feeds_the_device(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none tells its charge"):
        BatteryGauge(Batteries(tmp_path))
    supply(tmp_path, "BAT0", type="Battery", capacity=42, status="Discharging", energy_now=10**7)
    gauge = BatteryGauge(Batteries(tmp_path))
    assert gauge.left(100.0) == 0.42
    supply(tmp_path, "BAT0", capacity=41)
    assert gauge.left(109.0) == 0.42
    assert gauge.left(110.0) == 0.41
    supply(tmp_path, "AC", type="Mains", online=1)
    assert gauge.left(120.0) is None


def test_what_was_measured_tells_what_plans_take(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()

    def drawn(joules: float) -> None:
        for name, value in (
            ("name", "package-0"),
            ("max_energy_range_uj", 10**12),
            ("energy_uj", int(1e6 * joules)),
        ):
            (zone / name).write_text(f"{value}\n")

    drawn(0)
    meter = MeasuredEnergy(Rapl(tmp_path))
    expected = partial(meter.expected, messages=1.0, bytes_up=0.0, bytes_down=0.0)
    assert expected(seconds=0.1, drafting_s=0.0) is None
    text, joules = meter.text(0.0), 0.0
    for number in range(1, 200):
        busy = 0.5 * (number % 2)
        text.drafted(busy)
        joules += 4.0 + 6.0 * busy
        drawn(joules)
        text.spent(float(number))
    assert expected(seconds=0.1, drafting_s=0.0) == pytest.approx(0.4, rel=0.05)
    assert expected(seconds=0.1, drafting_s=0.05) == pytest.approx(0.7, rel=0.05)
    meter.joules(500.0)  # long after: the device did something else
    assert expected(seconds=0.1, drafting_s=0.0) == pytest.approx(0.4, rel=0.05)


def test_weights_that_are_named_are_read_at_the_start(tmp_path: Path) -> None:
    weights = tmp_path / "rl.json"
    weights.write_text(network_text(network_of()), "utf-8")
    options = PlanOptions(policy="rl", policy_weights=weights)
    assert options.new_policy().plan(Observation()).draft_length == options.draft_length
    with pytest.raises(UsageError, match="'closed-form' has no weights"):
        PlanOptions(policy="closed-form", policy_weights=weights)
    with pytest.raises(ModelError, match="cannot be read"):
        PlanOptions(policy="rl", policy_weights=tmp_path / "none.json")
