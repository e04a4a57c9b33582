"""Confidence of a draft's proposal and a lookup's when both are known: each is a witness about the other.

Logistic regressions of what the target took, on the log-odds of both confidences. Measured on 27,248 tokens of held-out
text that SmolLM2-135M-Instruct wrote at temperatures 0, 0.7 and 1, with an earlier draft of 10 + 4 layers, calibrated
before it knew its accepted run, and the lookup's prior: 73 % of the tokens had a lookup, and the two agreed on half of
these. Where they agree they are surer than either (mean log loss 0.218 against 0.225 for the larger of the two, on a
quarter of the texts that was left out), where they differ less sure than each (0.61 against 0.66 for the draft, 0.37
against 0.47 for the lookup). Half of those texts are 21 rows taken five times, with other dice, so the quarter is not
independent of the rest. Fitted anew to a later draft that knows its accepted run (12,617 greedy tokens, each half of
the texts judged by weights of the other), they were no better: log loss 0.380 for 0.381, and 0.868 for 0.871 accepted
of drafted at 2.2 tokens a round.
"""

from __future__ import annotations

import math

from flexspec_mq.drafting.interface import DraftToken

_LEAST = 1e-4
_AGREE = (0.541, 0.787, 0.437)
_DRAFT_ALONE = (-0.499, 0.754, -0.297)
_LOOKUP_ALONE = (-1.335, -0.279, 0.909)
"""A constant, per log-odds of the draft's confidence, per log-odds of the lookup's."""


def better(draft: DraftToken, lookup: DraftToken | None) -> DraftToken:
    """The proposal that the target rather takes, with what both know of it. It is the draft's where they agree."""
    if lookup is None:
        return draft
    if draft.token == lookup.token:
        return DraftToken(draft.token, _weigh(_AGREE, draft, lookup), draft.origin)
    mine, theirs = _weigh(_DRAFT_ALONE, draft, lookup), _weigh(_LOOKUP_ALONE, draft, lookup)
    if mine >= theirs:
        return DraftToken(draft.token, mine, draft.origin)
    return DraftToken(lookup.token, theirs, lookup.origin)


def _weigh(weights: tuple[float, float, float], draft: DraftToken, lookup: DraftToken) -> float:
    constant, by_draft, by_lookup = weights
    score = constant + by_draft * log_odds(draft.confidence) + by_lookup * log_odds(lookup.confidence)
    return 1.0 / (1.0 + math.exp(-score))


def log_odds(probability: float) -> float:
    """Log odds of a probability, kept from 0 and 1."""
    within = min(max(probability, _LEAST), 1 - _LEAST)
    return math.log(within / (1 - within))
