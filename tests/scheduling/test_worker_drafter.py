"""A worker's own drafts: they change how many tokens a step decides, and never which."""

import logging
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from cloud_worker.engine.engine import ModelEngine
from flexspec_mq.drafting.hybrid import HybridDrafter
from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken, PricedDrafter
from flexspec_mq.drafting.model_drafter import ModelDrafter
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.worker.types import WorkItem
from flexspec_mq.scheduling.costs import ForwardCost
from flexspec_mq.scheduling.slot_budget import SlotBudget
from flexspec_mq.scheduling.step_slots import StepSlots
from flexspec_mq.scheduling.worker_drafter import WorkerDrafter
from tests.cloud_worker.test_engine import (
    LIMIT,
    PROMPTS,
    identity,
    item,
    model_of,
    run,
    with_room,
    write_all,
    written,
)
from tests.models.tiny_packed import VOCABULARY


class Scripted:
    """A `Drafter` that knows the texts of `written`, and errs at random; it answers like the real ones do."""

    def __init__(self, rng: random.Random, right: float = 0.8) -> None:
        self.rng, self.right = rng, right
        self.freed: list[int] = []
        self.asked: list[DraftRequest] = []

    def fits(self, context: Sequence[int]) -> bool:
        return len(context) < 170

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        self.asked += wanted
        return [self._one(one) for one in wanted]

    def _one(self, one: DraftRequest) -> Drafted:
        if self.rng.random() < 0.2:
            return self.rng.choice((None, ()))
        context = list(one.context)
        found: list[DraftToken] = []
        for _ in range(self.rng.randint(1, one.most)):
            found.append(DraftToken(self._token(context)))
            context.append(found[-1].token)
        return found

    def _token(self, context: list[int]) -> int:
        number = next(n for n, p in reversed(list(enumerate(PROMPTS))) if tuple(context[: len(p)]) == p)
        place = len(context) - len(PROMPTS[number])
        if place >= LIMIT or self.rng.random() > self.right:
            return self.rng.randrange(VOCABULARY)
        return written(number)[place]

    def unread(self, one: DraftRequest) -> int:  # noqa: ARG002
        return self.rng.choice((0, 1, 100))

    def lookups(self, wanted: Sequence[DraftRequest]) -> list[Sequence[DraftToken]]:
        self.asked += wanted
        return [self._one(one) or () for one in wanted]

    def free(self, session: int) -> None:
        self.freed.append(session)


class Whimsical(SlotBudget):
    """Grants slots at random, and every forward of the draft."""

    def __init__(self, rng: random.Random, prefill: int) -> None:
        super().__init__(most=prefill, rationed=False)
        self.rng = rng

    def step(
        self, ready: Mapping[SessionKey, int], reading: Mapping[SessionKey, int], now: float
    ) -> StepSlots:
        made = super().step(ready, reading, now)
        if self.rng.random() < 0.3:
            made.granted = {key: self.rng.randint(0, most) for key, most in made.granted.items()}
        return made


def drafter_of(kind: str, rng: random.Random) -> PricedDrafter:
    if kind == "scripted":
        return Scripted(rng)
    if kind == "lookup":
        return PromptLookupDrafter(max_context=4096)
    # The target as its own draft, which reads prompts in pieces.
    model = ModelDrafter(model_of(), max_context=4096, prefill=48, beside=16)
    return HybridDrafter(model, PromptLookupDrafter(max_context=4096))


@pytest.mark.parametrize(
    ("kind", "beside"),
    [("scripted", False), ("model and lookup", False), ("lookup", False), ("model and lookup", True)],
)
@settings(max_examples=3)
@given(st.integers(8, 150), st.integers(0, 2**32))
def test_sessions_write_what_they_write_alone_whoever_drafts(
    kind: str, beside: bool, prefill: int, seed: int
) -> None:
    rng = random.Random(seed)
    drafts = WorkerDrafter(drafter_of(kind, rng), "draft", beside=beside, most_tokens=400)
    engine = ModelEngine(model_of(), drafts=drafts, budget=Whimsical(rng, prefill))
    own = write_all(engine, rng, texts=(0, 2, 3), limit=16, rooms=(0, 1, 4, 8), jumps=0.05)
    assert own > 0 or kind != "model and lookup", "the others may be wrong all the time"
    assert drafts.name == "draft"


def test_a_draft_that_is_right_decides_its_room_and_one_more_in_one_step() -> None:
    drafts = WorkerDrafter(ModelDrafter(model_of(), max_context=4096), "draft")
    engine = ModelEngine(model_of(), prefill=1000, drafts=drafts)
    engine.scheduler.add(with_room(3, 0, 8))
    ((_, first),) = run(engine)
    assert first == written(3)[:1], "nothing is drafted while the target reads the prompt"
    engine.scheduler.add(with_room(3, 1, 5, written(3)[1:3]))
    ((_, tokens),) = (result := engine.step()).decided
    assert tokens == written(3)[1:9]
    assert result.fed == 1 + 2 + 5


