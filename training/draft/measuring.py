"""Measuring a draft from files to files: acceptance, calibration, and what packing costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from flexspec_mq.errors import ModelError
from flexspec_mq.models.draft.artifact import default_delta_path, read_marker
from flexspec_mq.models.draft.confidence import Calibration
from flexspec_mq.models.draft.delta import (
    base_fingerprint,
    check_fingerprint,
    load_delta,
    read_delta,
    read_meta,
)
from flexspec_mq.models.load import load_target
from flexspec_mq.models.prompts import read_prompts
from training.draft.architecture import build_draft, trained_parameters
from training.draft.calibrate import Reliability, calibrate, calibrated
from training.draft.collecting import answer_greedily
from training.draft.coupling import TEMPERATURES, coupled, figures
from training.draft.evaluate import Acceptance, fresh_rows, replay
from training.draft.packing import save_delta
from training.draft.progress import progress_bar
from training.draft.rows import load_rows, save_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from flexspec_mq.models.draft.delta import DeltaMeta
    from training.draft.coupling import Coupled
    from training.draft.evaluate import Replay
    from training.draft.rows import TextRows

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class EvaluateFiles:
    """What is measured, and on what: held-out rows of ``texts``, or answers to ``prompts``.

    Attributes:
        base: Checkpoint folder of the base.
        delta: A trained delta; None for the one that ships.
        draft: An exported draft, instead of a delta.
        texts: Target-written rows, ``.npz``.
        prompts: JSON lines with ``prompt`` or ``turns``.
        keep: Where the answers to the prompts are kept, ``.npz``.
    """

    base: Path
    delta: Path | None = None
    draft: Path | None = None
    texts: tuple[Path, ...] = ()
    prompts: Path | None = None
    keep: Path | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How rounds are counted.

    Attributes:
        k: Draft tokens per round, at most.
        stop: A batch ends before the token at which its joint acceptance falls below this; 0 never stops early.
        temperatures: At which both models choose.
    """

    k: int = 4
    stop: float = 0.0
    temperatures: tuple[float, ...] = TEMPERATURES


def evaluate_draft(files: EvaluateFiles, *, limit: int, max_new: int, rules: Rules) -> dict[str, Any]:
    """Measure a delta or an exported draft on text that it was not trained on.

    Args:
        files: What, and on what.
        limit: Rows or prompts at most, evenly spread.
        max_new: Answer tokens at most, when the target answers prompts.
        rules: How rounds are counted.

    Returns:
        ``Acceptance.figures``, and under ``temperatures`` those of ``coupling.figures``.

    Raises:
        ModelError: A file is unreadable, or the draft belongs to another base.
    """
    base, draft, meta = _load(files)
    text = _text_to_replay(files, limit, max_new)
    sums = Acceptance()
    answers: list[Coupled] = []
    for number, row in enumerate(_replayed(base, meta.n, text)):
        replay(draft, meta.n, [row], rules.k, sums)
        answers += coupled(draft, meta.n, [row], rules.temperatures, first_row=number)
    calibration = None if meta.confidence is None else Calibration.from_json(meta.confidence)
    return {**sums.figures(), "temperatures": figures(answers, calibration, rules.k, rules.stop)}


def calibrate_delta(
    base_path: Path, delta_path: Path, texts: Sequence[Path], out: Path, limit: int
) -> Reliability:
    """Fit a confidence to a delta on held-out rows, and write the delta with it.

    Args:
        base_path: Checkpoint folder of the base.
        delta_path: A trained delta, packed or not.
        texts: Target-written rows, of which those held out from training count.
        out: The delta to write; may be ``delta_path``.
        limit: Rows at most, evenly spread.

    Raises:
        ModelError: A file is unreadable, there are too few rows, or the delta belongs to another base.
    """
    files = EvaluateFiles(base_path, delta_path, texts=tuple(texts))
    base, draft, meta = _load(files)
    text = _text_to_replay(files, limit)
    calibration, found = calibrate(list(coupled(draft, meta.n, _replayed(base, meta.n, text), TEMPERATURES)))
    _, stored = read_delta(delta_path)
    save_delta(out, stored, calibrated(meta, calibration, found))
    return found


def held_out_overlap(
    base_path: Path, deltas: Sequence[Path], texts: Sequence[Path], limit: int
) -> list[Acceptance]:
    """What several deltas of one base and backbone reach on the same held-out rows.

    Raises:
        ModelError: A file is unreadable, or a delta belongs to another base.
    """
    reached = []
    for delta in deltas:
        files = EvaluateFiles(base_path, delta, texts=tuple(texts))
        base, draft, meta = _load(files)
        text = _text_to_replay(files, limit)
        reached.append(replay(draft, meta.n, _replayed(base, meta.n, text)))
    return reached


def spread(items: list[_T], limit: int) -> list[_T]:
    """Up to ``limit`` items, evenly spread."""
    if len(items) <= limit:
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def _load(files: EvaluateFiles) -> tuple[PreTrainedModel, PreTrainedModel, DeltaMeta]:
    """Base, draft, and what the draft says about itself."""
    where = files.draft or files.delta or default_delta_path()
    meta = read_marker(where) if files.draft is not None else read_meta(where)
    check_fingerprint(meta.base_fingerprint, base_fingerprint(files.base, meta.n), where, files.base)
    base = load_target(files.base).model
    if files.draft is not None:
        return base, load_target(files.draft).model, meta
    _, delta = load_delta(where, files.base)
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


def _text_to_replay(files: EvaluateFiles, limit: int, max_new: int = 1) -> TextRows:
    if files.texts:
        text = load_rows(*files.texts)
        held_out = [int(row) for row in np.flatnonzero(text.is_held_out())]
        if not held_out:
            raise ModelError("the text has no held-out rows", hint="give text of more prompts")
        return text.take(spread(held_out, limit))
    if files.keep is not None and files.keep.exists():
        return load_rows(files.keep)
    if files.prompts is None:
        raise ModelError("nothing to measure on", hint="give text or prompts")
    words = [prompt for _, prompt in read_prompts(files.prompts, may_be_blank=True)]
    text = answer_greedily(files.base, spread(words, limit), max_new)
    if files.keep is not None:
        save_rows(files.keep, text)
    return text
