"""Proofs of batch-invariance that were made before, kept under everything that they depend on.

A proof costs some hundred forwards. It is decided by the bytes of the weights as they are loaded, the code that runs
them, the libraries, the processor and the settings of threads and kernels. A digest of all that names an entry and
seals it, so that an entry can only vouch for what it was made for; whatever is unknown here makes another proof.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import ModelError
from flexspec_mq.models.cache import cache_folder
from flexspec_mq.models.invariance.proof import Proof, prove, proving_head
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.sampling import choose

if TYPE_CHECKING:
    from flexspec_mq.models.invariance.target import TargetModel

MOST = 128
"""Entries that are kept, of bases and of heads; the one that was written longest ago goes first."""

_VOLATILE = (
    "processor", "cpu MHz", "bogomips", "BogoMIPS", "apicid", "initial apicid", "core id", "physical id",
)  # fmt: skip
"""Lines of /proc/cpuinfo that differ from one core or minute to the next."""
_VARIABLES = (
    "ATEN_", "CUBLAS_", "CUDA_", "DNNL_", "GOMP_", "KMP_", "MKL_", "NVIDIA_", "OMP_", "ONEDNN_",
    "TORCH_",
)  # fmt: skip
"""Beginnings of environment variables that choose kernels."""

_MOST_ROWS = 8
"""Rows to which a single one is padded at most."""
_CONTEXT = 32
"""Tokens before it."""
_TURNS = 5
_BETTER = 0.03
"""Other padding than the least has to be better by so much: two numbers of rows that are alike differ by chance."""

Facts = dict[str, str]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    shapes: Shapes
    proof: Proof
    seal: str
    """Digest of the rest and of all that it was made for."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that is not proved yet.

    Attributes:
        build: makes it, with shapes that are known or with those that this machine needs.
        weights: digest of them.
        architecture: all that decides how they are used.
        source: the library's file with its code, if it runs through one.
        device: where.
        kind: kind of its weights, as status documents say it.
    """

    build: Callable[[Shapes | None], TargetModel]
    weights: str
    architecture: str
    device: torch.device
    source: Path | None = None
    kind: str = "native"


def proved(
    candidate: Candidate,
    shapes: Shapes | None = None,
    *,
    again: bool = False,
    progress: Callable[[float], None] | None = None,
) -> tuple[TargetModel, Proof, bool]:
    """A model that reads several sessions, and the proof for it: remembered, or made now and kept.

    Args:
        candidate: under the thread count that it will be used with.
        shapes: shapes of products; by default quick ones that this machine needs, which are remembered too.
        again: make the proof even if it is remembered.
        progress: as for `prove`.

    Returns:
        The model, the proof, and whether it was remembered. A proof that cannot be read is made anew, one that cannot
        be kept is only not remembered.

    Raises:
        ModelError: the model cannot be made.
    """
    facts = facts_of(candidate, shapes)
    entry = None if again else _read(facts)
    if entry is not None:
        return candidate.build(entry.shapes), entry.proof, True
    model = candidate.build(shapes)
    if shapes is None and candidate.device.type == "cpu":
        model.shapes = quickest(model)
    proof = prove(model, progress=progress)
    _keep(facts, model.shapes, proof)
    return model, proof, False


def proving_remembered(
    candidate: Candidate, model: TargetModel, name: str, head: str, *, again: bool = False
) -> Generator[float, None, tuple[Proof, bool]]:
    """Find or make the proof of a head, in steps as `proving_head`, and say whether it was remembered.

    Args:
        candidate: under the thread count that it is used with.
        model: the candidate's model.
        name: name of the head.
        head: digest of its manifest, which decides its weights.
        again: make the proof even if it is remembered.
    """
    facts = facts_of(candidate, model.shapes) | {"head": head}
    entry = None if again else _read(facts)
    if entry is not None:
        return entry.proof, True
    proof = yield from proving_head(model, name)
    _keep(facts, model.shapes, proof)
    return proof, False


def quickest(model: TargetModel) -> Shapes:
    """The model's shapes, with as many rows at least as make a forward of one row the quickest.

    Libraries have kernels for each number of rows, and those for one or two may be slower than those for four: on an
    AMD EPYC with bf16 instructions oneDNN takes a fifth longer. Rows of padding change no bit.

    It takes 35 forwards of one row at most. The model's shapes stay as they are.

    Args:
        model: under the thread count that it will be used with, on a processor whose work is done when it returns.
    """
    given = model.shapes
    most = _MOST_ROWS if given.max_rows is None else min(_MOST_ROWS, given.max_rows)
    choices = [replace(given, min_rows=least) for least in range(given.min_rows, most + 1)]
    if len(choices) < 2:
        return given
    kv = model.new_kv()
    model.forward([ModelInput(kv, [0] * _CONTEXT, 0)])
    seconds = dict.fromkeys(choices, float("inf"))
    try:
        for _ in range(_TURNS):
            for shapes in choices:
                model.shapes = shapes
                began = time.perf_counter()
                model.forward([ModelInput(kv, [0], 1)])
                seconds[shapes] = min(seconds[shapes], time.perf_counter() - began)
                kv.roll_back(_CONTEXT)
    finally:
        model.shapes = given
    best = min(choices, key=seconds.__getitem__)
    return best if seconds[best] < seconds[given] * (1.0 - _BETTER) else given


def facts_of(candidate: Candidate, shapes: Shapes | None) -> Facts:
    """All that shapes and proof for this model depend on, each as a digest or in words."""
    return {
        "weights": candidate.weights,
        "architecture": candidate.architecture,
        "shapes": str(shapes),
        "code": digest(path.read_bytes() for path in (*our_code(), candidate.source) if path is not None),
        "libraries": f"torch {torch.__version__} {torch.version.git_version} libc {' '.join(platform.libc_ver())}",
        "build": torch.__config__.show(),
        "threads": f"{torch.__config__.parallel_info()} {len(os.sched_getaffinity(0))} cores",
        "kernels": f"{_switches()} {torch.backends.cpu.get_cpu_capability()}",
        "variables": repr(sorted(item for item in os.environ.items() if item[0].startswith(_VARIABLES))),
        "processor": f"{platform.machine()} {_processor()}",
        "device": f"{candidate.device} {_accelerator(candidate.device)}",
    }


def our_code() -> list[Path]:
    """The files that decide which tokens a model gives: all of models, and of sampling."""
    folders = (Path(inspect.getfile(ModelInput)).parent, Path(inspect.getfile(choose)).parent)
    return sorted(file for folder in folders for file in folder.rglob("*.py"))


def digest(parts: Iterable[Any]) -> str:
    """SHA-256 of parts, each with its length."""
    sum_of_all = hashlib.sha256()
    for part in parts:
        sum_of_all.update(len(part).to_bytes(8, "big"))
        sum_of_all.update(part)
    return sum_of_all.hexdigest()


def _switches() -> str:
    backends = torch.backends
    return (
        f"mkldnn {backends.mkldnn.enabled} tf32 {backends.cuda.matmul.allow_tf32} {backends.cudnn.allow_tf32} "
        f"reduced {backends.cuda.matmul.allow_bf16_reduced_precision_reduction} "
        f"{backends.cuda.matmul.allow_fp16_reduced_precision_reduction} matmul {torch.get_float32_matmul_precision()} "
        f"deterministic {torch.are_deterministic_algorithms_enabled()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.partition("\t")[0].strip() not in _VOLATILE}))


def _accelerator(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    driver = Path("/proc/driver/nvidia/version")
    return (
        f"{torch.cuda.get_device_properties(device)} cudnn {torch.backends.cudnn.version()} "  # type: ignore[no-untyped-call]
        f"{driver.read_text('utf-8') if driver.is_file() else ''}"
    )


def _path(facts: Facts) -> Path:
    """The file of an entry.

    Raises:
        ModelError: there is no folder for it.
    """
    return cache_folder("proofs") / f"{digest([msgspec.json.encode(facts)])}.json"


def _seal(facts: Facts, shapes: Shapes, proof: Proof) -> str:
    return digest([msgspec.json.encode((facts, shapes, proof))])


def _read(facts: Facts) -> _Entry | None:
    """An entry; None if it is missing, damaged, or of something else."""
    try:
        entry = msgspec.json.decode(_path(facts).read_bytes(), type=_Entry)
    except (OSError, msgspec.DecodeError, ModelError):
        return None
    return entry if entry.seal == _seal(facts, entry.shapes, entry.proof) else None


def _keep(facts: Facts, shapes: Shapes, proof: Proof) -> None:
    """Write an entry, whole or not at all, and forget the oldest ones; where that cannot be, it is not remembered."""
    entry = _Entry(shapes, proof, _seal(facts, shapes, proof))
    try:
        path = _path(facts)
        with whole(path) as part:
            part.write_bytes(msgspec.json.encode(entry))
        kept = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        for old in kept[:-MOST]:
            old.unlink(missing_ok=True)
    except (OSError, ModelError):
        return