def test_an_end_of_text_in_the_workers_own_draft_ends_draft_and_verdict() -> None:
    truth = written(2)
    end = next(i for i in range(2, 7) if truth[i] not in truth[:i])
    drafts = WorkerDrafter(ModelDrafter(model_of(), max_context=4096), "draft")
    engine = ModelEngine(model_of(), prefill=1000, drafts=drafts)
    run_to_first = item(2, 0, wanted=identity(2, eos=(truth[end],)))
    engine.scheduler.add(run_to_first)
    run(engine)
    engine.scheduler.add(replace(run_to_first, start=1, context=[*run_to_first.context, truth[0]], room=20))
    ((_, tokens),) = engine.step().decided
    assert tokens == truth[1 : end + 1]
    assert drafts.drafted == end


def test_one_that_raises_is_not_asked_again_and_the_texts_go_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Scripted):
        def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
            self.asked += wanted
            raise MemoryError("no room for the draft's KV cache")

    broken = Broken(random.Random(1))
    drafts = WorkerDrafter(broken, "draft")
    engine = ModelEngine(model_of(), prefill=1000, drafts=drafts)
    text: list[int] = []
    with caplog.at_level(logging.ERROR):
        while len(text) < 6:
            engine.scheduler.add(with_room(3, len(text), 4))
            text += run(engine)[0][1]
    assert tuple(text) == written(3)[:6]
    assert (len(broken.asked), drafts.name) == (1, "")
    assert "no room for the draft's KV cache" in caplog.text
    drafts.free(("edge", 3))


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60), st.integers(1, 600))
def test_what_the_drafter_may_hold_is_bounded_and_all_is_freed(
    calls: list[tuple[int, bool]], most: int
) -> None:
    scripted = Scripted(random.Random(0))
    drafts = WorkerDrafter(scripted, "draft", most_tokens=most)
    held: dict[int, int] = {}
    for session, free in calls:
        one = replace(with_room(session % len(PROMPTS), 2, 4), key=("edge", session))
        if free:
            drafts.free(one.key)
        else:
            drafts.draft([one], SlotBudget().step({one.key: 0}, {}, 0.0))
            if scripted.asked:
                assert scripted.asked[-1].device == "edge"
                held[scripted.asked[-1].session] = len(one.context) + one.room
        for number in scripted.freed:
            held.pop(number, None)
        assert len(held) <= 1 or sum(held.values()) <= most
    for session in range(10):
        drafts.free(("edge", session))
    assert not held.keys() - set(scripted.freed)


class Priced:
    """A drafter that reads prompts in pieces and looks up what it is told to; its forwards take its clock's time.

    Token 9 is the model's, tokens of `lookup` come from lookups.
    """

    def __init__(self, prompt: int, lookup: Sequence[int] = ()) -> None:
        self.unread_tokens = prompt
        self.lookup = lookup
        self.now = 0.0
        self.forwards = 0

    def fits(self, context: Sequence[int]) -> bool:
        return len(context) < 4096

    def unread(self, one: DraftRequest) -> int:  # noqa: ARG002
        return self.unread_tokens

    def lookups(self, wanted: Sequence[DraftRequest]) -> list[Sequence[DraftToken]]:
        return [[DraftToken(token, 0.9, "lookup") for token in self.lookup[: one.most]] for one in wanted]

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        self.forwards += 1
        read = min(self.unread_tokens, 64)
        self.now += 0.001 * read + 0.003
        self.unread_tokens = max(1, self.unread_tokens - read)
        return [None if read == 64 else (DraftToken(9, 0.6),) for _ in wanted]

    def free(self, session: int) -> None:
        """There is nothing to forget."""


def work(context: Sequence[int], prompt: int, room: int, number: int = 1) -> WorkItem:
    """Work on a text of 64 tokens at most."""
    return replace(
        item(0, 0),
        key=("edge", number),
        start=len(context) - prompt,
        context=context,
        prompt_length=prompt,
        identity=structs.replace(identity(0), limit=64),
        room=room,
    )


@pytest.mark.parametrize(("prompt", "begun"), [(300, True), (900, False)])
def test_a_prompt_is_read_to_its_end_or_not_begun(prompt: int, begun: bool) -> None:
    """Each piece leaves less to read, for less and less of the text: it pays all the more. A long one never pays."""
    drafter, cost = Priced(prompt), ForwardCost()
    drafts = WorkerDrafter(drafter, "draft", clock=lambda: drafter.now)
    budget = SlotBudget(cost)
    for _ in range(4):
        cost.observe(1, 0, 0, 25.0)
        budget.calls.observe((1, 0), 4.0)
    budget.calls.observe((1, 63), 67.0)

    def step(text: int) -> tuple[int, ...]:
        """Tokens drafted behind so many tokens of the text."""
        item = work([*range(prompt), *range(text)], prompt, 4)
        cost.observe(1, 0, 0, 25.0)
        return drafts.draft([item], budget.step({item.key: 0}, {}, 0.0)).get(item.key, ())

    if begun:
        steps = next(text for text in range(1, 12) if step(text))
        assert steps > 1
        assert drafter.forwards >= 5
        assert sum(budget.step({("edge", 1): 0}, {}, 0.0).call[:2]) < 5.0, (
            "its end is no price of a drafted token"
        )
    else:
        assert [step(text) for text in range(1, 41)] == [()] * 40
        assert drafter.forwards == 0
        assert sum(budget.step({("edge", 1): 0}, {}, 0.0).call[:2]) == pytest.approx(4.0, rel=0.1)


