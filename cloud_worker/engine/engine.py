"""The engine that runs a language model: schedule, run, decide."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from cloud_worker.engine.acceptance import decide
from cloud_worker.engine.interface import Facts, Memory, Recommended, StepResult
from cloud_worker.engine.kv_cache import KVCache
from cloud_worker.engine.memory import default_limit
from cloud_worker.engine.scheduler import Scheduler
from flexspec_mq.errors import UsageError
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.protocol.worker.types import DraftRows
from flexspec_mq.sampling.noise import words
from flexspec_mq.sampling.params import SamplingParams
from flexspec_mq.scheduling.draft_budget import DraftBudget, tokens_right
from flexspec_mq.scheduling.prefill_budget import LEAST, PrefillBudget
from flexspec_mq.scheduling.prefill_shares import DEVICE_PREFILL, DEVICE_PREFILL_SHARE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    import numpy as np
    import numpy.typing as npt

    from cloud_worker.engine.scheduler import Scheduled
    from cloud_worker.engine.target import Target
    from cloud_worker.engine.timing import Timings
    from cloud_worker.settings import WorkerSettings
    from flexspec_mq.models.invariance.proof import Provable
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem
    from flexspec_mq.sampling.noise import Words
    from flexspec_mq.scheduling.colocated import ColocatedDrafts

_LEAST = 256
"""Tokens: a worker whose memory cannot hold a session of that many is not worth starting."""


class EngineCore:
    """Schedule, run, postprocess: work items in, tokens out; knows token ids only.

    Everything runs on one thread, never on the event loop.

    Args:
        model: Target; it computes, and nothing else.
        limit: Bytes of keys and values at most; None is no limit.
        prefill: Tokens of unread prefixes that one forward may read.
        budget: Prefill budget that says that anew for each forward instead.
        drafts: Worker's own drafter, which goes on from the edges' drafts where there is room.
        draft_budget: Rule by which drafted tokens get rows; all get theirs without one.
        batch: Sessions that one forward decides at most.
        device_prefill, device_prefill_share: see `PrefillShares`.

    Attributes:
        scheduler: Pending items, and keys and values.
        batch: Sessions that shared the newest forward.
        fed: Tokens that it read, drafted ones included.
        rows: Rows of sessions whose drafts it cut, or drafted for.
        held_back: Sessions that it put off as their device had more of them than others.
    """

    def __init__(
        self,
        model: Provable,
        *,
        limit: int | None = None,
        prefill: int = 256,
        budget: PrefillBudget | None = None,
        drafts: ColocatedDrafts | None = None,
        draft_budget: DraftBudget | None = None,
        batch: int = 2**31,
        device_prefill: int = DEVICE_PREFILL,
        device_prefill_share: float = DEVICE_PREFILL_SHARE,
    ) -> None:
        self.scheduler = Scheduler(
            KVCache(model.new_kv, limit),
            prefill=prefill,
            budget=budget,
            batch=batch,
            device_prefill=device_prefill,
            device_prefill_share=device_prefill_share,
        )
        self._model = model
        self.drafts = drafts
        self.draft_budget = draft_budget or DraftBudget(rationed=False)
        self._noise = ThreadPoolExecutor(1, "noise")
        self.batch = self.fed = self.held_back = 0
        self.rows: dict[SessionKey, DraftRows] = {}

    def step(self) -> list[tuple[WorkItem, tuple[int, ...]]]:
        """Run one forward over what the scheduler chooses; return the items that it decided, with their tokens.

        Raises:
            MemoryError: see `Scheduler.schedule`.
        """
        drafts = self._draft()
        began = time.perf_counter()
        scheduled = self.scheduler.schedule(drafts)
        self.batch, self.fed = len(scheduled), sum(len(one.model_input.tokens) for one in scheduled)
        if not scheduled:
            return []
        decided = self._postprocess(scheduled, *self._run(scheduled))
        if writing := [len(one.model_input.tokens) for one in scheduled if one.item.key in drafts]:
            fed, ms = sum(writing), 1000 * (time.perf_counter() - began)
            self.draft_budget.observe(len(writing), fed - len(writing), ms, self.fed - fed)
        return decided

    def _draft(self) -> dict[SessionKey, tuple[int, ...]]:
        """Drafts of the sessions that the next forward decides: the edges', as far as they get rows, then our own."""
        ready = self.scheduler.writing_items(self.draft_budget.takes)
        self.held_back = self.scheduler.held_back
        given = {item.key: len(item.draft) for item in ready}
        rows = self.draft_budget.allocate(given, self.scheduler.sharing, self.scheduler.reading_ms())
        own = {} if self.drafts is None else self.drafts.draft(ready, rows, self.draft_budget)
        self.rows = {
            key: DraftRows(len(own.get(key, ())), None if granted == given[key] else granted)
            for key, granted in rows.granted.items()
            if granted < given[key] or key in own
        }
        return {item.key: item.draft[: rows.granted[item.key]] + own.get(item.key, ()) for item in ready}

    def _run(
        self, scheduled: Sequence[Scheduled]
    ) -> tuple[list[npt.NDArray[np.float32]], list[Future[Words] | None]]:
        """Logits of a forward, and the noise of the first token that each item decides.

        Which noise that is depends on seed and position alone. Drawing it is most of what sampling costs, so that runs
        beside the forward, on another core where there is one.
        """
        noises = [
            self._noise.submit(words, one.item.identity.seed, len(one.item.context), self._model.vocab_size)
            if one.model_input.rows and one.item.identity.temperature != 0.0
            else None
            for one in scheduled
        ]
        return self.forward([one.model_input for one in scheduled]), noises

    def _postprocess(
        self,
        scheduled: Sequence[Scheduled],
        logits: Sequence[npt.NDArray[np.float32]],
        noises: Sequence[Future[Words] | None],
    ) -> list[tuple[WorkItem, tuple[int, ...]]]:
        """Decide tokens; what they leave right of keys and values stays, and the drafts are judged by them."""
        decided = []
        for one, rows, noise in zip(scheduled, logits, noises, strict=True):
            item = one.item
            if not one.model_input.rows:
                continue
            params = SamplingParams.of(item.identity)
            eos = () if item.identity.ignore_eos else item.identity.eos
            drawn = None if noise is None else noise.result()
            tokens = decide(rows, one.draft, params, len(item.context), eos, drawn)
            draft = one.draft[: len(item.draft)]  # without our own behind it
            right = tokens_right(draft, tokens)
            wrong = right < min(len(draft), len(tokens))
            self.draft_budget.decided(item.key, len(tokens), right, wrong=wrong)
            if self.scheduler.settle(item, tokens):
                decided.append((item, tokens))
        return decided

    def forward(self, inputs: Sequence[ModelInput]) -> list[npt.NDArray[np.float32]]:
        """Run one forward; the keys and values of each input then hold its tokens.

        Args:
            inputs: at most one per session, with room for its tokens.

        Returns:
            For each input, float32 logits of shape [its rows, vocabulary].
        """
        logits = to_numpy(self._model.forward(inputs))
        ends = [0, *accumulate(model_input.rows for model_input in inputs)]
        return [logits[begin:end] for begin, end in pairwise(ends)]


