"""The doctor of a device with keys writes its text under them, and says what is wrong with their file."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq.doctor.checks import State
from flexspec_mq.errors import UsageError
from tests.doctor.setups import EDGE, WORKER, at, look, look_at_worker, named, worker
from tests.keys.deployments_of_keys import KeyedDeployment


async def test_a_text_under_keys_is_seen_to_come_from_its_worker(
    tmp_path: Path, module_mosquitto: PrivateBroker
) -> None:
    keys = KeyedDeployment(tmp_path)
    device = keys.edge_file(EDGE)
    async with worker(module_mosquitto, keys=keys.worker_file(WORKER)):
        findings = await look(at(module_mosquitto), "--keys", str(device))
        text = named(findings, "text")
        assert text.state is State.OK, text
        assert f"4 tokens by worker {WORKER}" in text.detail


async def test_a_device_without_keys_learns_that_it_needs_some(
    tmp_path: Path, module_mosquitto: PrivateBroker
) -> None:
    keys = KeyedDeployment(tmp_path)
    async with worker(module_mosquitto, keys=keys.worker_file(WORKER)):
        text = named(await look(at(module_mosquitto)), "text")
        assert text.state is State.FAILED
        assert "takes messages under keys only" in text.detail


async def test_files_of_another_are_refused_before_anything_is_tried(tmp_path: Path) -> None:
    keys = KeyedDeployment(tmp_path)
    with pytest.raises(UsageError, match="those of the edge other"):
        await look("127.0.0.1:1", "--keys", str(keys.edge_file("other")))
    with pytest.raises(UsageError, match="those of the worker other"):
        await look_at_worker("127.0.0.1:1", "--keys", str(keys.worker_file("other")))
