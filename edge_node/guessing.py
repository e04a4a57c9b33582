"""From a row of the draft's logits to a guess."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_node.drafts import Guess
from flexspec_mq.sampling.choose import choose

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from flexspec_mq.sampling.params import SamplingParams

    GuessOf = Callable[[npt.NDArray[np.float32], SamplingParams, int], Guess]


def plain_guess(logits: npt.NDArray[np.float32], params: SamplingParams, position: int) -> Guess:
    """The draft's choice, as likely as the draft itself finds it at temperature 1.

    Args:
        logits: float32 of shape [vocabulary].
        params: the session's.
        position: index of the token in prompt + text.
    """
    token = choose(logits, params, position)
    return Guess(token, float(1.0 / np.exp(logits - logits[token]).sum()))
