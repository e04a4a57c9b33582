"""The chart, as Helm itself renders it, is what Kubernetes and our daemons know; values that are none are refused."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from cloud_worker.settings import SERVERS, from_arguments
from cloud_worker.wire import keys_of
from flexspec_mq.errors import UsageError
from lab.testbed.chart import CHART, Replicas, helm, named, render
from lab.testbed.process import Processes
from tests.deploy.files import DEPLOY, PROGRAMS, handed, settings

REGISTRY = "--set=image.registry=r.example/team"
BROKER = ("--set=broker.enabled=true,broker.names={mqtt.example},broker.settings.memory_mb=2000000",)
CASES: Mapping[str, tuple[str, ...]] = {
    "workers": (),
    "broker": BROKER,
    "all": (*BROKER, "--set=autoscaling.enabled=true,podMonitor.enabled=true,worker.cache.size=20Gi"),
    "vllm in the pod": (
        "--set=worker.engine=vllm,vllm.enabled=true,vllm.image=r.example/vllm:v0.33.0,vllm.model=Qwen/Qwen3-8B",
        r"--set=vllm.cache.size=50Gi,vllm.resources.limits.nvidia\.com/gpu=1",
    ),
    "a server of another kind": ("--set=worker.engine=openai,worker.engineUrl=http://llama.ml:8080",),
    "vllm elsewhere": ("--set=worker.engine=vllm,worker.engineUrl=http://vllm.ml:8000",),
    "volumes": ("--set=worker.volumes[0].name=m,worker.volumes[0].persistentVolumeClaim.claimName=m",),
}


def _installed() -> bool:
    try:
        return bool(helm())
    except UsageError:
        return False


pytestmark = pytest.mark.skipif(not _installed(), reason="Helm is not installed: scripts/setup.sh helm")


@pytest.fixture(scope="module", params=CASES)
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return render(REGISTRY, *CASES[request.param])


def pods(manifests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (one["spec"]["template"]["spec"] for one in manifests if one["kind"] == "StatefulSet")


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_kubernetes_takes_it(manifests: list[dict[str, Any]], version: str) -> None:
    checked = [one for one in manifests if one["kind"] not in ("ScaledObject", "PodMonitor")]
    assert len(checked) >= 4
    for manifest in checked:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_what_refers_to_something_else_in_it_finds_that(manifests: list[dict[str, Any]]) -> None:
    sets = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "StatefulSet"}
    labels = [one["template"]["metadata"]["labels"] for one in sets.values()]
    services = {one["metadata"]["name"] for one in manifests if one["kind"] == "Service"}
    assert {one["serviceName"] for one in sets.values()} == services
    for manifest in manifests:
        spec = manifest["spec"]
        selector = spec.get("podSelector", spec.get("selector", {}))
        for wanted in [selector.get("matchLabels", selector)] if selector else []:
            assert any(wanted.items() <= one.items() for one in labels), manifest
        if manifest["kind"] == "ScaledObject":
            assert spec["scaleTargetRef"] == {"kind": "StatefulSet", "name": "flexspec-worker"}
            assert "replicas" not in sets["flexspec-worker"]
            assert 'pod=~"flexspec-worker-[0-9]+"' in spec["triggers"][0]["metadata"]["query"]
    for one in sets.values():
        pod = one["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in one.get("volumeClaimTemplates", ())}
        for container in containers(pod):
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= volumes
            ports = {port["name"] for port in container.get("ports", ())}
            probes = [probe for key, probe in container.items() if key.endswith("Probe")]
            assert {probe["httpGet"]["port"] for probe in probes if "httpGet" in probe} <= ports


def test_pods_have_no_rights_and_no_token(manifests: list[dict[str, Any]]) -> None:
    for pod in pods(manifests):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        assert str(pod["securityContext"]["runAsUser"]) in (DEPLOY / "Containerfile").read_text()
        for container in containers(pod):
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"]
            assert not rights["allowPrivilegeEscalation"]
            assert rights["capabilities"] == {"drop": ["ALL"]}


def test_the_daemons_know_their_settings_and_images_are_ours(manifests: list[dict[str, Any]]) -> None:
    images = (DEPLOY / "Containerfile").read_text()
    for pod in pods(manifests):
        (container,) = pod["containers"]
        stage = re.fullmatch(r"r\.example/team/flexspec-([\w-]+):[\d.]+", container["image"])
        assert stage is not None
        assert f" AS {stage[1]}\n" in images
        env = variables(container)
        if container["args"][0] == "flexspec-broker-deployed":
            assert (DEPLOY / "compose" / container["args"][0]).exists()
            config = settings(["flexspec-broker", "run"], env).settings
            assert config.listener.memory_mb == 2_000_000
            assert env["FLEXSPEC_NAMES"].split()[:2] == ["mqtt.example", "flexspec-broker.prod.svc"]
            continue
        config = settings(container["args"], env).settings
        servers = config.worker.engine != "auto"
        assert (stage[1] == "worker-servers") == servers == (config.worker.engine_url is not None)
        assert pod["terminationGracePeriodSeconds"] > config.worker.drain + 5
        (port,) = container["ports"]
        assert (port["containerPort"], config.metrics.metrics_anywhere) == (config.metrics.metrics_port, True)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("image.registry=", "image.registry: where the images"),
        ("worker.enigne=own", "additional properties 'enigne' not allowed"),
        ("worker.engine=other", "must be one of 'own', 'vllm', 'openai'"),
        ("worker.drain=30s", "got string, want integer"),
        ("worker.engine=vllm", "give worker.engineUrl"),
        ("worker.engineUrl=http://a", "is for worker.engine=vllm and openai"),
        ("vllm.enabled=true", "needs worker.engine=vllm"),
        ("worker.replicas=9", "is above worker.most"),
        ("worker.settings.drain=9", "worker.settings.drain: the chart sets it"),
        ("autoscaling.enabled=true,autoscaling.min=9", "autoscaling.min: is above worker.most"),
    ],
)
def test_values_that_cannot_be_are_refused_with_what_to_do(value: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        render(REGISTRY, "--set", value)


async def test_a_replica_gets_its_own_identity_and_can_use_it(tmp_path: Path) -> None:
    secrets = {"flexspec-w1": handed("cloud.toml").parent}
    async with Processes() as processes:
        replicas = Replicas(named(render(REGISTRY), "StatefulSet"), secrets, tmp_path, processes)
        own = await replicas.identity(1)
        # As in a pod that is started anew: the volume of the copy is the same.
        assert await replicas.identity(1) == own
        (worker,) = replicas.pod["containers"]
        command = [word.replace("/run/flexspec/worker", str(own)) for word in worker["args"]]
        config = from_arguments(PROGRAMS[command[0]][1].parse_args(command[1:])).settings
        assert config.worker.worker == "w1"
        assert keys_of(config.worker) is not None
        assert {path.stat().st_mode & 0o777 for path in own.iterdir()} == {0o600}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):  # for as long as there is no Secret
                await replicas.identity(0)


def test_the_broker_of_the_chart_is_made_for_its_workers_and_run(tmp_path: Path) -> None:
    (container,) = named(render(REGISTRY, *BROKER), "StatefulSet", "broker")["spec"]["template"]["spec"][
        "containers"
    ]
    program = tmp_path / "flexspec-broker"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    script, directory = container["args"]
    env = {**variables(container), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(
        [DEPLOY / "compose" / script, directory], env=env, capture_output=True, text=True, check=True
    )
    names = "mqtt.example", "flexspec-broker.prod.svc", "flexspec-broker.prod.svc.cluster.local"
    assert said.stdout.splitlines() == [
        " ".join(["init", directory, *(f"--name {name}" for name in names)]),
        " ".join(["add-worker", directory, *(f"w{number}" for number in range(8)), "--version base"]),
        f"run {directory}",
    ]


def test_the_chart_knows_the_engines() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"]["worker"]["properties"]["engine"]["enum"] == ["own", *SERVERS]


def test_the_chart_has_the_version_of_the_wheel() -> None:
    version = re.search(r'__version__ = "(.*)"', (DEPLOY.parent / "flexspec_mq" / "__init__.py").read_text())
    assert version is not None
    assert f"version: {version[1]}\nappVersion: {version[1]}\n" in (CHART / "Chart.yaml").read_text()
