"""Training from files to files, with progress and preliminary deltas."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from flexspec_mq.errors import ModelError
from flexspec_mq.models.draft.calibrate import calibrate
from flexspec_mq.models.draft.delta import (
    RANKS,
    DeltaMeta,
    base_fingerprint,
    check_fingerprint,
    load_delta,
    read_shared,
)
from flexspec_mq.models.load import LoadedModel, load_target
from flexspec_mq.models.tokenizer import ROLES
from flexspec_mq.models.weights import fingerprint_of
from training.cli_common import progress_bar
from training.draft.architecture import check_llama_like, lm_head_weight
from training.draft.cache import StateCache
from training.draft.evaluate import TEMPERATURES, Replay, ReplayFigures, cached_rows, coupled, replay
from training.draft.low_rank import LowRank, write_adapter
from training.draft.measuring import calibrated, spread
from training.draft.packing import save_delta
from training.draft.rows import load_rows, token_ranks
from training.draft.schedule import TrainConfig
from training.draft.train import Progress, Stopped, Trainer
from training.draft.version import load_teacher, read_version

log = logging.getLogger(__name__)

HELD_OUT_ROWS = 60


@dataclass(frozen=True, slots=True)
class TrainFiles:
    """Where training reads and writes.

    Attributes:
        base: Checkpoint folder of the base.
        texts: Target-written rows, ``.npz``.
        cache: Folder for the teacher's states.
        out: The delta, or with a head the PEFT adapter directory. Beside it lies ``<out>.state``, what resuming
            needs.
        earlier: A delta to begin with, of the same base and as many layers; None to begin with copies of the
            base's layers.
        head: Folder of a head: that version is the teacher, and wrote the text; None is the base.
    """

    base: Path
    texts: tuple[Path, ...]
    cache: Path
    out: Path
    earlier: Path | None = None
    head: Path | None = None

    @property
    def state(self) -> Path:
        """File from which a training is resumed."""
        return self.out.with_name(self.out.name + ".state")


def train_draft(
    files: TrainFiles,
    config: TrainConfig,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    save_seconds: float = 300.0,
    calibration_rows: int = HELD_OUT_ROWS,
) -> ReplayFigures | None:
    """Train, or go on training, and write the delta.

    Args:
        files: Where to read and write.
        config: How to train.
        should_stop: Asked between steps.
        save_seconds: Seconds of training between saved states and preliminary deltas.
        calibration_rows: Held-out rows at most, evenly spread, that the confidence is fitted to at the end; 0 for
            none.

    Returns:
        What the draft reaches on held-out rows, or None if it was stopped. Delta and state are saved anyway.

    Raises:
        ModelError: A file is unreadable or does not belong to the others.
    """
    text = load_rows(*files.texts)
    loaded = load_target(files.base, device=config.device)
    check_llama_like(loaded.model)
    if int(text.ids.max()) >= loaded.vocab_size:
        raise ModelError(
            f"the text has token {int(text.ids.max())}, the base only {loaded.vocab_size}",
            hint="train on text that this very model wrote",
        )
    version = None if files.head is None else read_version(files.head, files.base, loaded)
    if version is not None and version.floor < config.n:
        raise ModelError(
            f"the head may change layers from {version.floor} on, and the draft keeps {config.n} of the base",
            hint=f"give --layers {version.floor} or less",
        )
    fingerprint = base_fingerprint(files.base, config.n)
    width = lm_head_weight(loaded.model).shape[1]
    taught = fingerprint if version is None else f"{fingerprint} {version.digest}"
    cache = StateCache(files.cache, text, base=taught, n=config.n, width=width)
    saved, saved_step = time.monotonic(), 0

    def on_progress(progress: Progress) -> None:
        nonlocal saved, saved_step
        show(config.progress(progress.step, progress.seconds), lambda: describe(progress))
        if progress.step > saved_step and time.monotonic() - saved > save_seconds:
            run.save()
            saved, saved_step = time.monotonic(), progress.step

    teacher = None if version is None else load_teacher(files.base, version, config.device)
    trainer = Trainer(loaded.model, cache, config, on_progress, should_stop, teacher)
    if not len(trainer.held_out):
        log.warning(
            "no row is held out, so nothing will be measured or calibrated and all figures are 0: one prompt in "
            "fifty is, so give text of more prompts"
        )
    earlier, own = ({}, "") if files.earlier is None else _tensors_of(files.earlier, files.base)
    known = earlier.pop(RANKS, torch.zeros(0, dtype=torch.int32))
    if earlier:
        trainer.begin(earlier)
    if files.state.exists():
        trainer.resume(files.state)
    lm_head = None if version is None or version.head is None else version.head.lm_head
    run = _Run(
        files,
        trainer,
        DeltaMeta(fingerprint, config.n, config.start),
        _ranks(trainer, loaded, known),
        lambda lora: write_adapter(files.out, lora, lm_head, loaded.name, own),
    )
    with progress_bar() as show:
        try:
            trainer.collect(spread(trainer.held_out, max(HELD_OUT_ROWS, calibration_rows)))
            trainer.run()
        except Stopped:
            trainer.save(files.state)
            run.keep()  # without measuring, which takes long; `evaluate` can do it
            return None
    reached = run.save()
    run.calibrate(calibration_rows)
    return reached


@dataclass(slots=True)
class _Run:
    """Files that a training writes, and when."""

    files: TrainFiles
    trainer: Trainer
    meta: DeltaMeta
    ranks: torch.Tensor
    write_lora: Callable[[LowRank], None]

    def keep(self, **figures: float) -> None:
        """The delta, with the figures that were measured."""
        rows = len(self.trainer.cache.text)
        facts = {**asdict(self.trainer.progress), **figures, "rows_in_text": rows}
        self.meta = replace(self.meta, training=facts)
        self._write(self.meta)

    def save(self) -> ReplayFigures:
        """State, and preliminary or final delta."""
        trainer, files = self.trainer, self.files
        trainer.save(files.state)  # before what takes long
        rows = _collected(trainer, HELD_OUT_ROWS)
        reached = replay(trainer.draft, trainer.config.n, self._replays(rows))
        self.keep(**reached.figures())
        log.info("saved after %d steps: %s", trainer.progress.step, json.dumps(reached.figures()))
        return reached

    def calibrate(self, limit: int) -> None:
        """Write the final delta again, with a confidence; a LoRA goes by the draft's."""
        if self.trainer.lora is not None:
            return
        rows = _collected(self.trainer, limit)
        if len(rows) < 2:
            log.info("no calibrated confidence: %d held-out rows are too few", len(rows))
            return
        answers = coupled(self.trainer.draft, self.trainer.config.n, self._replays(rows), TEMPERATURES)
        calibration, found = calibrate(list(answers))
        self._write(calibrated(self.meta, calibration, found))
        log.info("confidence calibrated: %s", json.dumps(found.figures()))

    def _replays(self, rows: list[int]) -> Iterator[Replay]:
        return cached_rows(self.trainer.cache, rows, self.trainer.teacher_lm_head)

    def _write(self, meta: DeltaMeta) -> None:
        if self.trainer.lora is not None:
            self.write_lora(self.trainer.lora)
        else:
            save_delta(self.files.out, {**self.trainer.tensors(), RANKS: self.ranks}, meta)


