"""Loading the draft. ONNX Runtime runs it; torch is imported only where graphs are to be written first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.drafting.grammar_drafter import GrammarDrafter
from flexspec_mq.drafting.hybrid import HybridDrafter
from flexspec_mq.drafting.interface import PricedDrafter
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.drafting.settings import DraftSettings
from flexspec_mq.errors import ModelError, UsageError, how_to_install
from flexspec_mq.models.checkpoint import need_libraries
from flexspec_mq.models.default import default_draft_path, default_model_folder
from flexspec_mq.models.load import UNSTATED_CONTEXT, LoadedText, find_model, load_text
from flexspec_mq.models.memory import collapse
from flexspec_mq.models.onnx.folder import can_write, default_graphs_folder, has_graphs
from flexspec_mq.models.runner import DraftRunner

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from flexspec_mq.drafting.model_drafter import ModelDrafter

Say = Callable[[str], None]


_NO_TOKENIZER = "this device has no tokenizer of its own"
_POOL = 2048
"""Tokens of ended texts that are kept. The KV cache is float32: 21.5 kB a token of the default draft."""


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A draft that is ready.

    Attributes:
        loaded: text part with the tokenizer that the user's text goes through; None where that is the target's, which
            a worker gives.
        drafter: None when the user wants no drafting: neither a model's nor by lookup.
        model: the part of it that runs the draft.
        engine: name of what runs it, for people; empty without a model.
        network: runner that `model` drafts with, for those who want logits.
        ids: token id of each column of its logits, ascending; None when they are all ids.
        own: the draft's own text part; None without a model.
    """

    loaded: LoadedText | None
    drafter: PricedDrafter | None
    model: ModelDrafter | None = None
    engine: str = ""
    network: DraftRunner | None = None
    ids: npt.NDArray[np.int64] | None = None
    own: LoadedText | None = None

    @property
    def text(self) -> LoadedText:
        """`loaded`, for those who cannot ask a worker.

        Raises:
            UsageError: there is none.
        """
        if self.loaded is None:
            raise UsageError(_NO_TOKENIZER, hint="--tokenizer names a folder with the target's")
        return self.loaded


def load(settings: DraftSettings, say: Say) -> DraftModel:
    """Load the draft.

    Args:
        settings: which draft, and where.
        say: told what takes long.

    Raises:
        ModelError: it cannot be loaded, is not a causal language model, or none that graphs can be written of.
        UsageError: settings that do not go together.
    """
    if settings.draft == "none":
        text = None if settings.tokenizer is None else load_text(settings.tokenizer, progress=say)
        longest = UNSTATED_CONTEXT if text is None else text.max_context
        lookup = GrammarDrafter(PromptLookupDrafter(max_context=longest)) if settings.lookup else None
        return DraftModel(text, lookup)
    draft = _by_onnx(_graphs(settings.draft, say), settings, say)
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
        UsageError: the draft is an exported folder, or a name on the model hub.
    """
    from flexspec_mq.models.onnx.write import cached_graphs

    default = settings.draft == "default"
    checkpoint = default_draft_path(say) if default else find_model(settings.draft, progress=say)
    if not isinstance(checkpoint, Path) or has_graphs(checkpoint):
        raise UsageError(
            f"no LoRA can be merged into {checkpoint}, which is no checkpoint folder",
            hint="name the folder that the draft was exported from",
        )
    return _by_onnx(cached_graphs(checkpoint, say, head), settings, say)


def text_of(settings: DraftSettings, say: Say) -> LoadedText:
    """The draft's configuration and tokenizer, after all that can be complained about without its weights.

    Args:
        settings: settings that name a draft, or a tokenizer without one.
        say: told what takes long.

    Raises:
        ModelError: there is no such draft, or nothing that runs it.
        UsageError: they name neither.
    """
    if settings.draft == "none":
        return load(settings, say).text
    return load_text(_graphs(settings.draft, say), progress=say)


def has_default_draft() -> bool:
    """Whether the default draft is here, or what it is made of, and what runs it."""
    if util.find_spec("onnxruntime") is None:
        return False
    try:
        return has_graphs(default_graphs_folder()) or bool(default_model_folder())
    except ModelError:
        return False


def _graphs(draft: str, say: Say) -> Path:
    """A draft's folder for ONNX Runtime, written into the cache where it is a checkpoint.

    Raises:
        ModelError: there is no such draft, nothing here runs it, or graphs of it cannot be written, or not here.
    """
    folder = default_graphs_folder() if draft == "default" else find_model(draft, progress=say)
    source = "--base default" if draft == "default" else f"--model {draft}"
    export = f"`flexspec draft export {source} --onnx --out FOLDER`"
    if isinstance(folder, str):
        raise ModelError(
            f"there is no folder {folder}, and a draft on the model hub is exported first",
            hint=f"{export} does, here or elsewhere; then name that folder with --draft",
        )
    need_libraries("running a draft", "draft", ("onnxruntime",))
    if has_graphs(folder):
        return folder
    if not can_write():
        raise ModelError(
            f"the draft {draft} has no graphs for ONNX Runtime, and nothing that writes them is installed",
            hint=f"{export} does elsewhere: name that folder with --draft; or, "
            f"{how_to_install('models,draft,export,gguf')}",
        )
    from flexspec_mq.models.onnx.write import cached_graphs, default_graphs

    return default_graphs(say) if draft == "default" else cached_graphs(folder, say)


def _by_onnx(folder: Path, settings: DraftSettings, say: Say) -> DraftModel:
    from flexspec_mq.drafting.model_drafter import ModelDrafter, proposer_of, read_calibration
    from flexspec_mq.models.onnx.model import load_onnx

    text = load_text(folder, progress=say)
    if settings.draft != "default":  # the folder may be one of the cache
        text = replace(text, name=Path(settings.draft).name)
    network = load_onnx(folder, settings.threads)
    if network.manifest.vocab_size != text.vocab_size:
        raise ModelError(
            f"{folder}: the graphs are of {network.manifest.vocab_size} token ids, config.json of {text.vocab_size}",
            hint="they belong to different exports: copy the whole folder again",
        )
    proposer = proposer_of(read_calibration(folder), network.ids)
    model = ModelDrafter(
        network, max_context=text.max_context, proposer=proposer, pool=_POOL, ids=network.ids
    )
    drafter: PricedDrafter = model
    if settings.lookup:
        drafter = HybridDrafter(model, PromptLookupDrafter(max_context=text.max_context))
    engine = f"ONNX Runtime, {network.manifest.weights} weights, {network.columns:,} token ids"
    return DraftModel(text, GrammarDrafter(drafter), model, engine, network, network.ids, text)
