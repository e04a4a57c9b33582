"""Loading the draft with whichever engine runs it; only the chosen one's libraries are imported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.drafting.hybrid import HybridDrafter
from flexspec_mq.drafting.model_drafter import ModelDrafter, proposer_of, read_calibration
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.drafting.settings import installed, wants_onnx
from flexspec_mq.errors import ModelError, UsageError, how_to_install
from flexspec_mq.models.default import default_draft_path
from flexspec_mq.models.load import find_model, load_text, resolve
from flexspec_mq.models.memory import collapse
from flexspec_mq.models.onnx.folder import can_write, default_graphs_folder, has_graphs
from flexspec_mq.models.onnx.write import cached_graphs, default_graphs

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from flexspec_mq.drafting.interface import PricedDrafter
    from flexspec_mq.drafting.settings import DraftSettings
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.models.runner import DraftRunner

    Say = Callable[[str], None]

_POOL, _ONNX_POOL = 8192, 2048
"""Tokens of ended texts that are kept. ONNX Runtime's keys and values are float32 and take twice the room: 21.5 kB a
token of the default draft."""


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A draft that is ready.

    Attributes:
        loaded: text part with the tokenizer that the user's text goes through.
        drafter: None when the user wants no drafting: neither a model's nor by lookup.
        model: the part of it that runs the draft.
        engine: name of what runs it, for people; empty without a model.
        network: runner that `model` drafts with, for those who want logits.
        ids: token id of each column of its logits, ascending; None when they are all ids.
        own: the draft's own text part; None without a model.
    """

    loaded: LoadedText
    drafter: PricedDrafter | None
    model: ModelDrafter | None = None
    engine: str = ""
    network: DraftRunner | None = None
    ids: npt.NDArray[np.int64] | None = None
    own: LoadedText | None = None


def load(settings: DraftSettings, say: Say) -> DraftModel:
    """Load the draft.

    Args:
        settings: which draft, where, and what runs it.
        say: told what takes long.

    Raises:
        ModelError: it cannot be loaded, is not a causal language model, or none that the engine asked for knows.
        UsageError: settings that do not go together.
    """
    if settings.draft == "none":
        text = text_of(settings, say)
        return DraftModel(
            text, PromptLookupDrafter(max_context=text.max_context) if settings.lookup else None
        )
    graphs = _graphs(settings, say)
    draft = _by_torch(settings, say) if graphs is None else _by_onnx(graphs, settings, say)
    if settings.device == "cpu":
        collapse()
    if settings.tokenizer is not None:
        draft = replace(draft, loaded=load_text(settings.tokenizer, progress=say))
    return draft


def load_for_version(settings: DraftSettings, head: Path, say: Say) -> DraftModel:
    """Load the draft with the LoRA of a version merged into it; graphs of it are written beside the version's head.

    Args:
        settings: which draft, and threads.
        head: folder of the head.
        say: told what takes long.

    Raises:
        ModelError: the LoRA is damaged or not for this draft, or graphs cannot be written or run here.
        UsageError: settings that do not go together, or a draft without a checkpoint.
    """
    if not wants_onnx(settings):
        raise UsageError(
            "LoRAs of versions are for drafts that ONNX Runtime runs", hint="leave out --draft-engine"
        )
    return _by_onnx(cached_graphs(Path(_checkpoint(settings, say)), say, head), settings, say)


def text_of(settings: DraftSettings, say: Say) -> LoadedText:
    """The draft's configuration and tokenizer, after all that can be complained about without its weights.

    Args:
        settings: settings that name a draft, or a tokenizer without one.
        say: told what takes long.

    Raises:
        ModelError: there is no such draft, or nothing that runs it.
        UsageError: settings that do not go together.
    """
    if settings.draft == "none":
        return load_text(settings.tokenizer or _default_text(say), progress=say)
    graphs = _graphs(settings, say)
    return load_text(_checkpoint(settings, say) if graphs is None else graphs, progress=say)


