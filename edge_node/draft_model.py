"""Loading the draft: from a stand-alone export, or from the default base and the difference that ships with us."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from edge_node.combined import CombinedDrafter
from edge_node.drafter import ModelDrafter
from edge_node.guessing import guess_of, read_calibration
from edge_node.lookup_drafter import LookupDrafter
from flexspec_mq.errors import UsageError
from flexspec_mq.models.attention import register
from flexspec_mq.models.draft.default import default_draft_path
from flexspec_mq.models.load import LoadedModel, load_target
from flexspec_mq.models.packed import PackedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_node.drafts import Drafter
    from edge_node.settings import EdgeSettings


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A draft that is ready.

    Attributes:
        loaded: with the tokenizer that the user's text goes through.
        drafter: None when the user wants no drafting: neither a model's nor by lookup.
        model: the part of it that runs the draft.
    """

    loaded: LoadedModel
    drafter: Drafter | None
    model: ModelDrafter | None = None


def assemble(model: ModelDrafter | None, *, lookup: bool, max_context: int) -> Drafter | None:
    """The drafter for what the user wants: model, lookup, both or None.

    Args:
        model: None drafts without one.
        lookup: draft from the session's own tokens too.
        max_context: positions that the target has; no lookup goes beyond.
    """
    if not lookup:
        return model
    found = LookupDrafter(max_context=max_context)
    return found if model is None else CombinedDrafter(model, found)


def load(settings: EdgeSettings, say: Callable[[str], None]) -> DraftModel:
    """Load the draft.

    Args:
        settings: which draft, where.
        say: told what takes long.

    Raises:
        ModelError: it cannot be loaded, or is not a causal language model.
        UsageError: a draft and a tokenizer are named.
    """
    torch.set_num_threads(settings.threads)
    path = settings.draft
    if settings.tokenizer is not None:
        if path != "none":
            raise UsageError(
                "a draft brings its tokenizer; --tokenizer is for --draft none", hint="leave one of them out"
            )
        path = settings.tokenizer
    elif path in ("default", "none"):
        path = str(default_draft_path(say))
    loaded = load_target(
        path,
        device=settings.device,
        dtype=settings.dtype,
        attn_implementation=register(),
        progress=say,
    )
    model = None
    if settings.draft != "none":
        guess = guess_of(read_calibration(Path(path)))
        model = ModelDrafter(PackedModel(loaded.model), max_context=loaded.max_context, guess=guess)
    drafter = assemble(model, lookup=settings.lookup, max_context=loaded.max_context)
    return DraftModel(loaded, drafter, model)
