"""Lookups find what a slow search finds, and are as sure as they have been right."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.drafting.interface import DraftRequest
from flexspec_mq.drafting.prompt_lookup import (
    LEAST,
    LONGEST,
    PRIOR,
    REMEMBERED,
    Lookup,
    LookupRecord,
    Match,
    Prior,
    PromptLookupDrafter,
    SessionLookup,
    Support,
    prior,
)
from tests.drafting.asking import asked

TOKENS = st.lists(st.integers(0, 3), max_size=60)
BRANCHES = st.lists(st.integers(0, 3), max_size=6)


def slow_find(
    whole: Sequence[int], newest: int, tail: Sequence[int], least: int = 2, *, vote: bool = False
) -> Match | None:
    """By comparing the end of `tail` with what stands before every place up to `newest`."""

    def common(place: int) -> int:
        """Tokens before `place` that are those at the end of `tail`."""
        most = min(place, len(tail), LONGEST)
        differ = (length for length in range(most) if whole[place - length - 1] != tail[-length - 1])
        return next(differ, most)

    places = [place for place in range(newest, 0, -1) if common(place) >= least and whole[place] >= 0][:24]
    if not places:
        return None
    if least == 1:
        return Match(whole[places[0]], 1, Support.SINGLE)
    most = max(map(common, places))
    likely = [whole[place] for place in places if common(place) == most]
    token = max(likely, key=likely.count) if vote else likely[0]  # the newest of equals
    votes = sum(whole[place] == token for place in places)
    if len(places) == 1:
        support = Support.ALONE
    elif votes == len(places):
        support = Support.ALL
    else:
        support = Support.MOST if 2 * votes >= len(places) else Support.FEW
    return Match(token, most, support)


@settings(max_examples=100)
@given(TOKENS, BRANCHES, st.integers(0, 60), st.lists(st.lists(st.integers(0, 3), min_size=1), max_size=3))
def test_a_lookup_finds_what_a_slow_search_finds(
    text: list[int], branch: list[int], cut: int, answers: list[list[int]]
) -> None:
    lookup, older = Lookup(), Lookup(newest=False)
    for answer in answers:
        older.add(answer)
    lookup.extend(text[:cut])
    lookup.find(branch)  # asking leaves nothing behind
    lookup.extend(text[cut:])
    whole = [*text, *branch]
    newest = min(len(text), len(whole) - 1)
    assert lookup.find(branch) == (slow_find(whole, newest, whole) or slow_find(whole, newest, whole, 1))
    held = [token for number, answer in enumerate(answers, 1) for token in (*answer, -number)]
    assert older.longest(lookup.tail(branch)) == slow_find(held, len(held) - 1, whole, vote=True)


def test_what_comes_after_the_bound_is_matched_and_not_found() -> None:
    lookup = Lookup(most=10)
    lookup.extend(range(10))
    lookup.extend([77, 78, 3, 4])
    assert lookup.find() == Match(5, 2, Support.ALONE)
    lookup.extend([77, 78])
    assert lookup.find() is None


@given(
    st.sampled_from([(table, support) for table in (PRIOR, REMEMBERED) for support in table]),
    st.integers(1, LONGEST - 1),
    st.floats(0, 2),
)
def test_the_prior_rises_with_length_and_falls_with_temperature(
    row: tuple[Prior, Support], length: int, temperature: float
) -> None:
    table, support = row
    found, longer = Match(1, length, support), Match(1, length + 1, support)
    assert prior(found, temperature, table) <= prior(longer, temperature, table)
    assert prior(found, temperature + 0.5, table) < prior(found, temperature, table)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_session_comes_to_be_as_sure_as_it_was_right(share: float) -> None:
    record, found = LookupRecord(0.0), Match(1, 3, Support.ALONE)
    other = Match(1, 12, Support.ALL)
    before = record.confidence(found), record.confidence(other)
    assert before[0] == prior(found, 0.0)
    for number in range(1000):
        record.count(found, right=number % 100 < 100 * share)
    assert abs(record.confidence(found) - share) < 0.02
    assert record.confidence(other) == before[1]


def wanted(context: Sequence[int], committed: int, **more: Any) -> DraftRequest:
    return asked(7, context, committed=committed, prompt_length=2, **{"most": 4, **more})


def test_a_run_goes_on_as_the_text_did_and_follows_the_branch() -> None:
    drafter = PromptLookupDrafter(max_context=1000)
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4]
    for branch, committed, most, expected in (
        ([], 0, 4, [5, 6, 7, 8]),
        ([5, 6], 0, 2, [7, 8]),
        ([30, 8], 1, 4, [9, 1, 2, 3]),  # the branch before was wrong, and nothing of it stays
        ([30, 31], 2, 4, []),
    ):
        (run,) = drafter.draft([wanted([*text, *branch], len(text) + committed, most=most)])
        assert run is not None
        assert [(guess.token, guess.origin) for guess in run] == [(token, "lookup") for token in expected]


@given(TOKENS.filter(len), BRANCHES, st.floats(0, 0.99), st.floats(0.05, 1), st.integers(1, 12))
def test_a_run_ends_where_it_is_not_wanted_any_more(
    text: list[int], branch: list[int], stop: float, survival: float, most: int
) -> None:
    ends: dict[str, Any] = {"most": most, "joint_acceptance": survival, "confidence_threshold": stop}
    request = asked(1, (*text, *branch), committed=len(text), **ends)
    session = SessionLookup(request)
    path = list(session.follow(request))
    assert path == branch
    for guess in session.run(request, path):
        assert 0 <= guess.confidence <= 1
        survival *= guess.confidence
        assert survival >= max(stop, LEAST)
        assert guess == session.propose(path)
        path.append(guess.token)
    assert len(path) <= len(branch) + most


def test_only_what_the_target_wrote_is_counted() -> None:
    period = [1, 2, 3, 4] * 7
    as_prompt = asked(1, period, prompt_length=28)
    as_text = asked(1, period, prompt_length=4)
    said = []
    for one in (as_prompt, as_text):
        session = SessionLookup(one)
        session.follow(one)
        guess = session.propose(())
        assert guess is not None
        assert guess.token == 1
        said.append(guess.confidence)
    assert said[0] < said[1]


def test_what_is_predicted_is_found_from_the_first_token_on() -> None:
    prompt = (5, 6, 7)
    prediction = (1, 2, 3, 4)
    request = asked(1, prompt, prompt_length=3, most=4, prediction=prediction)
    (drafted,) = PromptLookupDrafter(max_context=100).draft([request])
    assert drafted is not None
    assert tuple(one.token for one in drafted) == prediction[: len(drafted)]
    assert drafted


def test_a_prediction_does_not_count_as_what_the_target_wrote() -> None:
    """It is no evidence of how often lookups are right."""
    request = asked(1, (5, 6, 7), prompt_length=3, prediction=(1, 2) * 20)
    session, found = SessionLookup(request), Match(1, 2, Support.ALL)
    session.follow(request)
    assert session._record.confidence(found) == LookupRecord(0.0).confidence(found)
