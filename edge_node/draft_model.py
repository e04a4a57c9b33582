"""Loading the draft: from a stand-alone export, or from the default base and the difference that ships with us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from edge_node.drafter import ModelDrafter
from flexspec_mq.errors import UsageError
from flexspec_mq.models.attention import register
from flexspec_mq.models.draft.default import default_draft_path
from flexspec_mq.models.load import LoadedModel, load_target
from flexspec_mq.models.packed import PackedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_node.settings import EdgeSettings


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A draft that is ready.

    Attributes:
        loaded: with the tokenizer that the user's text goes through.
        drafter: None when the user wants no drafting.
    """

    loaded: LoadedModel
    drafter: ModelDrafter | None


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
    if settings.draft == "none":
        return DraftModel(loaded, None)
    return DraftModel(loaded, ModelDrafter(PackedModel(loaded.model), max_context=loaded.max_context))
