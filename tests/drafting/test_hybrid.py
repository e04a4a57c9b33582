"""Model and lookup together: who is asked when, and what both know of a token."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.drafting.hybrid import SURE, HybridDrafter, better
from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from tests.drafting.asking import asked

FRESH = tuple(range(100, 130))
"""Nothing in it occurs twice."""
LOOP = (1, 2, 3, 4, 5) * 8
"""Every lookup in it is right, and sure after a while."""
CONFIDENCES = st.floats(0.001, 0.999)


@dataclass
class Model:
    """A drafter that always guesses 77, and notes for whom it ran."""

    confidence: float = 0.6
    read: int = 0
    asked: list[list[int]] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)

    def fits(self, context: Sequence[int]) -> bool:
        return len(context) < 10_000

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        self.asked.append([one.session for one in wanted])
        return [(DraftToken(77, self.confidence),) for _ in wanted]

    def unread(self, one: DraftRequest) -> int:
        return len(one.context) - self.read

    def lookups(self, wanted: Sequence[DraftRequest]) -> list[Sequence[DraftToken]]:
        return [()] * len(wanted)

    def free(self, session: int) -> None:
        self.freed.append(session)


def wanted(session: int, context: Sequence[int], **more: Any) -> DraftRequest:
    return asked(session, context, prompt_length=3, **{"most": 8, **more})


def combined(model: Model) -> HybridDrafter:
    return HybridDrafter(model, PromptLookupDrafter(max_context=20_000))


def test_lookups_alone_never_run_the_model_whatever_they_find() -> None:
    model = Model(read=2)
    drafter = combined(model)
    found = drafter.lookups([wanted(1, LOOP), wanted(2, FRESH, most=4)])
    assert [len(run) for run in found] == [8, 0]
    assert model.asked == []
    assert drafter.unread(wanted(1, LOOP)) == len(LOOP) - 2


def test_a_text_that_repeats_itself_needs_no_forward() -> None:
    model = Model()
    (run,) = combined(model).draft([wanted(1, LOOP)])
    assert run is not None
    assert [(guess.token, guess.origin) for guess in run] == [(1 + n % 5, "lookup") for n in range(8)]
    assert model.asked == []


def test_where_nothing_is_found_the_model_drafts_and_those_that_have_found_wait_for_no_forward() -> None:
    model = Model()
    drafter = combined(model)
    fresh, loop = wanted(1, FRESH), wanted(2, LOOP)
    first = drafter.draft([fresh, loop])
    assert first[0] is None  # asked again at once
    assert first[1]
    assert model.asked == []
    assert drafter.draft([fresh]) == [(DraftToken(77, 0.6),)]
    assert model.asked == [[1]]


def test_a_batch_of_the_model_turns_to_lookup_where_that_is_surer() -> None:
    model = Model()
    text = (9, 1, 2, 3, 50, 51, 52, 2)  # 2 was followed by 3 once, and the model says 77
    for session, confidence, guessed in ((1, 0.05, (3, "lookup")), (2, 0.97, (77, "model"))):
        model.confidence = confidence
        (run,) = combined(model).draft([wanted(session, text)])
        assert run is not None
        assert [(guess.token, guess.origin) for guess in run] == [guessed]
        assert model.asked[-1] == [session]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(1, 12), st.booleans())
def test_only_what_is_found_and_sure_enough_takes_no_forward(
    text: list[int], most: int, model_only: bool
) -> None:
    model = Model()
    drafter = combined(model)
    request = wanted(1, text, most=most, model_only=model_only)
    (found,) = drafter.lookups([request])
    (run,) = drafter.draft([request])
    assert run
    if model.asked:
        assert len(run) == 1
        assert model_only or not found or found[0].confidence < SURE
    else:
        assert not model_only
        assert list(run) == list(found[: len(run)])
        assert all(guess.confidence >= SURE for guess in run)
        assert len(run) == len(found) or found[len(run)].confidence < SURE


def test_both_forget_a_session() -> None:
    model = Model()
    drafter = combined(model)
    drafter.draft([wanted(1, LOOP)])
    drafter.free(1)
    assert model.freed == [1]
    assert drafter.draft([wanted(1, FRESH)])[0] == (DraftToken(77, 0.6),)


@given(st.floats(0.3, 0.9))
def test_two_witnesses_are_surer_where_they_agree_and_less_sure_where_they_differ(confidence: float) -> None:
    draft = DraftToken(1, confidence)
    assert better(draft, None) == draft
    agreed = better(draft, DraftToken(1, confidence, "lookup"))
    assert (agreed.token, agreed.origin) == (1, "model")
    assert confidence < agreed.confidence < 1
    assert 0 < better(draft, DraftToken(2, confidence, "lookup")).confidence < confidence


@given(CONFIDENCES, CONFIDENCES, CONFIDENCES)
def test_a_surer_witness_weighs_more(mine: float, theirs: float, surer: float) -> None:
    draft, lookup = DraftToken(1, mine), DraftToken(1, theirs, "lookup")
    if surer >= mine:
        assert better(DraftToken(1, surer), lookup).confidence >= better(draft, lookup).confidence
    if surer >= theirs:
        assert better(draft, DraftToken(1, surer, "lookup")).confidence >= better(draft, lookup).confidence
        if better(draft, DraftToken(2, theirs, "lookup")).token == 2:  # it has won already
            assert better(draft, DraftToken(2, surer, "lookup")).token == 2
    found = better(draft, DraftToken(2, theirs, "lookup"))
    assert (found.token, found.origin) in {(1, "model"), (2, "lookup")}
