"""Noise that is drawn while the forward runs.

Which noise the first token of an item needs is known before its logits are: it depends on seed and position alone.
Drawing it is most of what sampling costs. It runs beside the forward, on another core where there is one.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from flexspec_mq.sampling.noise import words

if TYPE_CHECKING:
    from flexspec_mq.sampling.noise import Words
    from flexspec_mq.sampling.params import SamplingParams


class NoisePrefetch:
    """Draws noise on a thread of its own.

    Args:
        vocab_size: how many token ids.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._thread = ThreadPoolExecutor(1, "noise")

    def draw(self, params: SamplingParams, position: int) -> Future[Words] | None:
        """Begin to draw for the token at `position`; None where none is needed."""
        if params.temperature == 0.0:
            return None
        return self._thread.submit(words, params.seed, position, self._vocab_size)
