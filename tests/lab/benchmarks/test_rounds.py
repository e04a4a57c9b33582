"""The rounds that the acceptance benchmark counts write the target's own text, and are counted right."""

from __future__ import annotations

import pytest

from cloud_worker.engine.engine import ModelEngine
from flexspec_mq.drafting.interface import Drafter, DraftToken
from flexspec_mq.drafting.model_drafter import ModelDrafter
from flexspec_mq.models.packed import PackedModel
from lab.benchmarks.rounds import Job, Rounds, RoundTally
from schemas.messages import Identity
from tests.lab.traditional.noisy_models import checkpoint, packed

Texts = dict[tuple[str, float], tuple[int, ...]]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> PackedModel:
    return packed(checkpoint(tmp_path_factory.mktemp("target"), 0.0))


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> PackedModel:
    """The target with a little noise in its head: sometimes right, sometimes wrong."""
    return packed(checkpoint(tmp_path_factory.mktemp("draft"), 0.02))


def jobs(temperatures: tuple[float, ...], limit: int) -> list[list[Job]]:
    def job(place: int, temperature: float) -> Job:
        prompt = tuple(3 + (7 * place + i * i) % 290 for i in range(5 + 40 * (place % 3)))
        identity = Identity(1, bytes(16), temperature, 0, 1.0, place, (17,), False, limit)
        return Job(str(place), prompt, identity)

    return [[job(place, temperature) for temperature in temperatures] for place in range(5)]


def write(
    target: PackedModel, drafter: Drafter, *, k: int, at_once: int, limit: int = 40
) -> tuple[Texts, RoundTally]:
    texts: Texts = {}
    total = RoundTally()

    def done(job: Job, tokens: tuple[int, ...], tally: RoundTally) -> None:
        texts[job.name, job.identity.temperature] = tokens
        assert tally.tokens == len(tokens)
        total.add(tally)

    engine = ModelEngine(target)
    Rounds(engine, drafter, k, at_once=at_once).run(jobs((0.0, 1.0), limit), done)
    assert len(engine.scheduler.caches) == 0
    return texts, total


def test_drafts_and_packing_change_rounds_and_no_text(target: PackedModel, draft: PackedModel) -> None:
    drafter = ModelDrafter(draft, max_context=512)
    alone, without = write(target, drafter, k=0, at_once=1)
    assert len(alone) == 10
    assert all(len(text) == 40 or text[-1] == 17 for text in alone.values())
    assert without.rounds == without.tokens
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


def guesses(*tokens: int) -> tuple[DraftToken, ...]:
    return tuple(DraftToken(token, 0.5) for token in tokens)


def test_a_tally_counts_prefixes() -> None:
    tally = RoundTally()
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
    assert (tally.drafted, tally.accepted) == (9, 3)
    longer = RoundTally()
    longer.count(guesses(1, 2, 3, 4), (1, 2))
    tally.add(longer)
    assert (tally.offered, tally.reached, tally.tokens, tally.rounds) == ([5, 4, 3, 1], [3, 2, 0, 0], 10, 6)
