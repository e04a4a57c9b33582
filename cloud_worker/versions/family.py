"""Following a family, as a worker's settings say."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_worker.engine.draft import load_for_version
from cloud_worker.versions.follower import FamilyFollower
from cloud_worker.versions.library import Library
from cloud_worker.versions.loader import HeadLoader
from flexspec_mq.catalogue.follower import Follower
from flexspec_mq.catalogue.signing import read_public
from flexspec_mq.catalogue.store import Store
from flexspec_mq.errors import UsageError
from flexspec_mq.heads.manifest import Manifest
from flexspec_mq.models.load import find_model
from flexspec_mq.models.weights import weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloud_worker.engine.interface import Engine, HeadHolder
    from cloud_worker.settings import FamilySettings, WorkerSettings

_log = logging.getLogger(__name__)


def family_follower(
    settings: FamilySettings, worker: WorkerSettings, engine: Engine, say: Callable[[str], None]
) -> FamilyFollower | None:
    """Make the follower that keeps a worker's versions those of its family; None if it follows none.

    Raises:
        UsageError: as `remembered`, or the engine holds no heads, or the target is not in a folder.
        ModelError: the target cannot have heads, or cannot be read.
        RecordError: as `remembered`.
    """
    known = remembered(settings)
    if known is None:
        return None
    follower, store = known
    heads = engine.head_holder
    if heads is None:
        raise UsageError(
            "this engine holds no heads, so it cannot follow a family", hint="leave --family out"
        )
    say("computing the fingerprint of the base")
    base = base_of(worker, heads, engine.facts.weights, say)
    drafter = partial(load_for_version, worker, heads.loaded, say=_log.info)
    drafts = (drafter,) if engine.facts.draft else ()
    loader = HeadLoader(worker.version, base, engine, heads, settings.folder / "heads", *drafts)
    library = Library(worker.version, engine.facts.exactness, base.base_id)
    return FamilyFollower(follower, store, library, loader, settings.heads or "")


def remembered(settings: FamilySettings) -> tuple[Follower, Store] | None:
    """Load what was kept of the family that the settings name, and where; None if they name none.

    Raises:
        UsageError: the root key is none, or there is no folder for what is kept.
        RecordError: what was kept cannot be used.
    """
    if settings.family is None or settings.root_key is None:
        return None
    store = Store(settings.folder, settings.family)
    return Follower(settings.family, read_public(settings.root_key), store.load()), store


def base_of(
    worker: WorkerSettings,
    heads: HeadHolder,
    weights: str = "native",
    say: Callable[[str], None] | None = None,
) -> Manifest:
    """Manifest of the base that a worker runs, without canaries.

    Args:
        worker: settings of the worker.
        heads: heads of its engine.
        weights: kind of weights that the engine computes with.
        say: told what takes longer than a second, as heads of a GGUF file are for the folder that is made of it.

    Raises:
        UsageError: the target is not in a folder.
        ModelError: it cannot have heads, or cannot be read.
    """
    loaded = heads.loaded
    source = find_model(worker.target, progress=say)
    if not isinstance(source, Path):
        raise UsageError(
            f"heads are for a base in a folder, not for the model hub's {source}",
            hint="download the target first",
        )
    return Manifest(
        kind="base",
        base=weights_fingerprint(source),
        tokenizer=loaded.fingerprint.hex(),
        layers=heads.layers,
        floor=0,
        dtype=worker.dtype,  # type: ignore[arg-type]
        weights=weights,  # type: ignore[arg-type]
    )
