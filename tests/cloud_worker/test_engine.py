"""Engine and scheduler on a tiny model: any company, split and detour decides what one-by-one decoding decides."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_worker.engine.acceptance import decide
from cloud_worker.engine.engine import ModelEngine
from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.load import load_text
from flexspec_mq.models.packed import PackedModel
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.protocol.worker.types import WorkItem
from flexspec_mq.sampling.choose import choose
from schemas.messages import Identity, Sampling
from tests.cloud_worker.works import work
from tests.models.tiny_checkpoints import save
from tests.models.tiny_models import built
from tests.models.tiny_packed import VOCABULARY, packed

LIMIT = 40
RANDOM = random.Random(1)
PROMPTS = [tuple(RANDOM.randrange(VOCABULARY) for _ in range(length)) for length in (1, 2, 17, 70, 130)]


IDS = 16
"""The vocabulary in tests of acceptance."""


@cache
def model_of() -> PackedModel:
    return packed("grouped", torch.bfloat16)


def identity(number: int, *, eos: tuple[int, ...] = (), ignore_eos: bool = False) -> Identity:
    temperature = (0.0, 0.7, 1.0)[number % 3]
    return Identity(2, bytes(16), Sampling(temperature, 0, 1.0, number), eos, ignore_eos, LIMIT)


@cache
def written(number: int) -> tuple[int, ...]:
    """Text that the target writes alone after a prompt, one token at a time."""
    model, prompt = model_of(), PROMPTS[number]
    kv = model.new_kv()
    tokens: list[int] = []
    model_input = ModelInput(kv, prompt)
    while len(tokens) < LIMIT:
        row = to_numpy(model.forward([model_input]))[0]
        tokens.append(choose(row, identity(number).sampling, len(prompt) + len(tokens)))
        model_input = ModelInput(kv, tokens[-1:])
    return tuple(tokens)


def item(number: int, start: int, draft: Sequence[int] = (), *, wanted: Identity | None = None) -> WorkItem:
    """Work on the text of prompt `number` from position `start` on."""
    return work(
        wanted or identity(number),
        PROMPTS[number],
        written(number)[:start],
        draft,
        key=("edge", number),
        version="v",
    )


def run(engine: ModelEngine, most: int = 500) -> list[tuple[WorkItem, tuple[int, ...]]]:
    """Steps until nothing is pending."""
    found: list[tuple[WorkItem, tuple[int, ...]]] = []
    for _ in range(most):
        if not engine.scheduler.pending:
            return found
        found += engine.step().decided
    raise AssertionError(f"{len(engine.scheduler.pending)} items are still pending after {most} steps")


def decided(engine: ModelEngine, one: WorkItem) -> tuple[int, ...]:
    """Tokens that an engine decides for one item, in as many steps as it takes."""
    engine.scheduler.add(one)
    ((_, tokens),) = run(engine)
    return tokens


def whole() -> ModelEngine:
    """An engine that reads any prompt in one step."""
    return ModelEngine(model_of(), prefill=1000)


def write_all(
    engine: ModelEngine,
    rng: random.Random,
    *,
    texts: Sequence[int] = range(len(PROMPTS)),
    limit: int = LIMIT,
    rooms: Sequence[int] = (0,),
    jumps: float = 0.0,
    watch: Callable[[], None] = lambda: None,
) -> int:
    """Let the sessions of `texts` write `limit` tokens in random company, each what it writes alone.

    Returns the number of tokens that the worker drafted. Drafts of edges are right up to a random place. Between
    steps a session is freed and jumps back now and then, or only its KV cache is lost.
    """
    at = dict.fromkeys(texts, 0)
    own = 0
    for _ in range(3000):
        if all(start >= limit for start in at.values()):
            return own
        for number, start in at.items():
            if ("edge", number) in engine.scheduler.pending or start >= limit or rng.random() < 0.3:
                continue
            truth = written(number)[start : start + rng.randint(0, 6)]
            draft = [token if rng.random() < 0.8 else rng.randrange(VOCABULARY) for token in truth]
            engine.add(with_room(number, start, rng.choice(rooms), draft[: LIMIT - start - 1]))
        for one, tokens in engine.step().decided:
            number, end = one.key[1], one.start + len(tokens)
            assert tokens == written(number)[one.start : end]
            assert len(tokens) <= len(one.draft) + one.room + 1
            own += max(0, len(tokens) - 1 - len(one.draft))
            at[number] = end
            if end >= limit:
                engine.release(one.key)
        watch()
        if rng.random() < jumps:
            engine.scheduler.caches.free(("edge", rng.choice(texts)))
        if rng.random() < jumps:
            number = rng.choice(texts)
            engine.free(("edge", number))
            at[number] = rng.randint(0, at[number])
    raise AssertionError(f"no end: {at}")


def with_room(number: int, start: int, room: int, draft: Sequence[int] = ()) -> WorkItem:
    """Work on the text of prompt `number`, with room for the worker's own draft."""
    return replace(item(number, start, draft), room=min(room, LIMIT - start - len(draft) - 1))


