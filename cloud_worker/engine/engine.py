"""The verifier that runs a language model: batcher and engine behind the daemon's interface."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cloud_worker.engine.interface import Facts, Memory, StepResult
from cloud_worker.engine.memory import default_limit
from cloud_worker.engine.model_runner import Engine
from cloud_worker.engine.prefill_budget import LEAST, PrefillBudget
from cloud_worker.engine.scheduler import Scheduler
from flexspec_mq.errors import UsageError

if TYPE_CHECKING:
    from cloud_worker.engine.target import Target
    from cloud_worker.settings import WorkerSettings
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem


_LEAST = 256
"""Tokens: a worker whose memory cannot hold a session of that many is not worth starting."""


class ModelVerifier:
    """A `Verifier` over a loaded target.

    Args:
        target: loaded and proved.
        settings: of the worker.
        kv_bytes: most bytes of keys and values at any moment; None is a quarter of the memory that is available now.
        step_ms: milliseconds that a step should take at most; it reads less of prompts so that it does.

    Raises:
        UsageError: too little memory to write anything with.
    """

    def __init__(
        self, target: Target, settings: WorkerSettings, *, kv_bytes: int | None = None, step_ms: float = 250.0
    ) -> None:
        loaded, proof = target.loaded, target.proof
        limit = default_limit(settings.device) if kv_bytes is None else kv_bytes
        self._engine = Engine(target.packed, limit=limit)
        _check_room(self._engine, limit)
        self._pace = PrefillBudget(most=settings.prefill, target=step_ms, least=min(LEAST, settings.prefill))
        self._batcher = Scheduler(pace=self._pace)
        self._facts = Facts(
            fingerprint=loaded.fingerprint,
            max_context=loaded.max_context,
            vocab_size=loaded.vocab_size,
            exactness="exact" if proof.exact else "exact up to ties",
            flip_rate=None if proof.exact else proof.flip_rate,
            device=settings.device,
            dtype=settings.dtype,
            room=self._engine.room,
        )

    @property
    def facts(self) -> Facts:
        """What it is."""
        return self._facts

    @property
    def memory(self) -> Memory:
        """What keys and values take now."""
        caches = self._engine.caches
        return Memory(caches.nbytes, caches.limit, caches.dropped, caches.evicted)

    def add(self, item: WorkItem) -> None:
        """Take an item in."""
        self._batcher.add(item)

    def free(self, key: SessionKey) -> None:
        """Forget a session and its item."""
        self._batcher.drop(key)
        self._engine.free(key)

    def retire(self, key: SessionKey) -> None:
        """A session is over: drop its item and keep its keys and values while there is room."""
        self._batcher.drop(key)
        self._engine.caches.retire(key)

    def move(self, source: SessionKey, key: SessionKey) -> None:
        """Give the keys and values of one session to another."""
        self._engine.caches.move(source, key)

    def idle(self) -> bool:
        """Whether nothing is pending."""
        return not self._batcher.pending

    def step(self) -> StepResult:
        """Run one forward over what the batcher composes."""
        began = time.perf_counter()
        slices = self._batcher.compose(self._engine)
        decided = self._batcher.settle(self._engine.step(slices)) if slices else []
        spent = 1000 * (time.perf_counter() - began)
        if slices:
            writing = self._batcher.writing
            self._pace.saw(writing, max(0, self._engine.fed - writing), spent)
        tokens = [(result.item, result.tokens) for result in decided]
        return StepResult(tokens, int(spent), len(slices), self._engine.fed if slices else 0)


def _check_room(engine: Engine, limit: int | None) -> None:
    if limit is not None and engine.room is not None and engine.room < _LEAST:
        raise UsageError(
            f"{limit} bytes for keys and values hold {engine.room} tokens of this model, less than {_LEAST}",
            hint="allow more memory, or free some",
        )
