"""Budgets of an edge node whose broker and worker are processes: what is drafted, and what users are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker.launcher import PrivateBroker
from lab.testbed.process import Process
from tests.integration.processes import start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(mosquitto: PrivateBroker, tiny: Path) -> AsyncIterator[Process]:
    # Its forwards take long beside those of a draft of the same size, so that drafts pay.
    broker, name = f"{mosquitto.host}:{mosquitto.port}", ("--worker", "limits", "--version", "limits")
    slowed = ("lab.slowed", "30", "--broker", broker, *name, "--target", str(tiny), "--ready-json")
    made = await start(*slowed)
    await made.event()
    yield made
    await made.kill()


async def answered(broker: PrivateBroker, draft: Path, *flags: str) -> list[dict[str, Any]]:
    """Figures of two answers of one node."""
    prompts = draft / "prompts.jsonl"
    prompts.write_text('{"prompt": "number 0"}\n{"prompt": "number 1"}\n')
    batch = await start(
        "edge_node",
        *("batch", str(prompts), "--at-once", "1", "--draft", str(draft), "--version", "limits"),
        *("--ignore-eos", "--no-lookup", "--ahead", "0"),
        *("--max-tokens", "60", "--broker", f"{broker.host}:{broker.port}", *flags),
    )
    stats = [(await batch.event(lambda event: event["type"] == "finish"))["stats"] for _ in range(2)]
    await batch.end()
    return stats


@pytest.mark.usefixtures("worker")
@pytest.mark.asyncio(loop_scope="module")
async def test_a_budget_changes_who_drafts_and_what_is_told(mosquitto: PrivateBroker, tiny: Path) -> None:
    # The modelled device keeps 64 cores busy while it drafts, so drafts are what costs.
    preset = ("--energy", "raspberry-pi-5", "--threads", "64")
    free = await answered(mosquitto, tiny, *preset, "--energy-budget", "1000")
    assert all(one["proposed"] >= 20 for one in free)
    assert [one["limits"][0]["state"] for one in free] == ["kept", "kept"]
    tight = await answered(mosquitto, tiny, *preset, "--energy-budget", "0.000001")
    for one in tight:
        (report,) = one["limits"]
        assert (report["name"], report["limit"], report["unit"]) == ("energy_budget", 1e-6, "J per token")
        assert report["state"] == "out_of_reach"
        assert min(report["reach"], report["value"]) > 1e-6
    assert tight[1]["proposed"] < free[1]["proposed"] / 2
