"""The draft of the default model: its base and the difference that ships with us, made one once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from flexspec_mq.models.cache import made_once, models_cache
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.draft.artifact import default_delta_path, export, is_complete

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXPORTED_BYTES = 170_000_000
"""Room that the default draft's checkpoint needs in the cache beside the default model, rounded up."""


def default_draft_folder() -> Path:
    """Where `default_draft_path` puts the default draft; it need not be there yet, and nothing is written.

    Raises:
        ModelError: there is no folder for it.
    """
    name = hashlib.blake2b(default_delta_path().read_bytes(), digest_size=8).hexdigest()
    return models_cache() / f"draft-{name}"


def default_draft_path(say: Callable[[str], None] | None = None) -> Path:
    """Folder of the default draft's checkpoint in the cache, written if it is not there.

    Args:
        say: told what takes longer than a second.

    Raises:
        ModelError: the default model is not installed, does not fit the difference, or the cache cannot be written.
    """
    base, folder, tell = default_model_path(say), default_draft_folder(), say or (lambda _: None)

    def write() -> None:
        tell("writing the default draft, once")
        export(base, folder)

    # Its name is that of the delta, and it appears whole: to read the base once more would cost a fifth of a second.
    return made_once(folder, is_complete, write, what="the default draft", size=EXPORTED_BYTES, say=tell)
