"""A version beside its base: a head's folder, held by the model of an engine as a worker holds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud_worker.engine.target import Target
from cloud_worker.settings import WorkerSettings
from cloud_worker.versions.loader import Base
from flexspec_mq.errors import UsageError
from flexspec_mq.heads.manifest import CANARY_SHARE, MANIFEST, HeadError, digest, read_head
from flexspec_mq.models.heads.base import weights_fingerprint
from flexspec_mq.models.heads.canary import canary_share
from flexspec_mq.models.heads.files import read_weights
from flexspec_mq.models.invariance.proof import prove_head
from flexspec_mq.models.shape import FAMILIES, HEAD_NORMS, Shape

HEAD: Final = "measured"
"""Name of the head in the model."""


@dataclass(frozen=True, slots=True)
class Version:
    """Version that is measured.

    Attributes:
        head: name that the model's inputs give; empty is the base.
        digest: digest of the head's manifest, 64 hex digits; None without a head.
        exact: whether its verification does not depend on what shares a forward.
    """

    head: str
    digest: str | None
    exact: bool


def hold_version(target: Target, settings: WorkerSettings, folder: Path | None) -> Version:
    """Let the target's model hold a head, checked and proved as by a worker.

    Args:
        target: loaded.
        settings: settings of its worker.
        folder: folder of the head; None is the base alone.

    Raises:
        HeadError: the head is damaged, of another base, or does not write what its manifest says.
        UsageError: the target is not in a folder.
    """
    loaded = target.loaded
    if folder is None:
        return Version("", None, target.proof.exact)
    if not isinstance(loaded.source, Path):
        raise UsageError("heads are for a base in a folder", hint="download the target first")
    sizes = Shape.from_config(loaded.config, (*FAMILIES, *HEAD_NORMS))
    manifest = read_head(folder)
    base = Base(
        version=settings.version,
        weights_fingerprint=weights_fingerprint(loaded.source),
        tokenizer=loaded.fingerprint.hex(),
        sizes=sizes,
        dtype=settings.dtype,
        weights=settings.weights,
        exactness=target.proof.word,
    )
    base.check(HEAD, manifest)
    name, exact = "", target.proof.exact
    if manifest.kind != "base":
        name = HEAD
        target.model.hold(name, read_weights(folder, manifest.kind, sizes, manifest.floor))
        exact = exact and prove_head(target.model, name).exact
    found = canary_share(target.model, name, manifest.canaries)
    if found < CANARY_SHARE:
        raise HeadError(
            f"{found:.0%} of the canaries of {folder} come out, less than {CANARY_SHARE:.0%}",
            hint="its weights are not those that the canaries were written with: train it again",
        )
    return Version(name, digest((folder / MANIFEST).read_bytes()).hex(), exact)
