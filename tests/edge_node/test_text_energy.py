"""What a text takes out of the device, from the node's messages and drafts to the figures."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edge_node import energy as edge_energy
from edge_node.cli.texts import events
from edge_node.completion.generator import CompletionGenerator
from edge_node.completion.options import CompletionOptions
from edge_node.energy import EnergyMeter, MeasuredEnergy, energy_meter
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.energy.meters import Rapl, find_meter
from flexspec_mq.energy.model import DevicePower, ModelledEnergy, RadioPower, Spent
from flexspec_mq.errors import UsageError
from flexspec_mq.models.text import Turn
from lab.simulator.world import EOS, FINGERPRINT
from lab.testbed.memory_broker import MemoryBroker
from tests.daemons import link_to, worker_at
from tests.edge_node.api.served import speech

DEVICE = DevicePower(idle_w=2.0, core_w=3.0)
RADIO = RadioPower(hold_s=1.0, active_w=4.0, tail_s=5.0, tail_w=0.5, up_j=0.001, down_j=0.002)


async def stats(meter: EnergyMeter | None) -> dict[str, object]:
    """Of one text of a node with that meter."""
    broker = MemoryBroker()
    drafter = PromptLookupDrafter(max_context=500)
    node = EdgeNode(EdgeSettings(edge="edge"), drafter, FINGERPRINT, (EOS,), energy=meter)
    options = CompletionOptions(temperature=0.0, seed=4, limit=60, ignore_eos=True)
    async with (
        worker_at(broker.link, "w1"),
        node.running(broker.link, link_to("e-edge")),
    ):
        by = CompletionGenerator(node, speech(), lambda: FixedPolicy(Plan(8, 1, 1)), lambda: 5.0)
        found = [one async for one in events(by, (Turn("user", "hello"),), options, lambda _: None)]
        by.close()
    last: dict[str, object] = found[-1]["stats"]
    return last


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
    monkeypatch.setattr(edge_energy, "find_meter", lambda: find_meter(tmp_path, tmp_path))
    with pytest.raises(UsageError, match="no energy can be measured"):
        energy_meter(EdgeSettings(energy="measured"))


def counter(root: Path, energy: int) -> Path:
    zone = root / "intel-rapl:0"
    zone.mkdir(exist_ok=True)
    for name, value in (("name", "package-0"), ("max_energy_range_uj", 10**9), ("energy_uj", energy)):
        (zone / name).write_text(f"{value}\n")
    return zone


def test_a_measured_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counter(tmp_path, 0)
    meter = MeasuredEnergy(Rapl(tmp_path))
    counter(tmp_path, 1_000_000)
    text = meter.text(1.0)
    text.drafted(5.0)
    counter(tmp_path, 4_500_000)
    assert text.spent(1.01) == Spent(0.0, "measured: rapl")  # that reading is fresh
    assert text.spent(2.0) == Spent(3.5, "measured: rapl")
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    with caplog.at_level(logging.WARNING):
        assert text.spent(3.0) == text.spent(4.0) == Spent(None, "measured: rapl")
    assert len(caplog.records) == 1


async def test_the_figures_of_a_modelled_text() -> None:
    nothing = DevicePower(idle_w=0.0, core_w=0.0)
    found = await stats(ModelledEnergy("modelled: bytes", nothing, RadioPower(up_j=1.0), cores=1))
    sent = found["energy_j"]
    assert isinstance(sent, float)
    assert found["energy_source"] == "modelled: bytes"
    # At least the open and one message a round but the first, each with what IP adds.
    assert sent >= float(str(found["bytes_up"])) + 249 * float(str(found["rounds"]))
    assert found["energy_j_per_100"] == pytest.approx(sent / 0.6)


async def test_drafting_is_part_of_it() -> None:
    device = DevicePower(idle_w=0.0, core_w=1.0)
    found = await stats(ModelledEnergy("modelled: core", device, RadioPower(), cores=1))
    busy, seconds = found["energy_j"], found["seconds"]
    assert isinstance(busy, float)
    assert isinstance(seconds, float)
    assert 0 < busy < seconds
