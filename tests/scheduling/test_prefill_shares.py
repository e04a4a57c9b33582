"""Whose prompts are read first, and that nobody waits for ever."""

from __future__ import annotations

import pytest

from flexspec_mq.scheduling.prefill_shares import PrefillShares

STEP = 0.1
"""Seconds of a forward."""


@pytest.mark.parametrize("unread", [100, 400, 1500])
def test_a_prompt_is_read_however_many_devices_keep_beginning(unread: int) -> None:
    shares = PrefillShares(128, None)
    forwards = 0
    while unread > 0:
        now = forwards * STEP
        newcomers = {(f"{forwards}-{number}", 1): 90 for number in range(12)}
        wanted = {("one", 1): unread} | newcomers  # the one waits longest
        found = shares.allot(wanted, {("writer", 1): 1}, now=now, away=0.0, turn=forwards)
        for (edge, _), tokens in found.items():
            shares.usage.add(edge, tokens, now)
        unread -= found.get(("one", 1), 0)
        forwards += 1
        assert forwards * STEP < 60


def test_one_with_much_read_waits_behind_those_with_little() -> None:
    shares = PrefillShares(16, None)
    shares.usage.add("much", 300, 0.0)
    shares.usage.add("little", 200, 0.0)
    wanted = {("much", 1): 90, ("little", 1): 90}
    found = shares.allot(wanted, {("writer", 1): 1}, now=0.0, away=0.0, turn=1)
    assert found == {("little", 1): 16}
