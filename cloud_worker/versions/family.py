"""What a worker needs to follow a family, made from its settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cloud_worker.versions.follower import FamilyFollower
from cloud_worker.versions.library import Library
from cloud_worker.versions.loader import Base, HeadLoader
from flexspec_mq.catalogue.follower import Follower
from flexspec_mq.catalogue.signing import read_public
from flexspec_mq.catalogue.store import Store
from flexspec_mq.errors import UsageError
from flexspec_mq.models.compact.shape import FAMILIES, HEAD_NORMS, Shape
from flexspec_mq.models.default import cache_folder
from flexspec_mq.models.heads.base import weights_fingerprint
from schemas.catalogue import BASE_ID

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloud_worker.engine.engine import ModelEngine
    from cloud_worker.engine.target import Target
    from cloud_worker.settings import FamilySettings, WorkerSettings


def family_follower(
    settings: FamilySettings,
    worker: WorkerSettings,
    target: Target,
    engine: ModelEngine,
    say: Callable[[str], None],
) -> FamilyFollower | None:
    """What keeps a worker's versions those of its family; None if it follows none.

    Args:
        settings: which family.
        worker: the worker's settings.
        target: loaded and proved.
        engine: that runs it.
        say: told what takes long.

    Raises:
        UsageError: the root key is none, or the target is not in a folder.
        ModelError: the target cannot have heads, or cannot be read.
        RecordError: what was kept of the family cannot be used.
    """
    if settings.family is None or settings.root_key is None:
        return None
    if not isinstance(target.loaded.source, Path):
        raise UsageError(
            f"heads are for a base in a folder, not for the model hub's {target.loaded.source}",
            hint="download the target first",
        )
    folder = settings.state_dir or cache_folder("families")
    store = Store(folder, settings.family)
    follower = Follower(settings.family, read_public(settings.root_key), store.load())
    say("computing the fingerprint of the base")
    base = Base(
        version=worker.version,
        weights_fingerprint=weights_fingerprint(target.loaded.source),
        tokenizer=target.loaded.fingerprint.hex(),
        sizes=Shape.of(target.loaded.config, (*FAMILIES, *HEAD_NORMS)),
        dtype=worker.dtype,
        weights=worker.weights,
        exactness=target.proof.word,
    )
    loader = HeadLoader(base, target, engine, folder / "heads", again=worker.prove)
    base_id = bytes.fromhex(base.weights_fingerprint)[:BASE_ID]
    library = Library(worker.version, target.proof.word, base_id)
    return FamilyFollower(follower, store, library, loader, settings.heads or "")
