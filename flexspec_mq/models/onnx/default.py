"""The draft of the default model for ONNX Runtime, written once where what writes it is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.models.cache import made_once
from flexspec_mq.models.draft.default import default_draft_folder, default_draft_path
from flexspec_mq.models.onnx.folder import can_write, has_graphs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GRAPHS_BYTES = 110_000_000
"""Room that the graphs need in the cache beside the default draft's checkpoint, rounded up."""
_WRITER_VERSION = 1
"""Part of the name of the graphs' folder. Raise it whenever writing them would give others."""


def default_graphs_folder() -> Path:
    """Where `default_graphs` puts the default draft's graphs; it need not be there yet, and nothing is written.

    Raises:
        ModelError: there is no folder for it.
    """
    folder = default_draft_folder()
    return folder.with_name(f"{folder.name}-onnx{_WRITER_VERSION}")


def default_graphs(say: Callable[[str], None] | None = None) -> Path | None:
    """Folder of the default draft's graphs in the cache, written if it is not there; None where neither can be had.

    Args:
        say: told what takes longer than a second.

    Raises:
        ModelError: the default model is not installed, does not fit the difference, or the cache cannot be written.
    """
    folder = default_graphs_folder()
    if has_graphs(folder):
        return folder
    if not can_write():
        return None
    from flexspec_mq.models.onnx.write import write_onnx

    checkpoint, tell = default_draft_path(say), say or (lambda _: None)

    def write() -> None:
        tell("writing the default draft for ONNX Runtime, once")
        write_onnx(checkpoint, folder)

    what = "the default draft for ONNX Runtime"
    return made_once(folder, has_graphs, write, what=what, size=GRAPHS_BYTES, say=tell)
