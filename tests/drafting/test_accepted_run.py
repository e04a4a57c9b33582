"""A drafter knows how long it has been right, whatever became of its guesses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.drafting.model_drafter import AcceptedRun

TOKENS = st.integers(0, 2)


def common(one: list[int], other: list[int]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


def expected(context: list[int], guesses: dict[tuple[int, ...], int]) -> int:
    """Of guesses by the text that they were made after."""
    length = 0
    for place, token in enumerate(context):
        guess = guesses.get(tuple(context[:place]))
        if guess is not None:
            length = length + 1 if guess == token else 0
    return length


@given(text=st.lists(TOKENS, min_size=1, max_size=40), data=st.data())
def test_a_streak_is_that_of_the_guesses_made_after_this_very_text(
    text: list[int], data: st.DataObject
) -> None:
    streak, guesses, read = AcceptedRun(), dict[tuple[int, ...], int](), list[int]()
    committed = 1
    while committed < len(text):
        branch: list[int] = []
        for by_lookup in data.draw(st.lists(st.booleans(), max_size=5)):
            context = text[:committed] + branch
            token = data.draw(TOKENS)
            if not by_lookup:
                streak.keep(common(read, context[:-1]))
                read = context
                assert streak.length(context, committed) == expected(context, guesses)
                streak.proposed(len(context), token)
                guesses[tuple(context)] = token
                if data.draw(st.booleans()):
                    token = data.draw(TOKENS)  # a lookup was surer
            branch.append(token)
        right = common(branch, text[committed:])
        committed += right + 1


def test_what_nobody_guessed_neither_adds_nor_ends() -> None:
    streak = AcceptedRun()
    assert streak.length([7, 8], 2) == 0
    streak.proposed(2, 9)
    assert streak.length([7, 8, 9], 2) == 1
    assert streak.length([7, 8, 9, 5, 6], 5) == 1
    streak.proposed(5, 1)
    assert streak.length([7, 8, 9, 5, 6, 1], 5) == 2
    assert streak.length([7, 8, 9, 5, 6, 2], 6) == 0
    streak.proposed(6, 3)
    streak.keep(5)  # a rejection before it
    assert streak.length([7, 8, 9, 5, 6, 2, 4], 7) == 0
