"""The verifier that runs a language model: batcher and engine behind the daemon's interface."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cloud_worker.batcher import Batcher
from cloud_worker.engine import Engine
from cloud_worker.verifier import Facts, StepResult

if TYPE_CHECKING:
    from cloud_worker.settings import WorkerSettings
    from cloud_worker.target import Target
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker import WorkItem


class ModelVerifier:
    """A `Verifier` over a loaded target."""

    def __init__(self, target: Target, settings: WorkerSettings) -> None:
        loaded, proof = target.loaded, target.proof
        self._engine = Engine(target.packed)
        self._batcher = Batcher(prefill=settings.prefill)
        self._facts = Facts(
            fingerprint=loaded.fingerprint,
            max_context=loaded.max_context,
            vocab_size=loaded.vocab_size,
            exactness="exact" if proof.exact else "exact up to ties",
            flip_rate=None if proof.exact else proof.flip_rate,
            device=settings.device,
            dtype=settings.dtype,
        )

    @property
    def facts(self) -> Facts:
        """What it is."""
        return self._facts

    def add(self, item: WorkItem) -> None:
        """Take an item in."""
        self._batcher.add(item)

    def free(self, key: SessionKey) -> None:
        """Forget a session and its item."""
        self._batcher.drop(key)
        self._engine.free(key)

    def idle(self) -> bool:
        """Whether nothing is pending."""
        return not self._batcher.pending

    def step(self) -> StepResult:
        """Run one forward over what the batcher composes."""
        began = time.perf_counter()
        slices = self._batcher.compose(self._engine)
        decided = self._batcher.settle(self._engine.step(slices)) if slices else []
        spent = int(1000 * (time.perf_counter() - began))
        return StepResult([(result.item, result.tokens) for result in decided], spent)
