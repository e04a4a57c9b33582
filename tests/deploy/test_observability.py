"""Files for Prometheus, Grafana, Argo and KEDA ask for figures that daemons have."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from broker.launcher import PrivateBroker
from broker.watching import figures as of_broker
from cloud_worker.metrics import WorkerMetrics
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from flexspec_mq.daemon.probes import MetricsOptions
from lab import dashboards
from lab.testbed.metrics import get
from tests.cloud_worker.test_family_at_worker import Place, place, published
from tests.cloud_worker.test_prefix_reuse import engine_of
from tests.edge_node.api.served import served
from tests.edge_node.families import Family

__all__ = ["place"]
ALERTS = dashboards.FOLDER / "alerts.yml"
KINDS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
NAME = re.compile(r"\b(?:flexspec_(?:edge|worker):|flexspec_broker_|process_)\w+")
BY_PATTERN = re.compile(r'__name__=~"([^"]*)"')


def names(page: str) -> Iterator[str]:
    """Names of the samples that a page can have, those of labels that nothing has met yet as well."""
    for family in text_string_to_metric_families(page):
        base = family.name.removesuffix("_total") if family.type == "counter" else family.name
        yield from (base + end for end in KINDS[family.type])


def of_worker(worker: CloudWorker) -> str:
    return WorkerMetrics(worker).pages()["/metrics"]().body.decode()


async def test_every_figure_that_is_asked_for_exists(
    place: Place, mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    alone = CloudWorker(WorkerSettings(worker="w1"), engine_of("w1", kv_bytes=2**20))
    known = {*names(of_worker(alone))}
    async with published(place) as (broker, _), place.worker(broker) as daemon:
        known.update(names(of_worker(daemon.worker)))
    async with served(mosquitto, family=Family().followed(tmp_path / "edge")) as api:
        known.update(names((await api.get("/metrics")).text))
    with of_broker.shown(dict, MetricsOptions(metrics_port=0)) as port:
        known.update(names((await get(port, "/metrics"))[1]))
    asked = {expression.query for expression in dashboards.of_ours()}
    asked.update(
        rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    )
    assert len(asked) > 60
    for query in asked:
        assert not {*NAME.findall(BY_PATTERN.sub("", query))} - known, query
        for pattern in BY_PATTERN.findall(query):
            assert any(re.fullmatch(pattern, name) for name in known), pattern


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("command", ["check config prometheus.yml", "test rules alerts_test.yml"])
def test_promtool_takes_the_rules_and_each_alert_fires_when_it_should(command: str) -> None:
    done = subprocess.run(
        ["promtool", *command.split()], check=False, cwd=dashboards.FOLDER, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "test" in command:
        tested = (dashboards.FOLDER / "alerts_test.yml").read_text()
        assert all(
            f"FlexSpec{name}" in tested for name in re.findall(r"alert: FlexSpec(\w+)", ALERTS.read_text())
        )
