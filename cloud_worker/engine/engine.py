"""The engine that runs a language model: schedule, run, decide."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from cloud_worker.engine.acceptance import decide
from cloud_worker.engine.grammars import MOST_FORCED, TextGrammars
from cloud_worker.engine.heads import ModelHeads
from cloud_worker.engine.interface import Facts, KVMemory, StepResult
from cloud_worker.engine.kv_cache import KVCache
from cloud_worker.engine.memory import default_limit
from cloud_worker.engine.scheduler import Scheduler
from flexspec_mq.errors import GrammarError, UsageError
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.models.load import recommended
from flexspec_mq.models.target_text import told_text
from flexspec_mq.protocol.digest import common_length
from flexspec_mq.protocol.worker.types import ALL_ROWS, DraftRows, Full
from flexspec_mq.sampling.noise import lucky_words
from flexspec_mq.sampling.penalties import penalties
from flexspec_mq.sampling.rows import Draw, choose_rows, few, needs_luck, penalized
from flexspec_mq.scheduling.slot_budget import STEP_MS, SlotBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from mmap import mmap

    import torch

    from cloud_worker.engine.scheduler import Scheduled
    from cloud_worker.engine.target import Target
    from cloud_worker.engine.timing import Timings
    from cloud_worker.settings import WorkerSettings
    from flexspec_mq.drafting.interface import PricedDrafter
    from flexspec_mq.grammar.compiled import CompiledGrammars
    from flexspec_mq.grammar.matcher import Mask
    from flexspec_mq.models.invariance.target import TargetModel
    from flexspec_mq.models.runner import ModelInput
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem
    from flexspec_mq.sampling.penalties import Penalties
    from flexspec_mq.scheduling.worker_drafter import WorkerDrafter
    from schemas.status import DraftOffer

Masks: TypeAlias = "list[Mask] | GrammarError"
"""Masks of a session's rows, or what is wrong with its grammar."""
_LEAST = 256
"""Tokens: a worker whose memory cannot hold a session of that many is not worth starting."""


