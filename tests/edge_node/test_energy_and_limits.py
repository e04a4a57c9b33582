"""Energy that a text takes, modelled or measured; limits that users set, and batteries."""

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edge_node import energy as edge_energy
from edge_node.cli.main import main as edge
from edge_node.energy import EnergyMeter, MeasuredEnergy, energy_meter
from edge_node.limits import BatteryGauge, LimitOptions
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings, PlanOptions
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.rl import network_of
from flexspec_mq.drafting.interface import Drafted, DraftRequest
from flexspec_mq.energy.meters import Batteries, find_meter
from flexspec_mq.energy.model import DevicePower, ModelledEnergy, RadioPower, Spent
from flexspec_mq.errors import ModelError, UsageError
from lab.policy_training.learner import network_text
from lab.simulator.world import EOS, FINGERPRINT
from lab.testbed.memory_broker import MemoryBroker
from tests.daemons import FakeDrafter, check, link_to, wanting, worker_at
from tests.edge_node.test_commands import WHOLE, generator, written

DEVICE = DevicePower(idle_w=2.0, core_w=3.0)
RADIO = RadioPower(hold_s=1.0, active_w=4.0, tail_s=5.0, tail_w=0.5, up_j=0.001, down_j=0.002)


async def stats(meter: EnergyMeter) -> dict[str, Any]:
    """Figures of one text of a node with that meter."""
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1"), generator(broker, energy=meter) as by:
        figures: dict[str, Any] = (await written(by, **WHOLE))[-1]["stats"]
    return figures


def test_a_modelled_text_by_hand() -> None:
    text = ModelledEnergy("modelled: mine by air", DEVICE, RADIO, cores=2).text(100.0)
    assert text.spent(100.0) == Spent(0.0, "modelled: mine by air")
    text.sent(51, 100.0)
    text.received(62, 103.0)
    text.drafted(0.5)
    # 10 s idle, a second of a core, twice 1 s awake, 2 s and 4 s of tail, 300 bytes of IP each way.
    assert text.spent(110.0).joules == pytest.approx(20 + 3 + 8 + 3 + 0.3 + 0.6)


def test_a_preset_is_taken_with_its_radio_or_with_another() -> None:
    own = energy_meter(EdgeSettings(energy="raspberry-pi-5"))
    other = energy_meter(EdgeSettings(energy="raspberry-pi-5", energy_radio="4g", threads=3))
    assert isinstance(own, ModelledEnergy)
    assert isinstance(other, ModelledEnergy)
    assert own.source == "modelled: raspberry-pi-5 by wifi"
    assert (other.source, other.cores) == ("modelled: raspberry-pi-5 by 4g", 3)
    assert own.radio.awake_s < 1 < other.radio.awake_s
    assert energy_meter(EdgeSettings()) is None


def test_settings_refuse_what_is_no_preset() -> None:
    with pytest.raises(UsageError, match="energy 'toaster' is none of none, measured, raspberry-pi-5"):
        EdgeSettings(energy="toaster")
    with pytest.raises(UsageError, match="energy_radio '6g' is none of ethernet"):
        EdgeSettings(energy_radio="6g")


def test_to_measure_without_a_meter_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_energy, "find_meter", lambda: find_meter(tmp_path))
    with pytest.raises(UsageError, match="no energy can be measured"):
        energy_meter(EdgeSettings(energy="measured"))


def drawn(root: Path, joules: float) -> Batteries:
    """Batteries of which so much energy was drawn since they were full."""
    left = round(1e6 * (1e5 - joules / 3600))
    supply(root, "BAT0", type="Battery", status="Discharging", energy_now=left)
    return Batteries(root)


def test_a_measured_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    meter = MeasuredEnergy(drawn(tmp_path, 0))
    drawn(tmp_path, 3600)
    text = meter.text(1.0)
    text.drafted(5.0)
    drawn(tmp_path, 7200)
    assert text.spent(1.01) == Spent(0.0, "measured: battery")  # that reading is fresh
    assert text.spent(2.0).joules == pytest.approx(3600.0)
    (tmp_path / "BAT0" / "energy_now").unlink()
    with caplog.at_level(logging.WARNING):
        assert text.spent(3.0) == text.spent(4.0) == Spent(None, "measured: battery")
    assert len(caplog.records) == 1