def describe(progress: Progress) -> str:
    """Say in a line where the training is."""
    return (
        f"step {progress.step}, pass {progress.pass_number + 1} over {progress.rows} rows, "
        f"{progress.tokens} positions trained, {progress.collected} tokens collected, "
        f"{progress.seconds:.0f} s, KL {progress.kl:.3f}, overlap {progress.overlap:.3f}"
    )


def _tensors_of(earlier: Path, base: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Blocks and norm of an earlier draft of this base, and `RANKS`; and the fingerprint of all its weights.

    Raises:
        ModelError: The file is unreadable, or belongs to another base.
    """
    meta, tensors = load_delta(earlier, base)
    shared, fingerprint = read_shared(base, meta.n)
    check_fingerprint(meta.base_fingerprint, fingerprint, earlier, base)
    whole = {name: tensor for name, tensor in (shared | tensors).items() if name != RANKS}
    return tensors, fingerprint_of(sorted(whole.items()))


def _collected(trainer: Trainer, limit: int) -> list[int]:
    missing = set(trainer.cache.missing(trainer.held_out))
    return spread([row for row in trainer.held_out if row not in missing], limit)


def _ranks(trainer: Trainer, loaded: LoadedModel, known: torch.Tensor) -> torch.Tensor:
    """Ids for a trimmed LM head.

    Ids that end or structure a text come first, ids that only an earlier draft knew last.
    """
    ids, roles = loaded.tokenizer.get_vocab(), loaded.tokenizer.special_tokens_map
    first = [*loaded.eos, *(ids[token] for role in ROLES if (token := str(roles.get(role))) in ids)]
    found = token_ranks(trainer.cache.text, trainer.train_rows, first).tolist()
    return torch.tensor(list(dict.fromkeys([*found, *known.tolist()])), dtype=torch.int32)