class ModelEngine:
    """An `Engine` over a target: schedule, run, postprocess. Nothing of it runs on the event loop.

    Args:
        model: Target; it computes, and nothing else.
        limit: Bytes of KV cache at most; None is no limit.
        prefill: Tokens of unread prefixes that one forward may read, whatever time it takes.
        budget: Budget of each step instead, which bounds its time and gives slots to drafted tokens that are worth it.
        drafts: Worker's own drafter, which goes on from the edges' drafts where there is room.
        facts: Properties of the target.
        head_holder: Holder of heads beside the base.
        grammars: Grammars of its texts.

    Attributes:
        scheduler: Pending items, and the KV cache.
        trouble: See `Engine`; a model has none.
        full: See `Engine`; the worker's capacity is a model's bound.
    """

    requests = None
    trouble = ""
    full = Full()

    def __init__(
        self,
        model: TargetModel,
        *,
        limit: int | None = None,
        prefill: int = 256,
        budget: SlotBudget | None = None,
        drafts: WorkerDrafter | None = None,
        facts: Facts | None = None,
        head_holder: ModelHeads | None = None,
        grammars: CompiledGrammars | None = None,
    ) -> None:
        self._budget = budget or SlotBudget(most=prefill, rationed=False)
        self.scheduler = Scheduler(KVCache(model.new_kv, limit), self._budget)
        self.drafts = drafts
        self.head_holder = head_holder
        self.grammars = grammars
        self._texts = None if grammars is None else TextGrammars(grammars)
        if drafts is not None and grammars is not None:
            drafts.grammar_of = grammars.get
        self._begun: list[WorkItem] = []  # with grammars, since the last step
        self._behind: dict[
            SessionKey, tuple[int, int]
        ] = {}  # tokens of drafts and forced behind them with rows
        self._model = model
        self._facts = facts
        self._noise = ThreadPoolExecutor(1, "noise")

    @property
    def facts(self) -> Facts:
        """See `Engine`."""
        assert self._facts is not None  # noqa: S101  a worker's engine has some
        draft = "" if self.drafts is None else self.drafts.name
        return replace(self._facts, room=self.scheduler.caches.room, draft=draft)

    @property
    def memory(self) -> KVMemory:
        """See `Engine`."""
        caches = self.scheduler.caches
        return KVMemory(caches.nbytes, caches.limit, caches.dropped, caches.evicted)

    def add(self, item: WorkItem) -> None:
        """See `Engine`."""
        self.scheduler.add(item)
        if item.identity.grammar is not None:
            self._begun.append(item)

    def hold(self, version: str, head: str) -> None:
        """See `Engine`."""
        self.scheduler.heads[version] = head

    def hold_drafter(self, version: str, drafter: PricedDrafter) -> None:
        """See `Engine`."""
        if self.drafts is not None:
            self.drafts.hold(version, drafter)

    def drop(self, version: str) -> str:
        """See `Engine`."""
        if self.drafts is not None:
            self.drafts.drop(version)
        return self.scheduler.heads.pop(version, "")

    def free(self, key: SessionKey) -> None:
        """See `Engine`."""
        self.scheduler.free(key)
        self._forget_draft(key)

    def release(self, key: SessionKey) -> None:
        """See `Engine`."""
        self.scheduler.release(key)
        self._forget_draft(key)

    def _forget_draft(self, key: SessionKey) -> None:
        if self._texts is not None:
            self._texts.free(key)
        if self.drafts is not None:
            self.drafts.free(key)

    def transfer(self, source: SessionKey, key: SessionKey, shared: int | None) -> None:
        """See `Engine`."""
        self.scheduler.caches.transfer(source, key, shared)

    def idle(self) -> bool:
        """See `Engine`."""
        return not self.scheduler.pending

    def wake(self) -> None:
        """See `Engine`; no step waits."""

    def close(self) -> None:
        """See `Engine`; a forward that still runs needs its threads, which end with the process."""

    def step(self) -> StepResult:
        """Run one forward over what the scheduler chooses.

        Raises:
            MemoryError: see `Scheduler.schedule`.
        """
        began = time.perf_counter()
        done = StepResult()
        self._force(done)
        drafts = self._draft(done)
        forward = time.perf_counter()
        scheduled = self.scheduler.schedule(drafts)
        fed = [len(share.model_input.tokens) for share in scheduled]
        if scheduled:
            self._postprocess(scheduled, *self._run(scheduled), done)
        ended = time.perf_counter()
        if scheduled:
            verified = [
                tokens for share, tokens in zip(scheduled, fed, strict=True) if share.item.key in drafts
            ]
            ms = 1000 * (ended - forward)
            drafted = sum(verified) - len(verified)
            self._budget.cost.observe(len(verified), drafted, sum(fed) - sum(verified), ms)
        done.compute_ms, done.batch, done.fed = int(1000 * (ended - began)), len(scheduled), sum(fed)
        done.drafted = 0 if self.drafts is None else self.drafts.drafted
        done.slowed = self._budget.slowed
        return done

    def _force(self, done: StepResult) -> None:
        """Decide what grammars leave no choice about where texts stand: no forward is needed for that."""
        begun, self._begun = self._begun, []
        for item in begun:
            if self.scheduler.pending.get(item.key) is not item or self._texts is None:
                continue
            try:
                forced = self._texts.forced(item, (), MOST_FORCED)
            except GrammarError as error:
                self._give_up(item, error, done)
                continue
            if forced:
                self.scheduler.drop(item.key)
                done.decided.append((item, forced))
                done.rows[item.key] = DraftRows(forced=len(forced))

    def _give_up(self, item: WorkItem, error: GrammarError, done: StepResult) -> None:
        self.scheduler.drop(item.key)
        done.failed.append((item, error))

    def _draft(self, done: StepResult) -> dict[SessionKey, tuple[int, ...]]:
        """Drafts of the sessions that the next forward decides: the edges', as far as they get slots, then our own.

        Behind them come tokens that a grammar forces. Noted is whose drafts were cut, or drafted for.
        """
        slots = self.scheduler.begin()
        done.held_back, done.cut = slots.held_back, slots.cut
        ready = [self.scheduler.pending[key] for key in slots.granted]
        own: dict[SessionKey, tuple[int, ...]] = {}
        if self.drafts is not None:
            own = self.drafts.draft(ready, slots)
            self.drafts.read(self.scheduler.pending.values(), slots)
        drafts: dict[SessionKey, tuple[int, ...]] = {}
        self._behind.clear()
        for item in ready:
            granted, ours = slots.granted[item.key], own.get(item.key, ())
            drafts[item.key] = item.draft[:granted] + ours
            if ours or granted < len(item.draft):
                done.rows[item.key] = DraftRows(len(ours), None if granted == len(item.draft) else granted)
            if item.identity.grammar is not None and self._texts is not None:
                forced = self._texts.behind_draft(item, drafts[item.key])
                self._behind[item.key] = len(drafts[item.key]), len(forced)
                drafts[item.key] += forced
        return drafts

    def _run(self, scheduled: Sequence[Scheduled]) -> tuple[Callable[[int], int], list[Masks]]:
        """Run a forward; from the index of a row of its logits to the token that the target chooses there.

        Which ids are lucky depends on seed and position alone, and what a grammar allows on the draft. Finding these is
        most of what such a sampling costs, so that runs beside the forward, on another core where there is one.

        Returns:
            The choice, and of each share its masks.
        """
        vocabulary = self._model.vocab_size
        rows = [
            (share.item.identity.sampling, len(share.item.context) + place)
            for share in scheduled
            for place in range(share.model_input.rows)
        ]
        lucky = [
            self._noise.submit(lucky_words, params.seed, position, vocabulary)
            if needs_luck(params, vocabulary) and not few(len(rows), vocabulary)
            else None
            for params, position in rows
        ]
        masking = [self._noise.submit(self._masks, share) for share in scheduled]
        logits = self.forward([share.model_input for share in scheduled])
        masks = [future.result() for future in masking]
        allowed = [
            mask
            for share, its in zip(scheduled, masks, strict=True)
            for mask in _padded([] if isinstance(its, GrammarError) else its, share.model_input.rows)
        ]
        draws = [
            Draw(params, position, None if few is None else few.result(), mask)
            for (params, position), few, mask in zip(rows, lucky, allowed, strict=True)
        ]
        changes = [change for share in scheduled for change in _penalties(share)]
        return choose_rows(penalized(logits, changes), draws), masks

    def _masks(self, share: Scheduled) -> Masks:
        if share.item.identity.grammar is None or not share.model_input.rows or self._texts is None:
            return []
        return self._texts.masks(share.item, share.draft)

    def _postprocess(
        self,
        scheduled: Sequence[Scheduled],
        chosen: Callable[[int], int],
        masks: Sequence[Masks],
        done: StepResult,
    ) -> None:
        """Decide tokens; what they leave right of the KV cache stays, and the drafts are judged by them."""
        end = 0
        for share, its in zip(scheduled, masks, strict=True):
            item, begin = share.item, end
            end += share.model_input.rows
            if begin == end:
                continue
            if isinstance(its, GrammarError):
                self._give_up(item, its, done)
                continue
            eos = () if item.identity.ignore_eos else item.identity.eos
            tokens = decide(map(chosen, range(begin, end)), share.draft, eos)
            draft = share.draft[: len(item.draft)]  # without our own behind it
            right = common_length(draft, tokens)
            wrong = right < min(len(draft), len(tokens))
            self._budget.decided(item.key, len(tokens), right, wrong=wrong)
            if self.scheduler.settle(item, tokens):
                done.decided.append((item, tokens + self._forced(item, tokens, done)))

    def _forced(self, item: WorkItem, tokens: tuple[int, ...], done: StepResult) -> tuple[int, ...]:
        """Tokens that the grammar forces behind decided ones; notes how many of all these it forces."""
        if item.identity.grammar is None or self._texts is None:
            return ()
        try:
            forced = self._texts.forced(item, tokens, MOST_FORCED)
        except GrammarError:  # its next item is given up
            forced = ()
        before, behind = self._behind.get(item.key, (0, 0))
        count = len(forced) + max(0, min(len(tokens), before + behind) - before)
        done.rows[item.key] = replace(done.rows.get(item.key, ALL_ROWS), forced=count)
        return forced

    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        """Run one forward; see `TargetModel.forward`."""
        return self._model.forward(inputs)


