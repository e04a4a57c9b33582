"""How much memory the KV cache may take when nobody says, and how many kernels are kept."""

import os
from pathlib import Path

import torch

_SHARE = 4
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_KERNELS = 256
"""Kernels that oneDNN keeps for all threads, one for each shape of a product, 0.3 to 0.6 MB each; it would keep
1,024."""
_PLANS = 32
"""Descriptions of products that torch keeps beside them, 0.3 MB each, in each thread; it would keep 1,024. All layers
of a forward share a few. A description that is made anew costs 2 to 9 microseconds where the kernel is kept."""


def limit_kernels() -> None:
    """Bound what torch and oneDNN keep of products that they have computed; before the first one is.

    Shapes depend on lengths of texts and on who shares a forward, so a worker would meet new ones for days, and grow.
    Values that the environment has already stay.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(_PLANS))


def default_limit(device: str) -> int | None:
    """A quarter of the memory that is available on a device now, in bytes; None where that cannot be known.

    Call it with the model loaded, as that has its share already.
    """
    free = available(device)
    return None if free is None else free // _SHARE


def available(device: str) -> int | None:
    """Bytes that can be allocated on a device without swapping or exceeding a container's limit."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [bound for bound in (_of_machine(_MEMINFO), _of_container(_CGROUP)) if bound is not None]
    return min(found, default=None)


def _of_machine(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kilobytes is None else int(kilobytes) * 1024


def _of_container(cgroup: Path) -> int | None:
    """Bytes that a control group (version 2) leaves; None if there is none, or it has no limit."""
    try:
        limit = (cgroup / "memory.max").read_text(encoding="ascii").strip()
        used = (cgroup / "memory.current").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))