@settings(max_examples=3)
@given(st.integers(8, 150), st.integers(0, 2**32))
def test_sessions_together_write_what_each_writes_alone(prefill: int, seed: int) -> None:
    write_all(ModelEngine(model_of(), prefill=prefill), random.Random(seed), jumps=0.05)


def test_a_target_in_few_bits_writes_what_it_writes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "model", built("llama"))
    model = Checkpoint(folder, load_text(folder), torch.bfloat16, "int8").load()
    monkeypatch.setitem(globals(), "model_of", lambda: model)
    monkeypatch.setitem(globals(), "written", cache(written.__wrapped__))
    write_all(ModelEngine(model, prefill=40), random.Random(5), jumps=0.05)


def test_an_end_of_text_ends_a_verdict_unless_it_is_ignored() -> None:
    truth = written(2)
    end = next(i for i in range(1, 6) if truth[i] not in truth[:i])
    draft = truth[:6]
    for ignore, wanted in ((False, truth[: end + 1]), (True, truth[:7])):
        one = item(2, 0, draft, wanted=identity(2, eos=(truth[end],), ignore_eos=ignore))
        assert decided(whole(), one) == wanted


def test_a_rejected_draft_leaves_the_cache_at_what_was_decided() -> None:
    engine = whole()
    decided(engine, item(3, 0, [VOCABULARY - 1] * 5))
    following = item(3, 1)
    assert engine.scheduler.unread(following) == 1
    engine.scheduler.add(following)
    result = engine.step()
    assert [tokens for _, tokens in result.decided] == [written(3)[1:2]]
    assert result.fed == 1


def test_a_chain_that_was_cut_and_extended_otherwise_is_read_anew() -> None:
    """As after a re-open with another prefix: the cache holds positions that do not belong to it any more."""
    engine = whole()
    one = item(3, 8)
    decided(engine, one)
    changed = replace(one, context=[*one.context[:-4], 1, 2, 3, 4, 5])
    assert decided(engine, changed) == decided(whole(), changed)
    assert decided(engine, one) == written(3)[8:9]


def scheduled(engine: ModelEngine) -> list[tuple[int, int]]:
    engine.scheduler.begin()
    return sorted((one.item.key[1], len(one.model_input.tokens)) for one in engine.scheduler.schedule())


def test_ready_items_all_go_and_reading_ones_share_the_budget() -> None:
    engine = ModelEngine(model_of(), prefill=100)
    scheduler = engine.scheduler
    decided(engine, item(2, 0))
    scheduler.add(item(4, 0))  # 130 to read
    scheduler.add(item(3, 0))  # 70 to read
    scheduler.add(item(2, 1, [5] * 6))  # ready
    assert scheduled(engine) == [(2, 7), (4, 100)]
    assert [one.key[1] for one, _ in engine.step().decided] == [
        3,
        2,
    ]  # the one that waited, and what that leaves
    assert scheduler.unread(scheduler.pending["edge", 4]) == 100


def test_prompts_take_turns_where_equal_parts_would_be_too_small() -> None:
    engine = ModelEngine(model_of(), prefill=17)
    engine.scheduler.add(item(4, 0))
    engine.scheduler.add(item(3, 0))
    # A token that is left over would feed nothing.
    assert [scheduled(engine) for _ in range(4)] == [[(4, 17)], [(3, 17)], [(4, 17)], [(3, 17)]]


@pytest.mark.parametrize("prefill", [2, 3, 69, 70, 71, 76])
@pytest.mark.parametrize("drafts", [0, 6])
def test_every_prefill_budget_ends(prefill: int, drafts: int) -> None:
    engine = ModelEngine(model_of(), prefill=prefill)
    assert decided(engine, item(3, 0, written(3)[:drafts])) == written(3)[: drafts + 1]


def test_results_of_dropped_and_replaced_items_do_not_count() -> None:
    scheduler = whole().scheduler
    old, new, gone, unread = item(0, 0), item(0, 1), item(1, 0), item(2, 0)
    for one in (old, new, gone, unread):
        scheduler.add(one)
    scheduler.drop(gone.key)
    scheduler.drop(("stranger", 9))
    assert [scheduler.settle(one, (1,)) for one in (old, gone, new)] == [False, False, True]
    assert list(scheduler.pending.values()) == [unread]


# Acceptance is a pure function: what the target would have written, cut where it differs from the draft


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, IDS - 1), max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.sets(st.integers(0, IDS - 1), max_size=2),
)
def test_every_decided_token_is_the_one_chosen_at_its_position(
    seed: int, guesses: list[int], right: list[bool], eos: set[int]
) -> None:
    """Guesses are made right at random, because random ones rarely are."""
    wanted = random.Random(seed).choices(range(IDS), k=len(guesses) + 1)
    draft = [wanted[i] if right[i] else guess for i, guess in enumerate(guesses)]
    tokens = decide(iter(wanted), draft, tuple(eos))
    assert list(tokens) == wanted[: len(tokens)]
    assert 1 <= len(tokens) <= len(draft) + 1
    for index, token in enumerate(tokens[:-1]):
        assert token == draft[index]
        assert token not in eos
    last = len(tokens) - 1
    assert last == len(draft) or tokens[last] != draft[last] or tokens[last] in eos
