"""Settings of a draft's loader: an edge's, or a worker's."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import util
from typing import Protocol

from flexspec_mq.errors import UsageError

ENGINES = ("auto", "onnx", "compact", "transformers")
WEIGHTS = ("auto", "bf16", "int8", "mixed", "int4")


class DraftSettings(Protocol):
    """Which draft, where, and what runs it. An edge's settings are such."""

    @property
    def draft(self) -> str:
        """Checkpoint folder, ``default``, or ``none``."""

    @property
    def tokenizer(self) -> str | None:
        """With draft ``none``: model folder or hub name whose tokenizer the target has."""

    @property
    def lookup(self) -> bool:
        """Draft from a text's own tokens too."""

    @property
    def device(self) -> str:
        """Torch device."""

    @property
    def dtype(self) -> str:
        """Type of the draft's weights."""

    @property
    def threads(self) -> int:
        """Threads that the draft may take."""

    @property
    def draft_engine(self) -> str:
        """Engine, among `ENGINES`."""

    @property
    def draft_weights(self) -> str:
        """Form of the weights, among `WEIGHTS`."""

    @property
    def draft_ids(self) -> int | None:
        """How many of the most frequent token ids can be drafted; 0 is all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftChoice:
    """A draft beside something else than an edge."""

    draft: str
    device: str = "cpu"
    dtype: str = "bfloat16"
    threads: int = 1
    draft_engine: str = "auto"
    draft_weights: str = "auto"
    draft_ids: int | None = None
    tokenizer: str | None = None
    lookup: bool = True


def installed(library: str) -> bool:
    """Whether a library could be imported."""
    return util.find_spec(library) is not None


def wants_onnx(settings: DraftSettings) -> bool:
    """Whether ONNX Runtime is to run the draft if it can.

    Raises:
        UsageError: it is asked for, and cannot be had with the other settings.
    """
    fits = settings.device == "cpu" and settings.dtype == "bfloat16"
    free = settings.draft_weights == "auto" and settings.draft_ids is None
    if settings.draft_engine == "onnx" and not (fits and free):
        raise UsageError(
            "graphs of ONNX run on a cpu with the weights and token ids that they were exported with",
            hint="leave out --device, --dtype, draft_weights and draft_ids; flexspec draft export chooses",
        )
    return settings.draft_engine in ("auto", "onnx") and fits and free


def extra_of(settings: DraftSettings) -> str:
    """The extra of ours whose packages run this draft: `edge` or `models`."""
    if settings.draft_engine in ("compact", "transformers"):
        return "models"
    if settings.draft_engine == "onnx" or installed("onnxruntime") or not installed("torch"):
        return "edge"
    return "models"
