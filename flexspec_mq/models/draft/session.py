"""Training and measuring from files to files: what the commands do, with a progress bar or log lines."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from flexspec_mq.errors import ModelError
from flexspec_mq.models.draft.architecture import (
    build_draft,
    lm_head_weight,
    load_causal_lm,
    trained_parameters,
)
from flexspec_mq.models.draft.artifact import (
    DeltaMeta,
    base_fingerprint,
    check_fingerprint,
    default_delta_path,
    read_delta,
    save_delta,
)
from flexspec_mq.models.draft.cache import StateCache
from flexspec_mq.models.draft.evaluate import Acceptance, cached_rows, fresh_rows, replay, write_answers
from flexspec_mq.models.draft.text import TextRows, load_text, save_text
from flexspec_mq.models.draft.train import Progress, Stopped, Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

    from flexspec_mq.models.draft.schedule import TrainConfig

log = logging.getLogger(__name__)
_T = TypeVar("_T")

LOG_SECONDS = 20.0
HELD_OUT_ROWS = 60


@dataclass(frozen=True, slots=True)
class TrainFiles:
    """Where training reads and writes.

    Attributes:
        base: Checkpoint folder of the base.
        text: Target-written rows, ``.npz``.
        cache: Folder for the teacher's states.
        out: The delta; ``<out>.state`` beside it holds what resuming needs.
    """

    base: Path
    text: Path
    cache: Path
    out: Path

    @property
    def state(self) -> Path:
        """What resuming needs."""
        return self.out.with_name(self.out.name + ".state")


@dataclass(frozen=True, slots=True)
class EvaluateFiles:
    """What is measured, and on what: held-out rows of ``text``, or answers to ``prompts``.

    Attributes:
        base: Checkpoint folder of the base.
        delta: A trained delta; None for the one that ships.
        text: Target-written rows, ``.npz``.
        prompts: JSON lines with ``prompt`` or ``turns``.
        keep: Where the answers to the prompts are kept, ``.npz``.
    """

    base: Path
    delta: Path | None
    text: Path | None = None
    prompts: Path | None = None
    keep: Path | None = None


def train_draft(
    files: TrainFiles, config: TrainConfig, *, save_seconds: float, should_stop: Callable[[], bool]
) -> Acceptance | None:
    """Train, or go on training, and write the delta.

    Args:
        files: Where to read and write.
        config: How to train.
        save_seconds: Time between saved states and preliminary deltas, in seconds of training.
        should_stop: Asked between steps.

    Returns:
        What the draft reaches on held-out rows, or None if it was stopped. Delta and state are saved anyway.

    Raises:
        ModelError: A file is unreadable or does not belong to the others.
    """
    text = load_text(files.text)
    base = load_causal_lm(files.base)
    fingerprint = base_fingerprint(files.base, config.n)
    width = lm_head_weight(base).shape[1]
    cache = StateCache(files.cache, text, base=fingerprint, n=config.n, width=width)
    saved, saved_step = time.monotonic(), 0

    def on_progress(progress: Progress) -> None:
        nonlocal saved, saved_step
        show(progress, config.progress(progress.step, progress.seconds))
        if progress.step > saved_step and time.monotonic() - saved > save_seconds:
            save(trainer)
            saved, saved_step = time.monotonic(), progress.step

    def save(trainer: Trainer) -> Acceptance:
        trainer.save(files.state)
        reached = measure_held_out(trainer)
        facts = {**asdict(trainer.progress), **reached.figures(), "rows_in_text": len(text)}
        save_delta(files.out, trainer.tensors(), DeltaMeta(fingerprint, config.n, facts))
        log.info("saved after %d steps: %s", trainer.progress.step, json.dumps(reached.figures()))
        return reached

    trainer = Trainer(base, cache, config, on_progress, should_stop)
    if files.state.exists():
        trainer.resume(files.state)
    with _shown() as show:
        try:
            trainer.collect(trainer.held_out)
            trainer.run()
        except Stopped:
            save(trainer)
            return None
        return save(trainer)


def measure_held_out(trainer: Trainer, limit: int = HELD_OUT_ROWS) -> Acceptance:
    """Replay held-out rows whose states are collected."""
    missing = set(trainer.cache.missing(trainer.held_out))
    rows = _spread([row for row in trainer.held_out if row not in missing], limit)
    return replay(trainer.draft, trainer.config.n, cached_rows(trainer.cache, rows))


def evaluate_draft(files: EvaluateFiles, *, limit: int, max_new: int, k: int) -> Acceptance:
    """Measure a delta on text that it was not trained on.

    Args:
        files: What, and on what.
        limit: Rows or prompts at most, evenly spread.
        max_new: Answer tokens at most, when the target answers prompts.
        k: Draft tokens per round.

    Raises:
        ModelError: A file is unreadable, or the delta belongs to another base.
    """
    delta_path = files.delta or default_delta_path()
    meta, delta = read_delta(delta_path)
    check_fingerprint(meta, base_fingerprint(files.base, meta.n), delta_path, files.base)
    base = load_causal_lm(files.base)
    draft = build_draft(base, meta.n)
    with torch.no_grad():
        for name, parameter in trained_parameters(draft, meta.n):
            parameter.copy_(delta[name])
    text = _text_to_replay(files, base, limit, max_new)
    seen, told = 0, time.monotonic()

    def on_row() -> None:
        nonlocal seen, told
        seen += 1
        if time.monotonic() - told > LOG_SECONDS:
            told = time.monotonic()
            log.info("replayed %d of %d answers", seen, len(text))

    return replay(draft, meta.n, fresh_rows(base, meta.n, text, on_row), k)


def read_prompts(path: Path) -> list[str]:
    """First turns of a JSON-lines file with ``prompt`` or ``turns``.

    Raises:
        ModelError: A line is neither.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [str(line["prompt"] if "prompt" in line else line["turns"][0]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelError(f"cannot read prompts from {path}: {error!r}") from error


def _text_to_replay(files: EvaluateFiles, base: PreTrainedModel, limit: int, max_new: int) -> TextRows:
    if files.text is not None:
        text = load_text(files.text)
        return text.take(_spread([int(row) for row in np.flatnonzero(text.is_held_out())], limit))
    if files.keep is not None and files.keep.exists():
        return load_text(files.keep)
    if files.prompts is None:
        raise ModelError("nothing to measure on", hint="give text or prompts")
    answered = 0
    prompts = _spread(read_prompts(files.prompts), limit)

    def on_prompts(count: int) -> None:
        nonlocal answered
        answered += count
        log.info("the target answered %d of %d prompts", answered, len(prompts))

    text = write_answers(base, files.base, prompts, max_new, on_prompts)
    if files.keep is not None:
        save_text(files.keep, text)
    return text


def _spread(items: list[_T], limit: int) -> list[_T]:
    """Up to ``limit`` items, evenly spread."""
    if len(items) <= limit:
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


@contextmanager
def _shown() -> Iterator[Callable[[Progress, float], None]]:
    """A progress bar on a terminal, log lines otherwise."""
    if not sys.stderr.isatty():
        yield _log_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    percent, what = TextColumn("{task.percentage:>5.1f} %"), TextColumn("{task.description}")
    with Bar(BarColumn(), percent, TimeElapsedColumn(), what, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda progress, share: bar.update(task, completed=share, description=describe(progress))


def _log_lines() -> Callable[[Progress, float], None]:
    last = -LOG_SECONDS

    def show(progress: Progress, share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_SECONDS:
            last = time.monotonic()
            log.info("%.1f %% %s", 100 * share, describe(progress))

    return show


def describe(progress: Progress) -> str:
    """One line on where the training is."""
    return (
        f"step {progress.step}, pass {progress.pass_number + 1} over {progress.rows} rows, "
        f"{progress.tokens} positions trained, {progress.collected} tokens collected, "
        f"{progress.seconds:.0f} s, KL {progress.kl:.3f}, overlap {progress.overlap:.3f}"
    )
