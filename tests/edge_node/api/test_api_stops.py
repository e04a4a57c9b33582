"""Stop strings: nothing of one is shown, whatever pieces the text comes in."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge_node.completion.decoding import StopFilter

TEXT = st.text("abc\n", max_size=30)
STOPS = st.lists(st.text("abc\n", min_size=1, max_size=5), max_size=4)


def through(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """What is shown of a text in pieces, and whether a stop string ended it."""
    stop = StopFilter(stops)
    shown = "".join(stop.push(piece) for piece in pieces)
    return shown + ("" if stop.hit else stop.finish()), stop.hit


def first_complete(stops: list[str], text: str) -> tuple[str, bool]:
    """The rule, by looking at every prefix."""
    for end in range(1, len(text) + 1):
        ending = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: min(ending)], True
    return text, False


@given(TEXT, STOPS, st.lists(st.integers(0, 30)))
def test_the_pieces_do_not_matter(text: str, stops: list[str], cuts: list[int]) -> None:
    borders = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in pairwise(borders)]
    # Cut to single characters the filter sees every prefix; larger pieces must show the same.
    assert through(stops, list(text)) == first_complete(stops, text)
    assert through(stops, pieces) == first_complete(stops, text)


@given(TEXT, STOPS)
def test_nothing_is_held_back_that_cannot_become_a_stop(text: str, stops: list[str]) -> None:
    stop = StopFilter(stops)
    shown = stop.push(text)
    if not stop.hit:
        held = text[len(shown) :]
        assert not held or any(one.startswith(held) for one in stops)
        assert len(held) < max((len(one) for one in stops), default=1)