def test_a_prompt_is_read_beside_forwards_piece_by_piece_and_others_wait_for_one_piece_at_most() -> None:
    """A step begins to read, which goes on until somebody wants drafts; what failed on the thread is left alone."""
    begun, goes_on = threading.Semaphore(0), threading.Semaphore(0)
    looks_up = list[bool]()

    class Slow(Priced):
        def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
            if threading.current_thread() is not threading.main_thread():
                looks_up.append(not all(one.model_only for one in wanted))
                begun.release()
                goes_on.acquire()
            return super().draft(wanted)

    drafter, budget = Slow(300), SlotBudget(rationed=False)
    drafts = WorkerDrafter(drafter, "draft", beside=True)
    long, short = work(range(300), 299, 4), work(range(12), 10, 4, number=2)

    def step(*items: WorkItem) -> Mapping[SessionKey, tuple[int, ...]]:
        slots = budget.step({each.key: 0 for each in items}, {}, 0.0)
        own = drafts.draft(items, slots)
        drafts.read(items, slots)
        return own

    assert step(long) == {}
    begun.acquire()
    assert step(long) == {}, "it does not wait for its prompt"
    goes_on.release()
    begun.acquire()
    goes_on.release()  # the piece that a session waits for
    drafter.unread_tokens = 1
    assert step(short)[short.key] == (9,) * 4
    assert drafter.forwards == 2 + 4
    goes_on.release(1000)
    step(long)
    drafts.free(long.key)
    assert drafts.name == "draft"
    assert not any(looks_up)


def test_lookups_do_not_pass_for_what_the_model_has_read() -> None:
    model = Priced(300)
    hybrid = HybridDrafter(model, PromptLookupDrafter(max_context=4096))
    drafts = WorkerDrafter(hybrid, "draft", clock=lambda: model.now)
    cost = ForwardCost()
    budget = SlotBudget(cost, rationed=False)
    text = [*([1, 2, 3, 4, 5] * 62), *range(100, 130)]
    for end in range(301, 340):
        cost.observe(1, 0, 0, 25.0)
        one = work(text[:end], 300, 4)
        drafts.draft([one], budget.step({one.key: 0}, {}, 0.0))
        assert budget.step({one.key: 0}, {}, 0.0).call[0] < 10.0
    assert model.unread_tokens == 1


def test_who_reads_a_prompt_waits_for_no_lookups_of_others() -> None:
    """A drafter answers those that found something first, alone; the others are asked again in the same step."""
    model = ModelDrafter(model_of(), max_context=4096, prefill=64)
    drafts = WorkerDrafter(HybridDrafter(model, PromptLookupDrafter(max_context=4096)), "draft")
    budget = SlotBudget(rationed=False)
    finds = work([1, 2, 3, 4, 5] * 30, 120, 2)
    rng = random.Random(5)
    reads = work([rng.randrange(VOCABULARY) for _ in range(200)], 199, 4, number=2)
    for _ in range(6):
        slots = budget.step({finds.key: 0, reads.key: 0}, {}, 0.0)
        if reads.key in drafts.draft([finds, reads], slots):
            return
    raise AssertionError("it never gets a draft")


@pytest.mark.parametrize("sessions", [4, 8, 16])
def test_what_is_looked_up_for_some_is_no_loss_to_the_others(sessions: int) -> None:
    """A row takes more than 1 % of a forward here, and no text that drafts nothing gets that back."""
    drafter = Priced(0, lookup=(5, 6, 7, 8))

    def drafted(budget: SlotBudget, count: int) -> int:
        """Tokens that a worker drafts itself for a forward of texts that are half written."""
        drafts = WorkerDrafter(drafter, "draft", clock=lambda: drafter.now)
        items = [work([*range(40)], 30, 8, number) for number in range(count)]
        slots = budget.step({each.key: 0 for each in items}, {}, 0.0)
        return sum(map(len, drafts.draft(items, slots).values()))

    def timed(forwards: list[tuple[int, int, float]], calls: list[tuple[int, float]]) -> SlotBudget:
        cost = ForwardCost()
        cost.prime(forwards)
        budget = SlotBudget(cost)
        budget.prime(calls, 1.0)
        return budget

    dear = timed([(1, 0, 40.0), (1, 8, 50.0), (4, 0, 48.0), (4, 32, 96.0)], [(1, 4.0), (4, 16.0)])
    assert drafted(dear, 1) > 0
    alone = drafter.forwards
    assert drafted(dear, sessions) == 0
    assert drafter.forwards == alone
    free = timed([(1, 0, 20.0), (1, 8, 20.0), (4, 0, 20.0), (4, 32, 20.1)], [(1, 8.0), (4, 32.0)])
    assert drafted(free, sessions) > 0, "where rows cost next to nothing, they are no loss"
