"""Drafter of a worker, for all versions of its family: a draft model and lookups, or lookups alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.drafting.load import load as load_draft
from flexspec_mq.drafting.load import text_of
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.drafting.settings import DraftSettings
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.models.load import load_text
from flexspec_mq.models.memory import trim
from flexspec_mq.models.target_text import token_map
from flexspec_mq.scheduling.worker_drafter import PREFILL, WorkerDrafter

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloud_worker.settings import WorkerSettings
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
    found = text_of(choice(settings, settings.draft), say)
    _map_of(settings, found, load_text(settings.target, progress=say))


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
    if settings.draft == _LOOKUP or (settings.draft == "auto" and settings.target != "default"):
        return lookups
    try:
        draft = load_draft(choice(settings, "default" if settings.draft == "auto" else settings.draft), say)
        known = _map_of(settings, draft.loaded, target)
    except FlexSpecError as error:
        if settings.draft != "auto":
            raise
        say(f"no draft beside the target, which is left to lookups: {error.message}")
        return lookups
    trim()
    if draft.drafter is None:
        return None
    if draft.model is not None:
        draft.model.prefill = PREFILL
        draft.model.token_map = lambda _fingerprint: known
    return WorkerDrafter(draft.drafter, f"{draft.loaded.name}, {draft.engine}")


def choice(settings: WorkerSettings, draft: str) -> DraftSettings:
    """The draft of a name, as the settings want it. On a CPU it is in few bits, whatever the target is."""
    on_cpu = settings.device == "cpu"
    return DraftSettings(
        draft=draft,
        device=settings.device,
        dtype="bfloat16" if on_cpu else settings.dtype,
        threads=settings.threads,
        draft_engine=settings.draft_engine,
    )


def _map_of(settings: WorkerSettings, draft: LoadedText, target: LoadedText) -> TokenMap:
    # Only ids pass between the two: how turns are written and where a text ends is none of the draft's business.
    tokens = token_map(draft, target)
    if tokens.misfit:
        raise UsageError(
            f"the draft {settings.draft} has another vocabulary than the target {settings.target}: {tokens.misfit}",
            hint="name a draft that has the target's vocabulary with --draft, or --draft none",
        )
    return tokens
