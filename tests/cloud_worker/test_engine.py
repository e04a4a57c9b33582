"""Engine and batcher on a tiny model: any company, split and detour decides what one-by-one decoding decides."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_worker.engine.model_runner import Decided, Engine, Slice, sampling
from cloud_worker.engine.scheduler import Scheduler
from flexspec_mq.models.packed import ModelInput, PackedModel, to_numpy
from flexspec_mq.protocol.worker.types import WorkItem
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from schemas.messages import Identity
from tests.models.tiny_packed import VOCABULARY, packed

LIMIT = 40
RANDOM = random.Random(1)
PROMPTS = [tuple(RANDOM.randrange(VOCABULARY) for _ in range(length)) for length in (1, 2, 17, 70, 130)]


@cache
def model_of() -> PackedModel:
    return packed("grouped", torch.bfloat16)


def identity(number: int, *, eos: tuple[int, ...] = (), ignore_eos: bool = False) -> Identity:
    temperature = (0.0, 0.7, 1.0)[number % 3]
    return Identity(1, bytes(16), temperature, 0, 1.0, number, eos, ignore_eos, LIMIT)


@cache
def written(number: int) -> tuple[int, ...]:
    """What the target writes alone after a prompt, one token at a time."""
    model, prompt = model_of(), PROMPTS[number]
    kv = model.new_kv()
    tokens: list[int] = []
    feed = ModelInput(kv, prompt)
    while len(tokens) < LIMIT:
        row = to_numpy(model.forward([feed]))[0]
        tokens.append(choose(row, sampling(identity(number)), len(prompt) + len(tokens)))
        feed = ModelInput(kv, tokens[-1:])
    return tuple(tokens)


def item(number: int, start: int, draft: Sequence[int] = (), *, wanted: Identity | None = None) -> WorkItem:
    """Work on the text of prompt `number` from position `start` on."""
    context = [*PROMPTS[number], *written(number)[:start]]
    return WorkItem(
        key=("edge", number),
        version="v",
        start=start,
        digest=0,
        context=context,
        prompt_length=len(PROMPTS[number]),
        draft=tuple(draft),
        identity=wanted or identity(number),
        seq=1,
        waiting_since=0.0,
    )


def run(engine: Engine, batcher: Scheduler, most: int = 500) -> list[Decided]:
    """Steps until nothing is pending."""
    found: list[Decided] = []
    for _ in range(most):
        if not batcher.pending:
            return found
        found += batcher.settle(engine.step(batcher.compose(engine)))
    raise AssertionError(f"{len(batcher.pending)} items are still pending after {most} steps")


@settings(max_examples=8, deadline=None)
@given(st.integers(8, 150), st.integers(0, 2**32))
def test_sessions_together_write_what_each_writes_alone(prefill: int, seed: int) -> None:
    """Drafts that are right up to a random place; between steps sessions are freed, and jump back, at random."""
    rng = random.Random(seed)
    engine, batcher = Engine(model_of()), Scheduler(prefill=prefill)
    at = dict.fromkeys(range(len(PROMPTS)), 0)
    for _ in range(1000):
        if all(start >= LIMIT for start in at.values()):
            break
        for number, start in at.items():
            if ("edge", number) in batcher.pending or start >= LIMIT or rng.random() < 0.3:
                continue
            truth = written(number)[start : start + rng.randint(0, 6)]
            draft = [token if rng.random() < 0.8 else rng.randrange(VOCABULARY) for token in truth][
                : LIMIT - start - 1
            ]
            batcher.add(item(number, start, draft))
        for result in batcher.settle(engine.step(slices)) if (slices := batcher.compose(engine)) else []:
            number = result.item.key[1]
            end = result.item.start + len(result.tokens)
            assert result.tokens == written(number)[result.item.start : end]
            at[number] = end
        if rng.random() < 0.05:
            engine.free(("edge", rng.randrange(len(PROMPTS))))
        if rng.random() < 0.05:
            number = rng.randrange(len(PROMPTS))
            if ("edge", number) not in batcher.pending:
                at[number] = rng.randint(0, at[number])
    assert all(start >= LIMIT for start in at.values())


@pytest.mark.parametrize("right", range(5))
def test_a_draft_is_accepted_up_to_its_first_error(right: int) -> None:
    truth = written(3)
    draft = [*truth[:right], *((token + 1) % VOCABULARY for token in truth[right:4])]
    (result,) = Engine(model_of()).step([Slice(item(3, 0, draft), 1000)])
    assert result.tokens == truth[: right + 1]


def test_an_end_of_text_ends_a_verdict_unless_it_is_ignored() -> None:
    truth = written(2)
    end = next(i for i in range(1, 6) if truth[i] not in truth[:i])
    draft = truth[:6]
    for ignore, wanted in ((False, truth[: end + 1]), (True, truth[:7])):
        one = item(2, 0, draft, wanted=identity(2, eos=(truth[end],), ignore_eos=ignore))
        (result,) = Engine(model_of()).step([Slice(one, 1000)])
        assert result.tokens == wanted


def test_a_rejected_draft_leaves_the_cache_at_what_was_decided() -> None:
    engine = Engine(model_of())
    engine.step([Slice(item(3, 0, [VOCABULARY - 1] * 5), 1000)])
    following = item(3, 1)
    assert engine.unread(following) == 1
    (result,) = engine.step([Slice(following, 1)])
    assert result.tokens == written(3)[1:2]


def test_a_chain_that_was_cut_and_extended_otherwise_is_read_anew() -> None:
    """As after a re-open with another prefix: the cache holds positions that do not belong to it any more."""
    engine, batcher = Engine(model_of()), Scheduler(prefill=1000)
    batcher.add(item(3, 8))
    run(engine, batcher)
    one = item(3, 8)
    changed = replace(one, context=[*one.context[:-4], 1, 2, 3, 4, 5])
    batcher.add(changed)
    (result,) = run(engine, batcher)
    fresh, other = Engine(model_of()), Scheduler(prefill=1000)
    other.add(changed)
    assert run(fresh, other)[0].tokens == result.tokens
    batcher.add(one)
    assert run(engine, batcher)[0].tokens == written(3)[8:9]


def test_an_engine_counts_and_forgets() -> None:
    engine = Engine(model_of())
    assert (len(engine), engine.nbytes) == (0, 0)
    engine.step([Slice(item(0, 0), 10), Slice(item(1, 0), 10)])
    assert len(engine) == 2
    assert engine.nbytes > 0
    engine.free(("edge", 0))
    engine.free(("edge", 0))
    engine.free(("stranger", 9))
    assert len(engine) == 1
    engine.free(("edge", 1))
    assert (len(engine), engine.nbytes) == (0, 0)


def test_unread_counts_prefix_and_draft() -> None:
    engine = Engine(model_of())
    assert engine.unread(item(3, 2, [1, 2, 3])) == 70 + 2 + 3
    engine.step([Slice(item(3, 2), 60)])
    assert engine.unread(item(3, 2, [1, 2, 3])) == 12 + 3


def composed(engine: Engine, batcher: Scheduler) -> list[tuple[int, int]]:
    return sorted((piece.item.key[1], piece.most) for piece in batcher.compose(engine))


def test_ready_items_all_go_and_reading_ones_share_the_budget() -> None:
    engine, batcher = Engine(model_of()), Scheduler(prefill=100)
    engine.step([Slice(item(2, 0), 1000)])
    batcher.add(item(4, 0))  # 130 to read
    batcher.add(item(3, 0))  # 70 to read
    batcher.add(item(2, 1, [5] * 6))  # ready
    assert composed(engine, batcher) == [(2, 7), (3, 50), (4, 50)]
    assert batcher.writing == 7
    engine.step(batcher.compose(engine))
    batcher.drop(("edge", 2))
    assert composed(engine, batcher) == [(3, 20), (4, 80)]
    assert batcher.writing == 0
    # Where equal parts would be too small, they take turns; a token that is left over would feed nothing.
    batcher.prefill = 17
    assert [composed(engine, batcher) for _ in range(4)] == [[(4, 17)], [(3, 17)], [(4, 17)], [(3, 17)]]


@pytest.mark.parametrize("prefill", [2, 3, 69, 70, 71, 76])
@pytest.mark.parametrize("drafted", [0, 6])
def test_every_prefill_budget_ends(prefill: int, drafted: int) -> None:
    engine, batcher = Engine(model_of()), Scheduler(prefill=prefill)
    batcher.add(item(3, 0, written(3)[:drafted]))
    (result,) = run(engine, batcher)
    assert result.tokens == written(3)[: drafted + 1]


def test_results_of_dropped_and_replaced_items_do_not_count() -> None:
    batcher = Scheduler()
    old, new, gone, unread = item(0, 0), item(0, 1), item(1, 0), item(2, 0)
    for one in (old, new, gone, unread):
        batcher.add(one)
    batcher.drop(gone.key)
    batcher.drop(("stranger", 9))
    results = [Decided(old, (1,)), Decided(gone, (1,)), Decided(unread, ()), Decided(new, (2,))]
    assert batcher.settle(results) == [Decided(new, (2,))]
    assert list(batcher.pending.values()) == [unread]


def test_sampling_parameters_come_from_the_identity() -> None:
    one = Identity(1, bytes(16), 0.5, 7, 0.25, 2**64 - 1, (2,), False, 10)
    assert sampling(one) == SamplingParams(0.5, 7, 0.25, 2**64 - 1)
