"""The chart of ``deploy/helm`` as Helm renders it, and its workers as processes of this machine, without a cluster.

A replica runs what its pod would: the script of the init container on a volume that is laid out as kubelet does, then
the container's arguments and variables. Images, users, limits and networks have no meaning here.
"""

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml

from flexspec_mq.demo.children import python
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.testbed.deployment import free_port
from lab.testbed.process import Process, Processes, output

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "flexspec"
NAMESPACE = "prod"
_PROGRAMS = {"flexspec-cloud": "cloud_worker"}
Manifest = Mapping[str, Any]


def helm() -> str:
    """Path of Helm: beside the Python that runs us, or on PATH.

    Raises:
        UsageError: there is none.
    """
    path = shutil.which(str(Path(sys.executable).with_name("helm"))) or shutil.which("helm")
    if path is None:
        raise UsageError("Helm is not installed", hint="scripts/setup.sh helm")
    return path


def render(*flags: str) -> list[dict[str, Any]]:
    """The manifests that Helm makes of the chart, for a release called flexspec.

    Raises:
        UsageError: Helm refuses the values; says why.
    """
    command = [helm(), "template", "flexspec", str(CHART), "--namespace", NAMESPACE, *flags]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UsageError(done.stderr.strip())
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def named(manifests: Sequence[Manifest], kind: str, part: str = "worker") -> Manifest:
    """The only manifest of a kind for a part."""
    (found,) = (one for one in manifests if one["kind"] == kind and one["metadata"]["name"].endswith(part))
    return found


def secret_volume(folder: Path, sources: Sequence[Manifest], secrets: Mapping[str, Path]) -> None:
    """Lay out a projected volume as kubelet does: files of mode 0440 in a folder behind a symbolic link.

    Args:
        folder: the volume, which is made.
        sources: sources of the volume.
        secrets: folders whose files the Secrets hold.
    """
    data = folder / "..2026_11_29"
    for source in (one["secret"] for one in sources):
        for item in source["items"]:
            file = secrets.get(source["name"], folder / "none") / item["key"]
            if not file.exists():
                assert source["optional"], f"{source['name']} has no {item['key']}"
                continue
            path = data / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, path)
            path.chmod(0o440)
    (folder / "..data").symlink_to(data.name)
    for one in data.iterdir():
        (folder / one.name).symlink_to(Path("..data") / one.name)


@dataclass(slots=True)
class Replicas:
    """Workers as a StatefulSet has them.

    Attributes:
        manifest: the StatefulSet.
        secrets: folders whose files its Secrets hold, by name.
        folder: place of volumes and logs.
        processes: ended with them.
        more: variables in place of the manifest's.
        ports: ports of figures, by replica.
        killed: replicas that outlasted the grace period.
    """

    manifest: Manifest
    secrets: Mapping[str, Path]
    folder: Path
    processes: Processes
    more: Mapping[str, str] = field(default_factory=dict)
    ports: dict[int, int] = field(default_factory=dict)
    killed: list[int] = field(default_factory=list)
    _pods: dict[int, Process] = field(default_factory=dict)

    @property
    def pod(self) -> Mapping[str, Any]:
        """Specification of a pod."""
        spec: Mapping[str, Any] = self.manifest["spec"]["template"]["spec"]
        return spec

    @property
    def grace(self) -> float:
        """Seconds from SIGTERM to SIGKILL."""
        return float(self.pod["terminationGracePeriodSeconds"])

    def reserve(self, number: int) -> int:
        """Port of a replica's figures, which it keeps for good."""
        return self.ports.setdefault(number, free_port())

    async def identity(self, number: int) -> Path:
        """Run the init container of a replica; the folder of its settings.

        Raises:
            FlexSpecError: its script failed, or waits as there is no identity.
        """
        name = f"{self.manifest['metadata']['name']}-{number}"
        volume, own = self.folder / f"{name}.volume", self.folder / name
        if not volume.exists():
            (sources,) = (one["projected"]["sources"] for one in self.pod["volumes"] if "projected" in one)
            secret_volume(volume, sources, self.secrets)
        own.mkdir(exist_ok=True)
        *shell, script = self.pod["initContainers"][0]["command"]
        script = script.replace("/identities", str(volume)).replace("/run/flexspec/worker", str(own))
        await output(f"init container of {name}", ["env", f"POD={name}", *shell, script])
        return own

    async def start(self, number: int) -> float:
        """Start a replica and wait until its probe says that it is ready; seconds that took.

        Raises:
            FlexSpecError: it ended, or it is not ready within the time of its startup probe.
        """
        began = time.perf_counter()
        own = await self.identity(number)
        (worker,) = self.pod["containers"]
        program, *arguments = (word.replace("/run/flexspec/worker", str(own)) for word in worker["args"])
        port = self.reserve(number)
        env = {one["name"]: one["value"] for one in worker["env"]}
        here = {"FLEXSPEC_CLOUD_METRICS_PORT": str(port), "FLEXSPEC_CLOUD_METRICS_HOST": "127.0.0.1"}
        self._pods[number] = pod = await self.processes.start(
            own.name,
            python(_PROGRAMS[program], *arguments),
            env={**env, **here, **self.more},
            log=own.with_suffix(".log"),
        )
        probe = worker["startupProbe"]
        async with asyncio.timeout(probe["periodSeconds"] * probe["failureThreshold"]):
            while not await self.ready(number):
                if not pod.runs:
                    raise FlexSpecError(f"{own.name} ended with code {pod.exit_code}", hint=pod.said[-2000:])
                await asyncio.sleep(worker["readinessProbe"]["periodSeconds"])
        return time.perf_counter() - began

    async def ready(self, number: int) -> bool:
        """Whether the readiness probe of a replica succeeds."""
        (worker,) = self.pod["containers"]
        probe = worker["readinessProbe"]
        url = f"http://127.0.0.1:{self.ports[number]}{probe['httpGet']['path']}"
        try:
            async with httpx2.AsyncClient(timeout=probe["timeoutSeconds"]) as http:
                return (await http.get(url)).is_success
        except httpx2.HTTPError:
            return False

    async def end(self, number: int) -> float:
        """End a replica as kubelet does, with SIGKILL where the grace period is over; seconds that took."""
        pod, began = self._pods.pop(number), time.perf_counter()
        if await pod.end(patience=self.grace) == -signal.SIGKILL:
            self.killed.append(number)
        return time.perf_counter() - began
