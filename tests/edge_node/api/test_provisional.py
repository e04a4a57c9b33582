"""Provisional text behind confirmed text, as readers follow it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from hypothesis import given
from hypothesis import strategies as st

from edge_node.completion.completion import Completion, End, EndReason, Part
from edge_node.completion.options import CompletionOptions

Step = tuple[str, str]
"""An event of a text: it is confirmed (``add``), drafted (``unverified``), or its reader looks (``read``)."""
WORDS = st.text("ab", max_size=5)
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "unverified", "read"]), WORDS).filter(lambda step: step != ("add", "")),
    max_size=30,
)


def new() -> Completion:
    return Completion("x", CompletionOptions(offline="provisional"))


def take(text: Completion, step: Step) -> None:
    """Let a step happen."""
    what, word = step
    if what == "add":
        text.add([(word, "target")])
    elif what == "unverified":
        text.unverified(word)


async def followed(steps: Sequence[Step], reason: EndReason) -> tuple[Completion, list[Part]]:
    """A text, and what a reader that looks now and then was told of it."""
    text, parts = new(), list[Part]()
    reading = text.read(patience=60)
    assert isinstance(reading, AsyncGenerator)
    news = asyncio.ensure_future(anext(reading))
    for step in steps:
        take(text, step)
        if step[0] == "read":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if news.done():
            parts.append(news.result())
            news = asyncio.ensure_future(anext(reading))
    text.finish(End(reason))
    parts.append(await news)
    parts += [part async for part in reading]
    return text, parts


@given(STEPS, st.sampled_from(["stop", "provisional"]))
def test_a_reader_has_both_strings_of_the_same_moment_whenever_it_looks(
    steps: list[Step], reason: EndReason
) -> None:
    text, parts = asyncio.run(followed([*steps, ("add", "!"), ("unverified", "ab")], reason))
    moments = {("", "")}
    again = new()
    for step in [*steps, ("add", "!"), ("unverified", "ab")]:
        take(again, step)
        moments.add((again.whole, again.provisional))
    confirmed = ""
    for part in parts[:-1]:
        confirmed += part.text
        assert (confirmed, part.provisional) in moments
    assert confirmed + parts[-1].text == text.whole == again.whole
    assert parts[-1].provisional == text.provisional == ("ab" if reason == "provisional" else "")


@given(st.text("ab", max_size=8), st.text("ab", min_size=1, max_size=8))
def test_confirmed_text_eats_what_agrees_and_removes_what_does_not(drafted: str, confirmed: str) -> None:
    text = new()
    text.unverified(drafted)
    text.add([(confirmed, "target")])
    if drafted.startswith(confirmed):
        assert confirmed + text.provisional == drafted
    else:
        assert not text.provisional
    text.finish(End("stop"))
    assert not text.provisional
    text.unverified("late")
    assert not text.provisional
