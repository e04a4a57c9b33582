"""Drafter of a worker, for all versions of its family: a draft model and lookups, or lookups alone."""

from __future__ import annotations

import os
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING

from flexspec_mq.codec.blobs import name_of_file
from flexspec_mq.drafting.load import load as load_draft
from flexspec_mq.drafting.load import load_for_version as load_draft_for_version
from flexspec_mq.drafting.load import text_of
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.drafting.settings import DraftSettings
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.models.default import default_draft_path
from flexspec_mq.models.head_files import DRAFT_FILES
from flexspec_mq.models.load import find_model, load_text
from flexspec_mq.models.memory import trim
from flexspec_mq.models.target_text import token_map
from flexspec_mq.scheduling.worker_drafter import PREFILL, WorkerDrafter
from schemas.status import DraftOffer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cloud_worker.settings import WorkerSettings
    from flexspec_mq.drafting.interface import PricedDrafter
    from flexspec_mq.drafting.load import DraftModel
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.models.target_text import TokenMap

_LOOKUP = "lookup"
"""Name of a draft that is no model."""


def check(settings: WorkerSettings, say: Callable[[str], None]) -> None:
    """Refuse a draft that cannot serve, before the target is loaded and proved, which takes far longer.

    Raises:
        ModelError: there is no such draft or target, or nothing that runs the draft.
        UsageError: the draft is for another vocabulary, or settings that do not go together.
    """
    if settings.draft in ("auto", _LOOKUP, "none"):
        return
    found = load_text(settings.draft, progress=say)
    _map_of(settings, found, load_text(settings.target, progress=say))
    text_of(choice(settings, settings.draft), say)  # graphs are written, where that is to be done


def load(settings: WorkerSettings, target: LoadedText, say: Callable[[str], None]) -> WorkerDrafter | None:
    """The drafts that the settings want, None for none.

    ``auto`` is the default draft for the default target, and lookups alone where there is no draft.

    Raises:
        ModelError: the draft cannot be loaded.
        UsageError: it is for another vocabulary.
    """
    if settings.draft == "none":
        return None
    lookups = WorkerDrafter(PromptLookupDrafter(max_context=target.max_context), _LOOKUP)
    model = _model_of(settings)
    if model is None:
        return lookups
    try:
        draft = load_draft(model, say)
        drafter = _for_target(draft, settings, target)
    except FlexSpecError as error:
        if settings.draft != "auto":
            raise
        say(f"no draft beside the target, which is left to lookups: {error.message}; {error.hint}")
        return lookups
    trim()
    beside = settings.device == "cpu" and len(os.sched_getaffinity(0)) > settings.threads
    return WorkerDrafter(drafter, f"{draft.text.name}, {draft.engine}", beside=beside)


def load_for_version(
    settings: WorkerSettings, target: LoadedText, head: Path, say: Callable[[str], None]
) -> PricedDrafter | None:
    """The draft of the settings with the LoRA that lies in a version's head; None where there is no draft or no LoRA.

    Raises:
        ModelError: the LoRA is damaged or not for this draft, or nothing here can merge the two.
        UsageError: the draft has no checkpoint that could be merged, or another vocabulary than the target.
    """
    model = _model_of(settings)
    if model is None or not any((head / name).exists() for name in DRAFT_FILES):
        return None
    return _for_target(load_draft_for_version(model, head, say), settings, target)


def offered(settings: WorkerSettings, say: Callable[[str], None]) -> tuple[DraftOffer | None, mmap | None]:
    """The worker's draft as a file that devices may fetch, written into the cache where it is not there.

    Raises:
        ModelError: the draft has no checkpoint, or one that cannot be offered.
        UsageError: there is none.
    """
    if not settings.give_draft:
        return None, None
    if (model := _model_of(settings)) is None:
        raise UsageError(
            "--give-draft needs a draft",
            hint="name one with --draft, or leave it out; a device fetches the draft of a pair by its own --pair",
        )
    from flexspec_mq.models.onnx.offered import packed

    file = packed(
        find_model(model.draft, progress=say) if model.draft != "default" else default_draft_path(say), say
    )
    with file.open("rb") as opened:
        return DraftOffer(name_of_file(opened), file.stat().st_size), mmap(
            opened.fileno(), 0, access=ACCESS_READ
        )


def _model_of(settings: WorkerSettings) -> DraftSettings | None:
    """The model that the settings name as the draft; None for none."""
    if settings.draft in (_LOOKUP, "none") or (settings.draft == "auto" and settings.target != "default"):
        return None
    return choice(settings, "default" if settings.draft == "auto" else settings.draft)


def _for_target(draft: DraftModel, settings: WorkerSettings, target: LoadedText) -> PricedDrafter:
    """The drafter of a model, for ids of the target."""
    known = _map_of(settings, draft.text, target)
    assert draft.model is not None  # noqa: S101  a model was named
    assert draft.drafter is not None  # noqa: S101
    draft.model.prefill = PREFILL
    draft.model.token_map = lambda _fingerprint: known
    return draft.drafter


def choice(settings: WorkerSettings, draft: str) -> DraftSettings:
    """The draft of a name, as the settings want it. It runs on a CPU in few bits, whatever the target does."""
    return DraftSettings(draft=draft, threads=settings.threads)


def _map_of(settings: WorkerSettings, draft: LoadedText, target: LoadedText) -> TokenMap:
    # Only ids pass between the two: how turns are written and where a text ends is none of the draft's business.
    tokens = token_map(draft, target)
    if tokens.misfit:
        raise UsageError(
            f"the draft {settings.draft} has another vocabulary than the target {settings.target}: {tokens.misfit}",
            hint="name a draft that has the target's vocabulary with --draft, or --draft none",
        )
    return tokens
