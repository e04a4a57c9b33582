"""The model runner: tokens in, logits out. What is fed, and what follows from the logits, others decide."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from flexspec_mq.models.packed import ModelInput, PackedModel, to_numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt


class ModelRunner:
    """Runs forwards over many sessions.

    Args:
        model: the target.
    """

    def __init__(self, model: PackedModel) -> None:
        self._model = model

    def run(self, feeds: Sequence[ModelInput]) -> list[npt.NDArray[np.float32]]:
        """Run one forward; the keys and values of each feed then hold its tokens.

        Args:
            feeds: at most one per session, with room for its tokens.

        Returns:
            For each feed, float32 logits of shape [its rows, vocabulary].
        """
        logits = to_numpy(self._model.forward(feeds))
        ends = [0]
        for feed in feeds:
            ends.append(ends[-1] + feed.rows)
        return [logits[begin:end] for begin, end in pairwise(ends)]
