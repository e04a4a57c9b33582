"""Facts about a measurement: processor, versions, the program itself."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import flexspec_mq

_LIBRARIES = (
    *("torch", "transformers", "numpy", "aiomqtt", "paho-mqtt", "msgspec", "zstandard", "llama-cpp-python"),
)
_PACKAGES = ("flexspec_mq", "schemas", "broker", "edge_node", "cloud_worker")
_SBIN = ("/usr/sbin", "/usr/local/sbin")
_DIGEST = 12
_ANSWER = 10.0


def processor() -> str:
    """Its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def installed() -> dict[str, str]:
    """Versions of libraries that are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def versions() -> dict[str, str]:
    """Versions of everything that a run's figures depend on."""
    return {
        "flexspec-mq": f"{flexspec_mq.__version__}, source {_sources()}",
        "python": platform.python_version(),
        "mosquitto": _mosquitto(),
        "kernel": platform.release(),
        **installed(),
    }


def machine() -> dict[str, Any]:
    """Processor and cores."""
    return {"cpu": processor(), "cores": len(os.sched_getaffinity(0))}


def now() -> dict[str, Any]:
    """Time (UTC) and load."""
    return {"at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "load": round(os.getloadavg()[0], 2)}


def digest(data: bytes) -> str:
    """The first digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:_DIGEST]


def _sources() -> str:
    """A digest over the sources of the product, which a version number does not tell apart in a checkout."""
    root = Path(flexspec_mq.__file__).parents[1]
    seen = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            seen.update(f"{path.relative_to(root)}\n".encode())
            seen.update(path.read_bytes())
    return seen.hexdigest()[:_DIGEST]


def _mosquitto() -> str:
    found = shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), *_SBIN]))
    if found is None:
        return "not found"
    try:
        done = subprocess.run([found, "-h"], capture_output=True, text=True, timeout=_ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    first = done.stdout.partition("\n")[0]
    return first.removeprefix("mosquitto version ").strip() or "unknown"
