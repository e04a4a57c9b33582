"""The draft of the default model: its base and the difference that ships with us, made one once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from flexspec_mq.models.default import default_model_path, models_cache
from flexspec_mq.models.draft.artifact import default_delta_path, materialise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def default_draft_path(say: Callable[[str], None] | None = None) -> Path:
    """Folder of the default draft's checkpoint in the cache, written if it is not there.

    Args:
        say: told what takes longer than a second.

    Raises:
        ModelError: the default model is not installed, or does not fit the difference.
    """
    base = default_model_path(say)
    delta = default_delta_path()
    name = hashlib.blake2b(delta.read_bytes(), digest_size=8).hexdigest()
    return materialise(base, delta, models_cache() / f"draft-{name}")