def _penalties(share: Scheduled) -> list[Penalties | None]:
    """Penalties of its rows, or None for each."""
    item, rows = share.item, share.model_input.rows
    params, context, length = item.identity.sampling, item.context, item.prompt_length
    if not rows or not params.penalized:
        return [None] * rows
    return [penalties(params, context[:length], context[length:], share.draft[: rows - 1])]


def _padded(masks: Sequence[Mask], rows: int) -> list[Mask | None]:
    """A mask for each row; rows behind a token that is not allowed are never asked for."""
    return [*masks, *(None for _ in range(rows - len(masks)))]


def build_engine(
    target: Target,
    settings: WorkerSettings,
    *,
    kv_bytes: int | None = None,
    drafts: WorkerDrafter | None = None,
    timings: Timings | None = None,
    offer: DraftOffer | None = None,
    offered: mmap | None = None,
) -> ModelEngine:
    """Make the engine of a worker from a target that is loaded and proved.

    The KV cache takes `kv_bytes` at most, or what the settings say, or a quarter of the memory that is available now.

    Raises:
        UsageError: too little memory to write anything with.
    """
    loaded, proof = target.loaded, target.proof
    if kv_bytes is None and settings.kv_mb is not None:
        kv_bytes = 1_000_000 * settings.kv_mb
    budget = SlotBudget(
        most=settings.prefill,
        target=STEP_MS,
        device_prefill=settings.device_prefill,
        batch=settings.batch,
        rationed=settings.draft_rows == "worth",
    )
    if timings is not None:
        budget.cost.prime(timings.forwards)
        budget.prime(timings.calls, timings.read)
    grammars = loaded.grammars()
    facts = Facts(
        fingerprint=loaded.fingerprint,
        max_context=loaded.max_context,
        vocab_size=loaded.vocab_size,
        exactness=proof.word,
        flip_rate=None if proof.exact else proof.flip_rate,
        device=settings.device,
        dtype=settings.dtype,
        weights=target.candidate.kind,
        keeps=True,
        recommended=recommended(loaded.generation),
        **told_text(loaded)._asdict(),
        timings=timings,
        target=loaded.name,
        proof=f"{proof}{'; proved at an earlier start' if target.remembered else ''}",
        grammar="" if grammars is None else engine_name(),
        offer=offer,
        offered=offered,
    )
    engine = ModelEngine(
        target.model,
        limit=default_limit(settings.device) if kv_bytes is None else kv_bytes,
        budget=budget,
        drafts=drafts,
        facts=facts,
        head_holder=ModelHeads(target, again=settings.prove),
        grammars=grammars,
    )
    caches = engine.scheduler.caches
    if caches.room is not None and caches.room < _LEAST:
        raise UsageError(
            f"{caches.limit} bytes of KV cache hold {caches.room} tokens of this model, less than {_LEAST}",
            hint="allow more memory, or free some",
        )
    return engine
