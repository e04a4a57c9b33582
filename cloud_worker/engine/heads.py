"""Heads beside the base in the model of our own engine."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from flexspec_mq.models.head_files import read_weights
from flexspec_mq.models.invariance.proof_cache import proving_remembered
from flexspec_mq.models.invariance.target import canary_share
from flexspec_mq.models.memory import trim
from flexspec_mq.models.shape import Shape

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from cloud_worker.engine.interface import Exactness, Submit
    from cloud_worker.engine.target import Target
    from flexspec_mq.heads.manifest import Canary, Manifest
    from flexspec_mq.models.invariance.proof import Proof

_log = logging.getLogger(__name__)


class ModelHeads:
    """A `HeadHolder` over a target: forwards, and what changes the model, are done between two steps, one at a time.

    Args:
        target: Target that holds the heads.
        again: Whether heads are proved that have been.

    Attributes:
        loaded: See `HeadHolder`.
    """

    def __init__(self, target: Target, *, again: bool = False) -> None:
        self.loaded = target.loaded
        self._target = target
        self._model = target.model
        self._again = again

    @property
    def layers(self) -> int:
        """See `HeadHolder`."""
        return self._sizes.layers

    @property
    def _sizes(self) -> Shape:
        return Shape.from_config(self.loaded.config)

    def hold(self, name: str, folder: Path, manifest: Manifest, submit: Submit) -> None:
        """See `HeadHolder`."""
        weights = read_weights(folder, manifest.kind, self._sizes, manifest.floor)
        submit(partial(self._model.hold, name, weights)).result()

    def count_right(self, name: str, canary: Canary, submit: Submit) -> int:
        """See `HeadHolder`."""
        share = submit(partial(canary_share, self._model, name, (canary,))).result()
        return round(share * len(canary.text))

    def prove(self, name: str, digest: bytes, submit: Submit) -> Exactness:
        """See `HeadHolder`."""
        steps = proving_remembered(self._target.candidate, self._model, name, digest.hex(), again=self._again)
        while (found := submit(partial(_advance, steps)).result()) is None:
            continue
        proof, remembered = found
        if remembered:
            _log.info("version %s: proved at an earlier start", name)
        trim()
        return proof.word

    def drop(self, name: str, submit: Submit) -> None:
        """See `HeadHolder`."""
        submit(partial(self._model.drop, name)).result()
        trim()


def _advance(steps: Generator[float, None, tuple[Proof, bool]]) -> tuple[Proof, bool] | None:
    """Go one step; what was found, if it was the last."""
    try:
        next(steps)
    except StopIteration as ended:
        found: tuple[Proof, bool] = ended.value
        return found
    return None
