"""A message is taken once, in any order within the window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from flexspec_mq.keys.replays import WIDTH, ReplayWindow


@given(st.lists(st.integers(0, 3 * WIDTH) | st.integers(0, 40), max_size=200))
def test_it_takes_what_a_set_of_the_newest_would(counters: list[int]) -> None:
    window, taken = ReplayWindow(), set[int]()
    for counter in counters:
        late = bool(taken) and counter <= max(taken) - WIDTH
        if counter in taken or late:
            with pytest.raises(KeysRefused) as refused:
                window.take(counter)
            assert refused.value.reason is KeyReason.REPLAYED
        else:
            window.take(counter)
            taken.add(counter)


def test_the_edge_of_the_window() -> None:
    window = ReplayWindow()
    window.take(WIDTH)
    window.take(1)
    with pytest.raises(KeysRefused, match="again"):
        window.take(0)
    window.take(2**32 - 1)
    with pytest.raises(KeysRefused):
        window.take(WIDTH)
