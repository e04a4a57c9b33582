"""Measuring a draft from files to files: acceptance and calibration."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel

from flexspec_mq.errors import ModelError
from flexspec_mq.models.draft.artifact import MARKER, default_delta_path
from flexspec_mq.models.draft.calibrate import Coupled, Reliability, calibrate
from flexspec_mq.models.draft.confidence import ConfidenceCalibration
from flexspec_mq.models.draft.delta import (
    DeltaMeta,
    base_fingerprint,
    check_fingerprint,
    load_delta,
    meta_of,
    read_delta,
    read_meta,
)
from flexspec_mq.models.load import load_target
from training.cli_common import progress_bar
from training.draft.architecture import build_draft, trained_parameters
from training.draft.evaluate import TEMPERATURES, Replay, ReplayFigures, coupled, figures, fresh_rows, replay
from training.draft.packing import save_delta
from training.draft.rows import TextRows, load_rows

_T = TypeVar("_T")


def evaluate_draft(
    base_path: Path,
    texts: Sequence[Path],
    *,
    delta: Path | None = None,
    exported: Path | None = None,
    limit: int = 60,
    k: int = 4,
    temperatures: Sequence[float] = TEMPERATURES,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure a draft on text that it was not trained on.

    Args:
        base_path: Checkpoint folder of the base.
        texts: Target-written rows, of which those held out from training count.
        delta: A trained delta; None for the one that ships.
        exported: Folder of an exported draft, instead of a delta.
        limit: Rows at most, evenly spread.
        k: Draft tokens per round, at most.
        temperatures: At which both models choose.
        device: torch device of both.

    Returns:
        ``ReplayFigures.figures``, and under ``temperatures`` those of ``figures``.

    Raises:
        ModelError: A file is unreadable, or the draft belongs to another base.
    """
    base, draft, meta = _load(base_path, delta, exported, device=device)
    sums = ReplayFigures()
    answers: list[Coupled] = []
    for number, row in enumerate(_replayed(base, meta.n, _held_out(texts, limit))):
        replay(draft, meta.n, [row], sums)
        answers += coupled(draft, meta.n, [row], temperatures, first_row=number)
    return {**sums.figures(), "temperatures": figures(answers, k)}


def calibrate_delta(
    base_path: Path, delta_path: Path, texts: Sequence[Path], out: Path, limit: int, device: str = "cpu"
) -> Reliability:
    """Fit a confidence to a delta on held-out rows, and write the delta with it.

    Args:
        base_path: Checkpoint folder of the base.
        delta_path: A trained delta, packed or not.
        texts: Target-written rows, of which those held out from training count.
        out: The delta to write; may be ``delta_path``.
        limit: Rows at most, evenly spread.
        device: torch device of both models.

    Raises:
        ModelError: A file is unreadable, there are too few rows, or the delta belongs to another base.
    """
    base, draft, meta = _load(base_path, delta_path, device=device)
    text = _held_out(texts, limit)
    calibration, reliable = calibrate(
        list(coupled(draft, meta.n, _replayed(base, meta.n, text), TEMPERATURES))
    )
    _, stored = read_delta(delta_path)
    save_delta(out, stored, calibrated(meta, calibration, reliable))
    return reliable


def calibrated(meta: DeltaMeta, calibration: ConfidenceCalibration, reliable: Reliability) -> DeltaMeta:
    """Metadata of a delta, with its calibration."""
    training = {**meta.training, "calibration": reliable.figures()}
    return replace(meta, confidence=calibration.to_json(), training=training)


def read_marker(folder: Path) -> DeltaMeta:
    """Read what an exported draft says about the delta it was made from.

    Raises:
        ModelError: The folder holds no export.
    """
    try:
        facts = json.loads((folder / MARKER).read_text())
        return meta_of({key: value for key, value in facts.items() if key != "delta"})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder} is not an exported draft: {error!r}", hint="make one with `flexspec draft export`"
        ) from error


def spread(items: list[_T], limit: int) -> list[_T]:
    """Up to ``limit`` items, evenly spread."""
    if len(items) <= limit:
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def _load(
    base_path: Path, delta_path: Path | None, exported: Path | None = None, *, device: str
) -> tuple[PreTrainedModel, PreTrainedModel, DeltaMeta]:
    """Base, draft, and what the draft says about itself."""
    where = exported or delta_path or default_delta_path()
    meta = read_marker(where) if exported is not None else read_meta(where)
    check_fingerprint(meta.base_fingerprint, base_fingerprint(base_path, meta.n), where, base_path)
    base = load_target(base_path, device=device).model
    if exported is not None:
        return base, load_target(exported, device=device).model, meta
    _, delta = load_delta(where, base_path)
    draft = build_draft(base, meta.n, meta.start)
    with torch.no_grad():
        for name, parameter in trained_parameters(draft, meta.n):
            if name not in delta:
                raise ModelError(f"{where} has no {name}", hint="make one with `flexspec draft train`")
            parameter.copy_(delta[name])
    return base, draft, meta


def _replayed(base: PreTrainedModel, n: int, text: TextRows) -> Iterator[Replay]:
    """Rows of the text with the states of the base, and progress."""
    with progress_bar() as show:
        for done, row in enumerate(fresh_rows(base, n, text)):
            show(done / len(text), partial("replayed {} of {} answers".format, done, len(text)))
            yield row


def _held_out(texts: Sequence[Path], limit: int) -> TextRows:
    text = load_rows(*texts)
    rows = [int(row) for row in np.flatnonzero(text.is_held_out())]
    if not rows:
        raise ModelError("the text has no held-out rows", hint="give text of more prompts")
    return text.take(spread(rows, limit))
