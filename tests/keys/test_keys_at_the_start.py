"""Files of keys that cannot be used end a daemon before it loads anything; what is refused is in its figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloud_worker.__main__ import main as cloud
from cloud_worker.metrics import WorkerMetrics
from edge_node.cli.main import main as edge
from edge_node.completion.metrics import Metrics as EdgeMetrics
from lab.testbed.memory_broker import MemoryBroker
from tests.daemons import check, edge_at, read, wanting, worker_at
from tests.keys.deployments_of_keys import KeyedDeployment


def figures(page: bytes, name: str) -> dict[str, float]:
    """Values of a counter by reason."""
    return {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if sample.name == f"{name}_total"
    }


@pytest.mark.parametrize("program", ["cloud", "edge"])
def test_a_file_of_another_name_ends_the_daemon_at_once(
    tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = KeyedDeployment(tmp_path)
    if program == "cloud":
        code = cloud(["--worker", "w1", "--keys", str(keys.worker_file("w2")), "--target", "no-such"])
    else:
        code = edge(
            ["serve", "--edge", "kitchen", "--keys", str(keys.edge_file("cellar")), "--draft", "no-such"]
        )
    said = capsys.readouterr().err
    assert code == 2
    assert "are those of the" in said
    assert "give it the files of its own name" in said


async def test_what_is_not_believed_is_counted_by_reason(tmp_path: Path) -> None:
    keys, broker = KeyedDeployment(tmp_path), MemoryBroker()
    async with (
        worker_at(broker.link, "w1", keys=keys.worker_file("w1")) as daemon,
        edge_at(broker.link, "keyed", keys=keys.edge_file("keyed")) as keyed,
        edge_at(broker.link, "bare") as bare,
        edge_at(
            broker.link, "strange", keys=KeyedDeployment(tmp_path).edge_file("strange"), give_up=0.3
        ) as strange,
    ):
        await check(keyed, [wanting(1)])
        for node in (bare, strange):
            _, finish = await read(node.generate(wanting(2)))
            assert finish.error is not None
        at_worker = figures(WorkerMetrics(daemon.worker).page(), "flexspec_worker_unbelieved")
        assert at_worker["unkeyed"] == 1
        assert at_worker["credential"] >= 1
        assert at_worker["forged"] == at_worker["revoked"] == 0
        at_edge = figures(EdgeMetrics(keyed).page(), "flexspec_edge_unbelieved")
        assert set(at_edge) == set(at_worker)
        assert not any(at_edge.values())
