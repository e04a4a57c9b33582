"""Acceptance: which tokens a forward decides. A pure function."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def decide(chosen: Iterable[int], draft: Sequence[int], eos: Sequence[int]) -> tuple[int, ...]:
    """Decide tokens with the target's choices; a draft token is accepted iff the target chose it too.

    Choice i follows the prefix and the first i draft tokens, so it counts only while those equal the target's own
    choices: the first difference is the correction and ends the verdict, and so does an end-of-text id. With every
    draft token accepted, the last choice gives one token more.

    Args:
        chosen: the target's choices, one more than `draft` has; those that do not count are not asked for.
        draft: drafted tokens.
        eos: ids that end the text; empty when the session ignores them.

    Returns:
        1 to ``len(draft) + 1`` tokens.
    """
    decided: list[int] = []
    for token, drafted in zip(chosen, [*draft, None], strict=False):
        decided.append(token)
        if token != drafted or token in eos:
            break
    return tuple(decided)
