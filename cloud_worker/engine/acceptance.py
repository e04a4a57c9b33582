"""Acceptance: which tokens a forward decides. A pure function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.sampling.choose import choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from flexspec_mq.sampling.noise import Words
    from flexspec_mq.sampling.params import SamplingParams


def decide(
    logits: npt.NDArray[np.float32],
    draft: Sequence[int],
    params: SamplingParams,
    position: int,
    eos: Sequence[int],
    drawn: Words | None = None,
) -> tuple[int, ...]:
    """Decide tokens with the target's logits; a draft token is accepted iff the target chose it too.

    Row i of `logits` follows the prefix and the first i draft tokens, so it counts only while those equal the
    target's own choices: the first difference is the correction and ends the verdict, and so does an
    end-of-text id. With every draft token accepted, the last row gives one token more.

    Args:
        logits: float32 of shape [len(draft) + 1, vocabulary].
        draft: drafted tokens for `position` on.
        params: the session's.
        position: Position of the first token to decide, in prompt + text.
        eos: ids that end the text; empty when the session ignores them.
        drawn: noise of the first position, if it has been drawn already.

    Returns:
        1 to ``len(draft) + 1`` tokens.
    """
    decided: list[int] = []
    for row, drafted in zip(logits, [*draft, None], strict=True):
        token = choose(row, params, position + len(decided), None if decided else drawn)
        decided.append(token)
        if token != drafted or token in eos:
            break
    return tuple(decided)
