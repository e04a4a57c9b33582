"""Where in a recorded text a draft can be right, and at what price."""

from __future__ import annotations

from enum import Enum
from functools import lru_cache

from flexspec_mq.drafting.prompt_lookup import Lookup
from lab.simulator.recording import RecordedText

_AHEAD = 64
"""Tokens of a draft that are looked up at most, behind what is decided."""


class Match(Enum):
    """Who can be right about a position of a text, given all before it."""

    NOBODY = "nobody"
    MODEL = "the draft model"
    LOOKUP = "a lookup in prompt and text, which takes no time; the model may be right as well"


@lru_cache(maxsize=512)
def matches(text: RecordedText) -> tuple[Match, ...]:
    """Of each position of a text.

    A lookup counts wherever any pending draft, from whatever has been decided, would find the right token.
    """
    found = [
        Match.MODEL if text.proposal(place).token == token else Match.NOBODY
        for place, token in enumerate(text.tokens)
    ]
    lookup = Lookup()
    lookup.extend(text.prompt)
    for decided, token in enumerate(text.tokens):
        for place in range(decided, min(decided + _AHEAD, len(found))):
            if found[place] is not Match.LOOKUP:
                next_ = lookup.find(text.tokens[decided:place])
                if next_ is not None and next_.token == text.tokens[place]:
                    found[place] = Match.LOOKUP
            if found[place] is Match.NOBODY:
                break
        lookup.extend((token,))
    return tuple(found)
