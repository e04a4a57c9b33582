"""Halves of a pair as programs load them: the target's file, and the draft as a folder for ONNX Runtime."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any, Literal, TypeVar

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.cache import Progress, made_once, models_cache
from flexspec_mq.models.checkpoint import need_libraries
from flexspec_mq.models.pairs.fetch import fetch, here
from flexspec_mq.models.pairs.table import DEFAULT, HubFile, Pair, in_words, pairs, usable
from flexspec_mq.settings import Section

S = TypeVar("S", bound=Section)
Half = Literal["draft", "target"]
HALVES: tuple[Half, ...] = ("draft", "target")

_LIBRARIES: dict[Half, tuple[str, ...]] = {
    "target": ("torch", "transformers", "gguf"),
    "draft": ("torch", "transformers", "safetensors", "gguf", "onnx", "onnxruntime"),
}
"""Names of what makes of a file what is loaded."""
_TAKEN = 5
"""Room that an export takes, over the size of a file in four bits: the checkpoint, which goes again, and the folder."""


def with_pair(settings: S, half: Half, say: Progress | None) -> S:
    """The settings with a half of their pair in its place, or as they are where they name none.

    Args:
        settings: settings with `pair` and `pair_source`, as the user gave them.
        half: the half that the daemon loads.
        say: told what takes long; None fetches and exports nothing.

    Raises:
        ModelError: as `half_of`.
        UsageError: no such pair, or both are named.
    """
    stated: Any = settings
    if stated.pair is None:
        return settings
    pair = usable(stated.pair)
    if getattr(stated, half) != DEFAULT:
        raise UsageError(
            f"--pair {pair.name} brings its {half}, and --{half} {getattr(stated, half)} names another",
            hint="leave one out",
        )
    replaced: S = replace(stated, **{half: half_of(pair, half, stated.pair_source, say), "pair": None})
    return replaced


def half_of(pair: Pair, half: Half, source: str | None, say: Progress | None) -> str:
    """A half of a pair as it is loaded: the target's file, or the draft's folder, exported into the cache once.

    Args:
        pair: the pair, whose files are pinned.
        half: the half.
        source: where its file is fetched from; see `fetch`.
        say: told what takes long; None fetches and exports nothing.

    Raises:
        ModelError: it cannot be fetched or exported here, or is not here and shall not be.
    """
    from flexspec_mq.models.onnx.folder import has_graphs

    file: HubFile | None = getattr(pair, half)
    if file is None:
        return DEFAULT
    folder = _folder(pair.name, file)
    if half == "draft" and has_graphs(folder):
        return str(folder)
    what = f"a {file.name} as target"
    if half == "draft":
        what = f"making {folder} (or copy it from a machine that has made it)"
    need_libraries(
        what, "edge,models,draft,export,gguf" if half == "draft" else "models,gguf", _LIBRARIES[half]
    )
    if say is None and (half == "draft" or not here(file)):
        raise ModelError(
            f"{file.name} of the pair {pair.name} is not here yet",
            hint=f"the start fetches it once, {in_words(file.size)}",
        )
    tell: Progress = say or (lambda _text: None)
    path = fetch(file, source, tell)
    if half == "draft":
        make, size = partial(_export, path, pair, folder, tell), _TAKEN * file.size
        path = made_once(folder, has_graphs, make, what=f"the draft of {pair.name}", size=size, say=tell)
    return str(path)


def is_here(pair: Pair) -> bool:
    """Whether both halves can be loaded without a network."""
    from flexspec_mq.models.onnx.folder import has_graphs

    if pair.draft is None or pair.target is None:
        return True
    can_export = all(util.find_spec(name) for name in _LIBRARIES["draft"])
    exported = has_graphs(_folder(pair.name, pair.draft)) or (can_export and here(pair.draft) is not None)
    return pair.measured and exported and here(pair.target) is not None


def best_here() -> Pair:
    """The pair with the largest target of those that are wholly on this machine; nothing is fetched.

    Raises:
        ModelError: a row of the user's own is damaged.
    """
    return max(filter(is_here, pairs()), key=lambda pair: pair.target.size if pair.target else 0)


def told(pair: Pair) -> list[str]:
    """The lines of a pair for people."""
    if not pair.measured:
        return [f"{pair.name:20} {' -> '.join(file.name for file in pair.files)}, {pair.licence}"]
    return [
        f"{pair.name}{', on this machine' if is_here(pair) else ''}",
        *(
            f"  {half:8} {file.name}, {in_words(file.size)}, {file.repo} at {file.revision[:12]}"
            for half, file in zip(HALVES, pair.files, strict=False)
        ),
        f"  {'licence':8} {pair.licence}",
        f"  {'memory':8} {pair.worker_mb:,} MB at the worker; the draft adds {pair.draft_mb:,} MB to a device",
        f"  {'drafts':8} {pair.round:.2f} tokens a round with K = 4",
    ]


def _folder(pair: str, draft: HubFile) -> Path:
    from flexspec_mq.models.onnx.folder import WRITER_VERSION

    return models_cache() / f"{pair}-{draft.sha256[:12]}-onnx{WRITER_VERSION}"


def _export(file: Path, pair: Pair, folder: Path, say: Progress) -> None:
    from flexspec_mq.models.draft.artifact import MARKER
    from flexspec_mq.models.draft.confidence import BASIS, KEY
    from flexspec_mq.models.gguf.convert import gguf_checkpoint
    from flexspec_mq.models.onnx.write import write_onnx

    # The checkpoint is twice the folder's size, and of no use behind it.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as between:
        checkpoint = gguf_checkpoint(file, say, folder=Path(between) / "checkpoint")
        if pair.confidence:
            stated = {KEY: {"basis": BASIS, "weights": pair.confidence}}
            (checkpoint / MARKER).write_text(json.dumps(stated), "utf-8")
        say(f"exporting the draft of {pair.name}, once")
        write_onnx(checkpoint, folder)
