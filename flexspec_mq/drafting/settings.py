"""Settings of a draft's loader: an edge's, or a worker's."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import util
from typing import Annotated

from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Section, Setting

ENGINES = ("auto", "onnx", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSettings(Section):
    """Which draft, where, and what runs it; `Setting.help` has the words. An edge's settings are such."""

    draft: Annotated[
        str,
        Setting(
            help="draft: checkpoint folder or GGUF file, 'default', or 'none' to use no draft model",
            path_unless=("default", "none"),
        ),
    ] = "default"
    tokenizer: Annotated[
        str | None,
        Setting(
            help="model folder or hub name whose tokenizer the target has, where the draft has another vocabulary",
            default="of the draft",
            path_unless=("default",),
        ),
    ] = None
    device: Annotated[str, Setting(help="torch device")] = "cpu"
    lookup: Annotated[
        bool,
        Setting(help="draft what a text has said before from its own tokens, where that is expected to win"),
    ] = True
    dtype: Annotated[str, Setting(help="of the draft: bfloat16, float16 or float32")] = "bfloat16"
    threads: Annotated[int, Setting(help="threads that the draft may take", least=1)] = 1
    draft_engine: Annotated[
        str,
        Setting(
            help="what runs the draft; onnx (ONNX Runtime) takes what flexspec draft export --onnx wrote, or writes it "
            "itself once; transformers runs any checkpoint, auto is the first that can",
            choices=ENGINES,
        ),
    ] = "auto"


def installed(library: str) -> bool:
    """Whether a library could be imported."""
    return util.find_spec(library) is not None


def wants_onnx(settings: DraftSettings) -> bool:
    """Whether ONNX Runtime is to run the draft if it can.

    Raises:
        UsageError: it is asked for, and cannot be had with the other settings.
    """
    fits = settings.device == "cpu" and settings.dtype == "bfloat16"
    if settings.draft_engine == "onnx" and not fits:
        raise UsageError(
            "graphs of ONNX run on a cpu with the weights that they were exported with",
            hint="leave out --device and --dtype; flexspec draft export chooses",
        )
    return settings.draft_engine in ("auto", "onnx") and fits


def extra_of(settings: DraftSettings) -> str:
    """The extra of ours whose packages run this draft: `edge` or `models`."""
    if settings.draft_engine == "transformers":
        return "models"
    if settings.draft_engine == "onnx" or installed("onnxruntime") or not installed("torch"):
        return "edge"
    return "models"
