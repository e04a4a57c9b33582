"""The rounds that the acceptance benchmark counts write the target's own text, and are counted right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from msgspec import structs

from cloud_worker.engine.engine import EngineCore
from flexspec_mq.controller.plan import Plan
from flexspec_mq.drafting.hybrid import HybridDrafter
from flexspec_mq.drafting.interface import Drafter, DraftToken
from flexspec_mq.drafting.model_drafter import ModelDrafter
from flexspec_mq.drafting.prompt_lookup_drafter import PromptLookupDrafter
from flexspec_mq.drafting.proposal import proposer_of
from flexspec_mq.errors import UsageError
from flexspec_mq.models.draft.confidence import USUAL, Calibration
from flexspec_mq.models.load import load_target
from flexspec_mq.models.packed import PackedModel, register
from lab.benchmarks.parts.kept_texts import keep_texts, read_texts
from lab.benchmarks.parts.read_ahead import ReadAhead
from lab.benchmarks.parts.rounds import Job, ReplayedRounds, Rounds, Tally
from schemas.messages import Identity
from tests.models.tiny_checkpoints import save, tiny_llama

OF_NO_RUN = Calibration((*USUAL.weights[:-3], 0.0, 0.0, 0.0))
"""Its confidence does not depend on how long the draft has been right."""
Texts = dict[tuple[str, float], tuple[int, ...]]


def packed(folder: Path, seed: int, **changes: int) -> PackedModel:
    model = tiny_llama(max_position_embeddings=512, **changes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    save(folder, model)
    return PackedModel(load_target(folder, dtype="float32", attn_implementation=register()).model)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> PackedModel:
    return packed(tmp_path_factory.mktemp("target"), 1)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> PackedModel:
    """The target with a little noise in its head: sometimes right, sometimes wrong."""
    made = packed(tmp_path_factory.mktemp("draft"), 1)
    head = made.model.get_parameter("lm_head.weight")
    with torch.no_grad():
        head.add_(torch.randn(head.shape, generator=torch.Generator().manual_seed(5)), alpha=0.02)
    return made


def jobs(temperatures: tuple[float, ...], limit: int) -> list[list[Job]]:
    def job(place: int, temperature: float) -> Job:
        prompt = tuple(3 + (7 * place + i * i) % 290 for i in range(5 + 40 * (place % 3)))
        identity = Identity(1, bytes(16), temperature, 0, 1.0, place, (17,), False, limit)
        return Job(str(place), prompt, identity)

    return [[job(place, temperature) for temperature in temperatures] for place in range(5)]


def write(
    target: PackedModel, drafter: Drafter, *, k: int, at_once: int, limit: int = 40, stop: float = 0.0
) -> tuple[Texts, Tally]:
    texts: Texts = {}
    total = Tally()

    def done(job: Job, tokens: tuple[int, ...], tally: Tally) -> None:
        texts[job.name, job.identity.temperature] = tokens
        assert tally.tokens == len(tokens)
        total.add(tally)

    engine = EngineCore(target)
    plan = Plan(k, confidence_threshold=stop)
    Rounds(engine, drafter, plan, at_once=at_once).run(jobs((0.0, 1.0), limit), done)
    assert len(engine.scheduler.caches) == 0
    return texts, total


def test_drafts_and_packing_change_rounds_and_no_text(target: PackedModel, draft: PackedModel) -> None:
    drafter = ModelDrafter(draft, max_context=512)
    alone, without = write(target, drafter, k=0, at_once=1)
    assert len(alone) == 10
    assert all(len(text) == 40 or text[-1] == 17 for text in alone.values())
    assert without.rounds == without.empty == without.tokens
    for k, at_once in ((1, 2), (4, 5), (7, 3)):
        texts, total = write(target, drafter, k=k, at_once=at_once)
        assert texts == alone
        assert total.tokens == without.tokens
        assert total.rounds < without.rounds
        # Neither a perfect draft nor a useless one, or the counts below would prove nothing.
        assert 0 < sum(total.reached) < sum(total.offered)
        # A verification commits what it accepts and one more, unless what it accepts ends the text.
        assert total.rounds <= total.tokens - sum(total.reached) + total.texts
        assert total.tokens <= total.rounds + sum(total.reached)


def test_a_draft_that_reads_ahead_has_the_rounds_of_one_that_drafts(
    target: PackedModel, draft: PackedModel
) -> None:
    ends = tuple(range(3, 300, 25))  # so that texts end in the middle of a batch
    series = [
        [replace(job, identity=structs.replace(job.identity, eos=ends)) for job in one]
        for one in jobs((0.0, 1.0), 40)
    ]
    drafter = ModelDrafter(draft, max_context=512, proposer=proposer_of(OF_NO_RUN))
    texts: dict[Job, tuple[int, ...]] = {}
    tallies: list[dict[Job, Tally]] = [{}, {}]

    def drafted(job: Job, tokens: tuple[int, ...], tally: Tally) -> None:
        texts[job], tallies[0][job] = tokens, tally

    def read(job: Job, tokens: tuple[int, ...], tally: Tally) -> None:
        assert tokens == texts[job]
        tallies[1][job] = tally

    Rounds(EngineCore(target), drafter, Plan(4), at_once=3).run(series, drafted)
    ReplayedRounds(texts, ReadAhead(drafter, texts), Plan(4), at_once=4).run(series, read)
    assert min(map(len, texts.values())) < 40
    for job, one in tallies[0].items():
        other = tallies[1][job]
        assert (one.tokens, one.rounds, one.reached[:4]) == (other.tokens, other.rounds, other.reached[:4])
        # The confidence of what was judged is the same too.
        assert one.judged == other.judged
        assert one.expected == pytest.approx(other.expected)
        assert other.drafted == pytest.approx(one.drafted, abs=4)
    assert sum(sum(one.reached) for one in tallies[0].values()) > 0


@pytest.mark.parametrize(("k", "stop"), [(0, 0.0), (4, 0.0), (6, 0.03)])
def test_replayed_rounds_are_those_of_the_engine(
    target: PackedModel, draft: PackedModel, tmp_path: Path, k: int, stop: float
) -> None:
    """Tally by tally, from texts that were on disk."""
    series = jobs((0.0, 1.0), 40)
    drafter = ModelDrafter(draft, max_context=512)
    plan = Plan(k, confidence_threshold=stop)
    texts: dict[Job, tuple[int, ...]] = {}
    found: list[dict[Job, Tally]] = [{}, {}]

    def written(job: Job, tokens: tuple[int, ...], tally: Tally) -> None:
        texts[job], found[0][job] = tokens, tally

    def replayed(job: Job, tokens: tuple[int, ...], tally: Tally) -> None:
        assert tokens == texts[job]
        found[1][job] = tally

    Rounds(EngineCore(target), drafter, plan, at_once=3).run(series, written)
    keep_texts(tmp_path / "texts", series, texts, {"head": None})
    kept = read_texts(tmp_path / "texts", series, {"head": None})
    assert kept is not None
    ReplayedRounds(kept, drafter, plan, at_once=4).run(series, replayed)
    assert found[0] == found[1]
    assert len(found[1]) == 10
    for about, asked in (({"head": "other"}, series), ({"head": None}, series[1:])):
        with pytest.raises(UsageError, match="other questions"):
            read_texts(tmp_path / "texts", asked, about)


def guesses(*tokens: int) -> tuple[DraftToken, ...]:
    return tuple(DraftToken(token, 0.5) for token in tokens)


def test_a_stop_makes_batches_shorter_and_surer(target: PackedModel, draft: PackedModel) -> None:
    drafter = ModelDrafter(draft, max_context=512)
    alone, _ = write(target, drafter, k=0, at_once=1)
    texts, free = write(target, drafter, k=6, at_once=5)
    stopped_texts, stopped = write(target, drafter, k=6, at_once=5, stop=0.03)
    assert texts == stopped_texts == alone
    assert 0 < stopped.drafted < free.drafted
    assert stopped.accepted / stopped.drafted > free.accepted / free.drafted
    assert stopped.empty > 0  # a first token may not survive either


def test_lookups_change_rounds_and_no_text(target: PackedModel, draft: PackedModel) -> None:
    """With the draft and without; a tiny model at temperature 0 repeats itself soon."""
    alone, _ = write(target, ModelDrafter(draft, max_context=512), k=0, at_once=1)
    for drafter in (
        PromptLookupDrafter(max_context=512),
        HybridDrafter(ModelDrafter(draft, max_context=512), PromptLookupDrafter(max_context=512)),
    ):
        for at_once in (1, 5):
            texts, total = write(target, drafter, k=6, at_once=at_once, stop=0.2)
            assert texts == alone
            assert 0 < total.looked_up_accepted <= total.looked_up < total.tokens * 6


def test_a_tally_counts_prefixes() -> None:
    tally = Tally()
    tally.count(guesses(1, 2, 3), (1, 2, 9))
    tally.count(guesses(1, 2, 3), (7,))
    tally.count((*guesses(4),), (4, 5))
    # The same token at a later place is not an acceptance: what comes before it was wrong.
    tally.count(guesses(8, 2), (9,))
    tally.count((), (6,))
    assert (tally.tokens, tally.rounds) == (8, 5)
    assert tally.offered == [4, 3, 2]
    assert tally.reached == [2, 1, 0]
    assert tally.survival == [0.5, 1 / 3, 0.0]
    assert tally.tokens_per_round == 8 / 5
    assert (tally.drafted, tally.accepted, tally.empty) == (9, 3, 1)
    # Those after the first wrong one were not met by a decision: 3, 1, 1 and 1 were.
    assert tally.judged == 6
    assert tally.expected == 0.5 * 6


def test_a_tally_tells_lookups_apart() -> None:
    tally = Tally()
    tally.count((*guesses(1), DraftToken(2, 0.9, "lookup"), DraftToken(3, 0.9, "lookup")), (1, 2, 9))
    assert (tally.looked_up, tally.looked_up_accepted, tally.accepted) == (2, 1, 2)


def test_tallies_of_different_depth_add_up() -> None:
    short, long = Tally(), Tally()
    short.count(guesses(1), (1, 2))
    long.count(guesses(1, 2), (1, 2, 3))
    short.add(long)
    assert (short.offered, short.reached, short.tokens, short.rounds) == ([2, 1], [2, 1], 5, 2)
