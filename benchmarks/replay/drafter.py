"""A drafter that answers from a recording, at a device's pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from benchmarks.replay.recording import RecordedText, Recording
from flexspec_mq.drafting.interface import Drafted, DraftRequest


class ReplayDrafter:
    """A `Drafter` over recorded texts. It gives one token at a time, as a model does.

    Args:
        recording: with every text that it is asked for.
        spend: has the time of a forward pass, told how many sessions share it.
    """

    def __init__(self, recording: Recording, spend: Callable[[int], None]) -> None:
        self._texts = by_seed(recording)
        self._longest = recording.max_context
        self._spend = spend

    @classmethod
    def on_device(cls, recording: Recording, ms: float) -> ReplayDrafter:
        """One whose forwards take so many milliseconds of the clock, and none of the processor's."""
        return cls(recording, lambda sessions: time.sleep(ms / 1000) if sessions else None)

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return len(context) < self._longest

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """The recorded token for each."""
        self._spend(len(wanted))
        return [
            (self._texts[one.identity.seed, one.identity.temperature].proposal(place_of(one)),)
            for one in wanted
        ]

    def free(self, session: int) -> None:
        """There is nothing to forget."""


def place_of(one: DraftRequest) -> int:
    """Position of the wanted token, in generated tokens."""
    return len(one.context) - one.prompt_length


def by_seed(recording: Recording) -> dict[tuple[int, float], RecordedText]:
    """The texts, by seed and temperature."""
    return {(text.seed, text.temperature): text for text in recording.texts}
