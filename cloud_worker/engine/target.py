"""Loading the target and proving it, before anything is promised to anybody."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cloud_worker.engine.memory import limit_kernels
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.models.compact.load_exact import Checkpoint, check_few_bits
from flexspec_mq.models.invariance.proof import Proof
from flexspec_mq.models.invariance.proof_cache import Candidate, proved
from flexspec_mq.models.invariance.target import TargetModel
from flexspec_mq.models.load import LoadedText, find_model, load_target, load_text, torch_device, torch_dtype
from flexspec_mq.models.memory import collapse, trim
from flexspec_mq.models.shape import Shape, UnknownModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloud_worker.settings import WorkerSettings

_FEW = 1.2
"""Most bytes a weight of a GGUF file that is computed in 8-bit integers when nobody says."""
_NATIVE_VERSION = "base"
"""The version that workers serve when nobody says another."""


@dataclass(frozen=True, slots=True)
class Target:
    """A target that is ready to verify; `model` may hold heads beside its base.

    Attributes:
        loaded: Text side of it: tokenizer and configuration, without its weights.
        model: The model that runs it.
        engine: ``compact`` or ``transformers``.
        candidate: Source of the model, for proofs of heads.
        remembered: The proof was made at an earlier start.
    """

    loaded: LoadedText
    model: TargetModel
    proof: Proof
    engine: str
    candidate: Candidate
    remembered: bool = False


def _every(seconds: float, say: Callable[[str], None]) -> Callable[[float], None]:
    """Say how far the proof is, at once and then not more often than every so many seconds."""
    said = -seconds

    def progress(share: float) -> None:
        nonlocal said
        if time.monotonic() - said >= seconds:
            said = time.monotonic()
            say(f"proving that verification does not depend on what shares a forward: {share:.0%}")

    return progress


def load(settings: WorkerSettings, say: Callable[[str], None]) -> Target:
    """Load the model and prove batch-invariance on this device, dtype and thread count.

    Raises:
        ModelError: the model cannot be loaded or packed.
    """
    loaded, candidate, engine = candidate_of(settings, say)
    model, proof, remembered = proved(candidate, again=settings.prove, progress=_every(2.0, say))
    trim()
    if settings.device == "cpu":
        collapse()
    return Target(loaded, model, proof, engine, candidate, remembered)


def candidate_of(settings: WorkerSettings, say: Callable[[str], None]) -> tuple[LoadedText, Candidate, str]:
    """The model, not yet proved, and the name of its engine: the compact one where it knows the model.

    Raises:
        ModelError: the model cannot be loaded, or not by the engine that is asked for.
        UsageError: settings that do not go together.
    """
    if settings.weights == "int8" and settings.version == _NATIVE_VERSION:
        raise UsageError(
            "a target with int8 weights writes texts of its own, so it is another version",
            hint=f"name it: --version {settings.version}-int8",
        )
    dtype = torch_dtype(settings.dtype)
    torch.set_num_threads(settings.threads)
    limit_kernels()
    if settings.engine != "transformers" or settings.weights == "int8":
        try:
            loaded = load_text(settings.target, progress=say)
            return loaded, _compact(loaded, settings, dtype, say), "compact"
        except UnknownModel as error:
            if settings.engine == "compact" or settings.weights == "int8":
                raise
            say(f"{error.message}; transformers runs the target")
    # These import transformers' models, which the compact engine does without.
    from flexspec_mq.models.packed import candidate, register

    model = load_target(
        settings.target,
        device=settings.device,
        dtype=settings.dtype,
        attn_implementation=register(),
        progress=say,
    )
    return model, candidate(model.model), "transformers"


def _compact(
    loaded: LoadedText, settings: WorkerSettings, dtype: torch.dtype, say: Callable[[str], None]
) -> Candidate:
    if not isinstance(loaded.source, Path):
        raise UnknownModel(
            f"the compact engine reads folders, not the model hub's {loaded.source}",
            hint="download the target first, or use --engine transformers",
        )
    device, weights, source = (
        torch_device(settings.device),
        settings.weights,
        Path(settings.target).expanduser(),
    )
    if weights == "auto":
        weights = _usual_weights(source, loaded, dtype, device, say)
    if weights == "native" or not source.is_file():
        found = find_model(settings.target, progress=say)
        assert isinstance(found, Path)  # noqa: S101  as the text's source is
        source = found
    return Checkpoint(source, loaded, dtype, weights, device, say).candidate()


def in_few_bits(source: Path, loaded: LoadedText) -> bool:
    """Whether a target is a GGUF file of so few bits that a CPU computes it in integers when nobody says."""
    return source.is_file() and source.stat().st_size <= _FEW * Shape.from_config(loaded.config).weights


def _usual_weights(
    source: Path, loaded: LoadedText, dtype: torch.dtype, device: torch.device, say: Callable[[str], None]
) -> str:
    """Few bits for a GGUF file that has few, where this machine can compute with them."""
    if not in_few_bits(source, loaded) or device.type != "cpu":
        return "native"
    try:
        check_few_bits(dtype, device)
    except FlexSpecError as error:
        say(f"{error.message}; the target runs in {dtype}".replace("torch.", ""))
        return "native"
    return "int8"