def test_what_was_measured_tells_what_plans_take(tmp_path: Path) -> None:
    meter = MeasuredEnergy(drawn(tmp_path, 0))
    expected = partial(meter.expected, messages=1.0, bytes_up=0.0, bytes_down=0.0)
    assert expected(seconds=0.1, drafting_s=0.0) is None
    text, joules = meter.text(0.0), 0.0
    for number in range(1, 200):
        busy = 0.5 * (number % 2)
        text.drafted(busy)
        joules += 4.0 + 6.0 * busy
        drawn(tmp_path, joules)
        text.spent(float(number))
    assert expected(seconds=0.1, drafting_s=0.0) == pytest.approx(0.4, rel=0.05)
    assert expected(seconds=0.1, drafting_s=0.05) == pytest.approx(0.7, rel=0.05)
    meter.joules(500.0)  # long after: the device did something else
    assert expected(seconds=0.1, drafting_s=0.0) == pytest.approx(0.4, rel=0.05)


async def test_the_figures_of_a_modelled_text() -> None:
    nothing = DevicePower(idle_w=0.0, core_w=0.0)
    found = await stats(ModelledEnergy("modelled: bytes", nothing, RadioPower(up_j=1.0), cores=1))
    assert found["energy_source"] == "modelled: bytes"
    # At least the open and one message a round but the first, each with what IP adds.
    assert found["energy_j"] >= found["bytes_up"] + 249 * found["rounds"]
    assert found["energy_j_per_100"] == pytest.approx(found["energy_j"] / 0.6)
    drafting = DevicePower(idle_w=0.0, core_w=1.0)
    found = await stats(ModelledEnergy("modelled: core", drafting, RadioPower(), cores=1))
    assert 0 < found["energy_j"] < found["seconds"]


class SlowDrafter(FakeDrafter):
    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        time.sleep(0.005)
        return super().draft(wanted)


async def test_texts_of_one_round_of_the_drafter_share_its_energy() -> None:
    broker, began = MemoryBroker(), time.monotonic()
    meter = ModelledEnergy("core", DevicePower(idle_w=0.0, core_w=1.0), RadioPower(), cores=1)
    node = EdgeNode(EdgeSettings(edge="edge"), SlowDrafter(), FINGERPRINT, (EOS,), energy=meter)
    async with worker_at(broker.link, "w1"), node.running(broker.link, link_to("e-edge")):
        texts = await check(node, [wanting(number, limit=20) for number in range(4)])
        took = time.monotonic() - began
    assert 0 < sum(text.spent().joules or 0.0 for text in texts) < took, "it has one core, of a watt"


# Limits

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
        BatteryGauge(Batteries(tmp_path), 0.2)
    supply(tmp_path, "BAT0", type="Battery", capacity=42, status="Discharging", energy_now=10**7)
    gauge = BatteryGauge(Batteries(tmp_path), 0.2)
    assert gauge.left(100.0) == 0.42
    supply(tmp_path, "BAT0", capacity=41)
    assert gauge.left(109.0) == 0.42
    assert gauge.left(110.0) == 0.41
    supply(tmp_path, "AC", type="Mains", online=1)
    assert gauge.left(120.0) is None


def test_weights_that_are_named_are_read_at_the_start(tmp_path: Path) -> None:
    weights = tmp_path / "rl.json"
    weights.write_text(network_text(network_of()), "utf-8")
    options = PlanOptions(policy="rl", policy_weights=weights)
    assert options.new_policy().plan(Observation()).draft_length == options.draft_length
    with pytest.raises(UsageError, match="'closed-form' has no weights"):
        PlanOptions(policy="closed-form", policy_weights=weights)
    with pytest.raises(ModelError, match="cannot be read"):
        PlanOptions(policy="rl", policy_weights=tmp_path / "none.json")
