"""Loading a worker's draft, which serves all versions of its family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloud_worker.engine.colocated import ColocatedDrafts
from flexspec_mq.drafting.load import load as load_draft
from flexspec_mq.drafting.settings import DraftChoice
from flexspec_mq.errors import UsageError
from flexspec_mq.models.heap import trim

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloud_worker.settings import WorkerSettings


def load(settings: WorkerSettings, fingerprint: bytes, say: Callable[[str], None]) -> ColocatedDrafts | None:
    """The drafts that the settings want; None for none.

    Args:
        settings: of the worker. On a CPU the draft is in few bits, whatever the target is.
        fingerprint: of the target's vocabulary, 16 bytes.
        say: told what takes long.

    Raises:
        ModelError: the draft cannot be loaded.
        UsageError: it is for another vocabulary.
    """
    if settings.draft == "none":
        return None
    on_cpu = settings.device == "cpu"
    choice = DraftChoice(
        draft=settings.draft,
        device=settings.device,
        dtype="bfloat16" if on_cpu else settings.dtype,
        threads=settings.threads,
        draft_engine=settings.draft_engine,
        draft_weights=settings.draft_weights,
    )
    draft = load_draft(choice, say)
    if draft.loaded.fingerprint != fingerprint:
        raise UsageError(
            f"the draft {settings.draft} has another vocabulary than the target {settings.target}",
            hint="name a draft that was made for this target with --draft, or --draft none",
        )
    trim()
    if draft.drafter is None:
        return None
    return ColocatedDrafts(draft.drafter, f"{draft.loaded.name}, {draft.engine}")