class ModelEngine:
    """An `Engine` over a loaded target.

    Args:
        target: loaded and proved.
        settings: Settings of the worker.
        kv_bytes: most bytes of keys and values at any moment; None is what the settings say, or a quarter of the memory
            that is available now.
        drafts: Worker's own drafter, for sessions that want it.
        timings: Times of target and draft, to begin with.

    Raises:
        UsageError: too little memory to write anything with.
    """

    def __init__(
        self,
        target: Target,
        settings: WorkerSettings,
        *,
        kv_bytes: int | None = None,
        drafts: ColocatedDrafts | None = None,
        timings: Timings | None = None,
    ) -> None:
        loaded, proof = target.loaded, target.proof
        self._target = target
        if kv_bytes is None and settings.kv_mb is not None:
            kv_bytes = 1_000_000 * settings.kv_mb
        limit = default_limit(settings.device) if kv_bytes is None else kv_bytes
        self._budget = PrefillBudget(
            most=settings.prefill, target=settings.step_ms, least=min(LEAST, settings.prefill)
        )
        self._drafts = drafts
        draft_budget = DraftBudget(rationed=settings.draft_rows == "worth")
        if timings is not None:
            draft_budget.prime(timings.forwards, timings.calls, timings.read)
        self._core = EngineCore(
            target.model,
            limit=limit,
            budget=self._budget,
            drafts=drafts,
            draft_budget=draft_budget,
            batch=settings.batch,
            device_prefill=settings.device_prefill,
            device_prefill_share=settings.device_prefill_share,
        )
        self._scheduler = self._core.scheduler
        self._caches = self._scheduler.caches
        _check_room(self._caches)
        self._facts = Facts(
            fingerprint=loaded.fingerprint,
            max_context=loaded.max_context,
            vocab_size=loaded.vocab_size,
            exactness=proof.word,
            flip_rate=None if proof.exact else proof.flip_rate,
            device=settings.device,
            dtype=settings.dtype,
            weights=settings.weights,
            room=self._caches.room,
            keeps=True,
            recommended=Recommended.from_generation(loaded.generation),
            tokenizer=loaded.tokenizer_status,
            timings=timings,
            target=loaded.name,
            proof=f"{proof}{'; proved at an earlier start' if target.remembered else ''}",
        )

    @property
    def facts(self) -> Facts:
        """See `Engine`."""
        if self._drafts is None:
            return self._facts
        return replace(self._facts, draft=self._drafts.name)

    @property
    def head_model(self) -> Target:
        """The target."""
        return self._target

    @property
    def memory(self) -> Memory:
        """See `Engine`."""
        return Memory(self._caches.nbytes, self._caches.limit, self._caches.dropped, self._caches.evicted)

    def add(self, item: WorkItem) -> None:
        """Take an item in."""
        self._scheduler.add(item)

    def hold(self, version: str, head: str) -> None:
        """From now on items of a version are of a head that the model holds; "" is the base."""
        self._scheduler.heads[version] = head

    def drop(self, version: str) -> str:
        """A version has no items any more, and gets none; the name of its head."""
        return self._scheduler.heads.pop(version, "")

    def free(self, key: SessionKey) -> None:
        """Forget a session and its item."""
        self._scheduler.free(key)
        self._forget_draft(key)

    def release(self, key: SessionKey) -> None:
        """A session is over: drop its item and keep its keys and values while there is room."""
        self._scheduler.release(key)
        self._forget_draft(key)

    def _forget_draft(self, key: SessionKey) -> None:
        self._core.draft_budget.forget(key)
        if self._drafts is not None:
            self._drafts.free(key)

    def transfer(self, source: SessionKey, key: SessionKey) -> None:
        """Give the keys and values of one session to another."""
        self._caches.transfer(source, key)

    def idle(self) -> bool:
        """Whether nothing is pending."""
        return not self._scheduler.pending

    def step(self) -> StepResult:
        """Run one forward over what the scheduler chooses."""
        began = time.perf_counter()
        decided = self._core.step()
        spent = 1000 * (time.perf_counter() - began)
        if self._core.batch:
            writing = self._scheduler.writing
            self._budget.observe(writing, max(0, self._core.fed - writing), spent)
        drafted = 0 if self._drafts is None else self._drafts.drafted
        core = self._core
        return StepResult(
            decided,
            int(spent),
            core.batch,
            core.fed,
            drafted,
            core.draft_budget.cut,
            core.rows,
            core.held_back,
            core.scheduler.slowed if core.batch else 0,
        )


def _check_room(caches: KVCache) -> None:
    if caches.room is not None and caches.room < _LEAST:
        raise UsageError(
            f"{caches.limit} bytes for keys and values hold {caches.room} tokens of this model, less than {_LEAST}",
            hint="allow more memory, or free some",
        )
