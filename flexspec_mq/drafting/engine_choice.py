"""Which engine a draft's settings leave open, without importing any."""

from __future__ import annotations

from importlib import util
from typing import TYPE_CHECKING

from flexspec_mq.errors import UsageError

if TYPE_CHECKING:
    from flexspec_mq.drafting.settings import DraftSettings


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