def _graphs(settings: DraftSettings, say: Say) -> Path | None:
    """The folder for ONNX Runtime; None when torch is to run the draft.

    Raises:
        ModelError: ONNX Runtime is asked for, and there are no graphs, or it is not installed.
        UsageError: as `wants_onnx`.
    """
    if not wants_onnx(settings):
        return None
    asked = settings.draft_engine == "onnx"
    runs = installed("onnxruntime")
    if settings.draft == "default":
        folder = default_graphs(say) if runs else None
        if folder is None and not installed("torch"):
            raise ModelError(
                "the default draft is made with torch, which is not installed",
                hint="make it elsewhere with `flexspec draft export --base default --onnx --out FOLDER`, copy the "
                f"folder to this device and name it with --draft; or, {how_to_install('models,gguf')}",
            )
    else:
        source = resolve(settings.draft, progress=say)
        if asked and isinstance(source, str):
            raise ModelError(
                f"there is no folder {source}",
                hint="graphs for ONNX Runtime lie in a folder, which flexspec draft export --onnx makes",
            )
        folder = _written(source, settings, say) if isinstance(source, Path) else None
    if folder is None and asked:
        raise ModelError(
            f"{settings.draft} has no graphs for ONNX Runtime, or nothing that runs or writes them",
            hint=f"flexspec draft export --onnx makes them; for both, {how_to_install('edge,export')}",
        )
    only = folder is not None and not (folder / "model.safetensors").exists()
    return folder if runs or asked or (only and settings.draft != "default") else None


def _written(source: Path, settings: DraftSettings, say: Say) -> Path | None:
    """Graphs of a folder, written into the cache where it is a checkpoint; None where nothing here writes or runs them.

    Raises:
        ModelError: ONNX Runtime is asked for, and graphs cannot be written of such a model; or its weights are damaged.
    """
    if has_graphs(source):
        return source
    if not (can_write() and installed("onnxruntime") and (source / "config.json").is_file()):
        return None
    from flexspec_mq.models.shape import UnknownModel

    try:
        return cached_graphs(source, say)
    except UnknownModel as error:
        if settings.draft_engine == "onnx":
            raise
        say(f"{error.message}; transformers runs the draft")
        return None


def _default_text(say: Say) -> Path:
    """A folder with the default draft's tokenizer and configuration."""
    graphs = default_graphs_folder()
    return graphs if has_graphs(graphs) else default_draft_path(say)


def _by_onnx(folder: Path, settings: DraftSettings, say: Say) -> DraftModel:
    from flexspec_mq.models.onnx.model import load_onnx

    text = load_text(folder, progress=say)
    model = load_onnx(folder, settings.threads)
    if model.manifest.vocab_size != text.vocab_size:
        raise ModelError(
            f"{folder}: the graphs are of {model.manifest.vocab_size} token ids, config.json of {text.vocab_size}",
            hint="they belong to different exports: copy the whole folder again",
        )
    engine = f"ONNX Runtime, {model.manifest.weights} weights, {model.columns:,} token ids"
    return _ready(text, model, model.ids, settings, engine, _ONNX_POOL)


def _by_torch(settings: DraftSettings, say: Say) -> DraftModel:
    from flexspec_mq.models.checkpoint import need_libraries

    if settings.draft != "default":
        find_model(_checkpoint(settings, say))
    need_libraries()
    import torch

    # These import transformers' models, which drafts by ONNX Runtime do without.
    from flexspec_mq.models.load import load_target
    from flexspec_mq.models.packed import PackedModel, register

    torch.set_num_threads(settings.threads)
    loaded = load_target(
        _checkpoint(settings, say),
        device=settings.device,
        dtype=settings.dtype,
        attn_implementation=register(),
        progress=say,
    )
    return _ready(loaded, PackedModel(loaded.model), None, settings, "transformers")


def _checkpoint(settings: DraftSettings, say: Say) -> str:
    """A folder for torch, or a name on the model hub.

    Raises:
        ModelError: there is no such draft.
        UsageError: a folder for ONNX Runtime, with settings that take another one.
    """
    default = settings.draft == "default"
    path = str(default_draft_path(say) if default else resolve(settings.draft, progress=say))
    if has_graphs(Path(path)):
        raise UsageError(
            f"{path} holds graphs for ONNX Runtime, with the weights and token ids that it was exported with",
            hint="leave out --draft-engine, --device and --dtype, or name a checkpoint",
        )
    return path


def _ready(
    loaded: LoadedText,
    network: DraftRunner,
    ids: npt.NDArray[np.int64] | None,
    settings: DraftSettings,
    engine: str,
    pool: int = _POOL,
) -> DraftModel:
    """The drafter over a network whose columns are `ids`, as confident as its folder says."""
    calibration = read_calibration(loaded.source) if isinstance(loaded.source, Path) else None
    proposer = proposer_of(calibration, ids)
    model = ModelDrafter(network, max_context=loaded.max_context, proposer=proposer, pool=pool, ids=ids)
    drafter: PricedDrafter = model
    if settings.lookup:
        drafter = HybridDrafter(model, PromptLookupDrafter(max_context=loaded.max_context))
    return DraftModel(loaded, drafter, model, engine, network, ids, loaded)
